"""Headline of the report, and its limits."""

import json
import re

import pytest
from paths import DATA

from tokfilter.benchmarks.report.limits import device_from_bench, limits_from_report
from tokfilter.benchmarks.report.render import render_report, report_from_documents
from tokfilter.benchmarks.report.summary import combined_rows, summary_from_documents


def document(name, **changes):
    return {**json.loads((DATA / f"{name}.json").read_text()), **changes}


def rows_of(name, selected):
    """The sample document with those of its rows for which ``selected(row)`` is true."""
    sample = document(name)
    return {**sample, "rows": [row for row in sample["rows"] if selected(row)]}


def summary(accuracy, bench=None, max_drop=0.01):
    return summary_from_documents(accuracy, bench, max_drop)


def timed(*budgets, batch=1):
    return rows_of("bench", lambda row: row["batch"] == batch and row["tokens"] in (144, *budgets))


def accuracy_with(**top1):
    """A document with these means of top-1: full={144: 0.9}, filter={36: 0.8, ...}."""
    sample = document("accuracy")
    rows = [
        {**sample["rows"][0], "method": method, "tokens": k, "keep": k / 144, "macs": k, "mean": mean}
        for method, points in top1.items()
        for k, mean in points.items()
    ]
    return {**sample, "rows": rows}


def test_headline_has_the_smallest_budget_within_the_allowed_loss():
    sample = accuracy_with(
        full={144: 0.90}, filter={100: 0.91, 72: 0.895, 36: 0.89, 14: 0.85}, random={36: 0.5, 72: 0.8}, norm={36: 0.6}
    )
    found = summary(sample)["accuracy"]
    assert (found["tokens"], found["within"]) == (36, True)
    assert found["change"] == pytest.approx(-0.01)
    assert found["macs_ratio"] == 4.0
    assert [baseline["method"] for baseline in found["baselines"]] == ["norm", "random"]
    assert found["baselines"][0]["behind"] == pytest.approx(0.29)
    assert summary(sample, max_drop=0.0)["accuracy"]["tokens"] == 100
    assert summary(sample, max_drop=0.05)["accuracy"]["tokens"] == 14


def test_headline_has_the_nearest_budget_where_none_is_within_the_loss(tmp_path):
    sample = accuracy_with(full={144: 0.90}, filter={72: 0.8, 36: 0.6})
    found = summary(sample)["accuracy"]
    assert (found["tokens"], found["within"]) == (72, False)
    assert "No tested budget stays within" in page(tmp_path, sample)


def page(directory, accuracy=None, bench=None):
    render_report(accuracy, bench, [], directory / "report.html")
    return " ".join((directory / "report.html").read_text().split())


def test_page_lists_better_baselines(tmp_path):
    sample = accuracy_with(full={144: 0.9}, filter={72: 0.85, 36: 0.8}, tome={72: 0.87, 36: 0.7}, norm={72: 0.86})
    for row in sample["rows"]:
        row["low"], row["high"] = row["mean"] - 0.0075, row["mean"] + 0.0075
    found = summary(sample)["losses"]
    assert [(loss["method"], loss["tokens"], loss["intervals_apart"]) for loss in found] == [
        ("tome", 72, True),
        ("norm", 72, False),
    ]
    assert found[0]["ahead"] == pytest.approx(0.02)
    text = re.sub("<[^>]+>", "", page(tmp_path, sample))
    assert "token merging is 2 points better at 72 tokens." in text
    assert "largest norm is 1 point better at 72 tokens; the intervals overlap." in text


def test_page_without_better_baselines(tmp_path):
    sample = accuracy_with(full={144: 0.9}, filter={72: 0.85}, norm={72: 0.8})
    assert summary(sample)["losses"] == []
    assert "At no tested budget" in page(tmp_path, sample)
    alone = page(tmp_path, accuracy_with(full={144: 0.9}, filter={72: 0.85}))
    assert "Where a baseline is better" not in alone


def test_ablations_and_rates_of_a_study_are_shown(tmp_path):
    sample = accuracy_with(full={144: 0.9}, filter={72: 0.85, 36: 0.8})
    changed = [{**row, "method": "no fine-tuning", "mean": 0.5} for row in sample["rows"][:2]]
    sample["rows"][1]["images_per_s"] = {"torch": 123.0, "onnxruntime": 456.0}
    longer = [{**row, "method": "longer: filter", "mean": 0.7} for row in sample["rows"][:2]]
    text = re.sub("<[^>]+>", " ", page(tmp_path, {**sample, "longer": longer, "ablations": changed}))
    assert re.search(r"no fine-tuning\s+50.0", text) and re.search(r"longer: filter\s+70.0", text)
    assert text.index("Fine-tuned for longer") < text.index("Ablations of the filter")
    assert "123" in text and "456" in text and "images per second, onnxruntime" in text


def test_headline_prefers_a_timed_budget():
    found = summary(accuracy_with(full={144: 0.90}, filter={72: 0.9, 36: 0.9, 20: 0.9}), timed(72, 36))
    assert found["accuracy"]["tokens"] == found["speed"]["tokens"] == 36


def test_no_loss_without_a_full_model():
    assert summary(accuracy_with(filter={36: 0.9}))["accuracy"] is None
    assert summary(accuracy_with(full={144: 0.9}))["accuracy"] is None


def test_different_models_are_not_combined(tmp_path):
    bench = document("bench")
    bench["model"] = {**bench["model"], "patches": 196}
    found = summary(document("accuracy"), bench)
    assert found["same_model"] is False and found["combined"] == []
    text = page(tmp_path, document("accuracy"), bench)
    assert "different models" in text
    assert "Accuracy against latency" not in text


def test_headline_of_a_benchmark_alone_is_the_budget_nearest_to_half():
    assert summary(None, document("bench"))["speed"]["tokens"] == 72
    assert summary(None, timed())["speed"] is None


@pytest.mark.parametrize(
    ("interval", "verdict", "words"),
    [
        ((1.5, 1.4, 1.6), "faster", ">1.50×</data> as fast"),
        ((1.02, 0.99, 1.05), "alike", "No measurable speed-up"),
        ((0.8, 0.75, 0.85), "slower", ">0.80×</data> the speed"),
    ],
)
def test_verdict_requires_the_whole_interval_on_one_side(tmp_path, interval, verdict, words):
    bench = timed(72)
    bench["rows"][1]["speedup"] = dict(zip(("value", "low", "high"), interval, strict=True))
    assert [gain["verdict"] for gain in summary(None, bench)["speed"]["gains"]] == [verdict]
    assert words in page(tmp_path, None, bench)


def test_warnings_are_at_the_top_of_the_page(tmp_path):
    bench = document("bench")
    assert "Unstable measurement" not in page(tmp_path, None, bench)
    for place, cv in ((1, "7.1%"), (2, "9.9%")):
        bench["rows"][place]["warnings"] = [f"unstable: coefficient of variation {cv} is above 2.5%"]
    text = page(tmp_path, None, bench)
    assert text.index("Unstable measurement") < text.index('id="speed"')
    assert "variation 7.1% is above 2.5% (and 1 similar)" in text
    assert summary(None, bench)["speed"]["warned"] == 2


def test_combined_rows_join_budgets_of_both():
    accuracy = accuracy_with(full={144: 0.9}, filter={72: 0.8, 50: 0.7}, random={36: 0.1})
    rows = combined_rows(accuracy, timed(72, 50, 36))
    assert [(row["role"], row["tokens"], row["mean"]) for row in rows] == [
        ("full", 144, 0.9), ("filtered", 72, 0.8), ("filtered", 50, 0.7)
    ]  # fmt: skip


def limits(accuracy=None, bench=None):
    return " ".join(limits_from_report(report_from_documents(accuracy, bench, [])))


def test_limits_follow_from_the_documents():
    bench = document("bench")
    assert "Measured on a CPU" in limits(bench=bench)
    assert "governor" in limits(bench=bench)
    on_gpu = {
        **bench,
        "machine": {**bench["machine"], "gpus": [{"name": "Orin"}], "governor": "performance"},
        "settings": {**bench["settings"], "engine": "tensorrt", "provider": None},
    }
    assert "Measured on a CPU" not in limits(bench=on_gpu) and "governor" not in limits(bench=on_gpu)
    assert "throttled" not in limits(bench=on_gpu)
    on_gpu["conditions"]["after"] = {**on_gpu["conditions"]["after"], "throttled": True}
    assert "throttled" in limits(bench=on_gpu)


def test_device_is_the_one_that_ran_the_model():
    bench = document("bench")
    bench["machine"]["gpus"] = [{"name": "Orin"}]
    assert device_from_bench(bench) == bench["machine"]["cpu"]
    for change in ({"engine": "tensorrt", "provider": None}, {"provider": "cuda"}):
        assert device_from_bench({**bench, "settings": {**bench["settings"], **change}}) == "Orin"
    for change in ({"engine": "openvino", "provider": None}, {"engine": "torch", "provider": "cpu"}):
        assert device_from_bench({**bench, "settings": {**bench["settings"], **change}}) == bench["machine"]["cpu"]


def test_a_single_seed_is_a_limit():
    sample = document("accuracy")
    assert "One model" not in limits(sample)
    sample["rows"] = [{**row, "top1": row["top1"][:1]} for row in sample["rows"]]
    assert "One model was measured" in limits(sample)
