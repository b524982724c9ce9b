"""Tables of README and docs, from documents."""

import json

from paths import DATA

from tokfilter.benchmarks.accuracy_document import with_rates
from tokfilter.benchmarks.records.tables import ablation_table, accuracy_table, drop_table, longer_table

DOCUMENT = json.loads((DATA / "accuracy.json").read_text())


def cells(table):
    """First cell of a line -> its other cells."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]
    return {line[0]: line[1:] for line in lines}


def row_of(method, tokens):
    return next(row for row in DOCUMENT["rows"] if (row["method"], row["tokens"]) == (method, tokens))


def test_a_cell_for_each_method_and_budget_with_its_interval():
    table = cells(accuracy_table(DOCUMENT))
    budgets = [int(budget) for budget in table["tokens kept"]]
    assert budgets == sorted({row["tokens"] for row in DOCUMENT["rows"]}, reverse=True)
    row = row_of("filter", budgets[1])
    expected = f"{100 * row['mean']:.1f} ({100 * row['low']:.1f} to {100 * row['high']:.1f})"
    assert table["**token filter**"][1] == expected
    assert table["full model"][1:] == [""] * (len(budgets) - 1)
    assert table["multiply-accumulates (filter)"][1] == f"{row['macs'] / 1e6:.2f} M"


def test_provenance_of_a_table():
    text = accuracy_table(DOCUMENT)
    for fact in (DOCUMENT["command"], DOCUMENT["created"][:10], DOCUMENT["machine"]["cpu"]):
        assert fact in text
    assert DOCUMENT["settings"]["interval"] in text


def test_rates_are_added_to_timed_rows():
    found = [("filter", "torch", 12.6), ("filter", "onnxruntime", 99.2), ("norm", "torch", 7.0)]
    rows = [
        {"method": method, "tokens": 36, "runtime": runtime, "images_per_s": rate, "speedup": {"value": 1.0}}
        for method, runtime, rate in found
    ]
    timed = with_rates(DOCUMENT, {"settings": {}, "rows": rows})
    assert "images_per_s" not in DOCUMENT["rows"][0] and len(timed["rows"]) == len(DOCUMENT["rows"])
    rates = {row["method"]: row["images_per_s"] for row in timed["rows"] if "images_per_s" in row}
    assert rates == {"filter": {"torch": 12.6, "onnxruntime": 99.2}, "norm": {"torch": 7.0}}


def test_first_ablation_is_the_unchanged_filter():
    changed = [{**row_of("filter", 36), "method": name, "mean": mean} for name, mean in (("filter", 0.9), ("x", 0.5))]
    table = cells(ablation_table({**DOCUMENT, "ablations": changed}))
    assert list(table) == ["tokens kept", "---", "**token filter**", "x"]
    assert (table["**token filter**"], table["x"]) == (["90.0"], ["50.0"])


def test_rows_with_one_seed_have_no_interval():
    rows = [
        {**row_of("filter", 36), "method": name, "top1": top1, "mean": 0.9, "low": 0.8, "high": 0.95}
        for name, top1 in (("many", [0.89, 0.91]), ("one", [0.9]))
    ]
    table = cells(longer_table({**DOCUMENT, "longer": rows}))
    assert (table["many"], table["one"]) == (["90.0 (80.0 to 95.0)"], ["90.0"])


def test_drops_are_paired_by_seed_and_checkpoint():
    rows = [
        {**row_of("filter", 36), "method": method, "keep": keep, "tokens": tokens, "top1": top1, "macs": macs}
        for method, keep, tokens, top1, macs in (
            ("full", 1.0, 144, [0.9, 0.8], 100),
            ("filter", 0.25, 36, [0.88, 0.79], 25),
            ("random", 0.25, 36, [0.5, 0.5], 25),
            ("other", 1.0, 144, [0.7, 0.7], 100),
            ("other", 0.25, 36, [0.7, 0.69], 25),
        )
    ]
    settings = {**DOCUMENT["settings"], "full_before_fine_tuning": [0.91, 0.89]}
    document = {**DOCUMENT, "rows": rows, "settings": settings, "model": {**DOCUMENT["model"], "patches": 144}}
    text = drop_table(document)
    table = cells(text)
    half = 12.706 * 0.5  # Student's t with one degree of freedom; both drops are half a point from their mean
    assert table["**token filter**"] == [f"1.5 ({1.5 - half:.1f} to {1.5 + half:.1f})"]
    assert table["other"] == [f"0.5 ({0.5 - half:.1f} to {0.5 + half:.1f})"]
    assert "random tokens" not in table and "Before fine-tuning the full model had 90.0 %." in text
    assert table["MACs, fraction of the full model"] == ["0.25"]
