"""The tables of reducers: what is at equal latency, what cannot be reached, and what is not measured."""

import pytest

from tokfilter.benchmarks.records.reducer_tables import cost_table, equal_latency_table, reducer_table, top1_at_latency

ENGINES = ("torch", "onnxruntime", "openvino")


def row(method, tokens, macs, top1, rate=None, **more):
    rates = {"images_per_s": dict.fromkeys(ENGINES, rate)} if rate else {}
    speedup = {"speedup": {name: {"value": rate / 100} for name in ENGINES}} if rate else {}
    return {"method": method, "tokens": tokens, "macs": macs, "top1": top1, **rates, **speedup, **more}


@pytest.fixture
def document():
    return {
        "created": "2026-11-27T00:00:00Z", "command": "study WORK --reducers", "versions": {"torch": "2", "numpy": "2"},
        "machine": {"cpu": "CPU", "cores": 2, "gpus": []},
        "data": {"name": "pictures"},
        "settings": {"interval": "Student's t over 2 seeds", "speed": {"batch": 32, "threads": 1}},
        "rows": [
            row("full", 64, 1000, [0.9, 0.9], 100.0),
            row("filter", 32, 500, [0.8, 0.82], 180.0),
            row("filter", 9, 200, [0.7, 0.7], 400.0),
            row("random", 32, 490, [0.5, 0.5]),
            row("evit", 32, 510, [0.85, 0.85], 150.0, budget=22),
        ],
        "curve": [
            row("evit", 64, 1000, [0.9, 0.9], 100.0),
            row("evit", 22, 510, [0.85, 0.85], 150.0),
            row("evit", 8, 400, [0.75, 0.77], 200.0),
        ],
        "absent": [{"method": "evit", "tokens": 9, "reason": "costs more"}],
    }  # fmt: skip


def test_between_two_budgets_the_line_is_straight_in_latency(document):
    curve = document["curve"]
    assert top1_at_latency(curve, "torch", 1.5) == [0.85, 0.85]
    part = (1 / 180 - 1 / 200) / (1 / 150 - 1 / 200)
    assert top1_at_latency(curve, "torch", 1.8) == pytest.approx([0.75 + part * 0.1, 0.77 + part * 0.08])
    assert top1_at_latency(curve, "torch", 0.5) == [0.9, 0.9]  # slower than every token: nothing better is known
    assert top1_at_latency(curve, "torch", 4.0) is None
    assert top1_at_latency(curve, "tensorrt", 1.0) is None


def test_of_budgets_out_of_order_the_largest_that_is_not_slower_counts():
    curve = [row("idle", k, k, [k / 10], rate) for k, rate in ((1, 100.0), (2, 90.0), (3, 100.0), (4, 80.0))]
    assert top1_at_latency(curve, "torch", 1.0) == [0.3]


def test_every_reducer_has_its_cost_and_efficiency(document):
    lines = reducer_table(document).splitlines()
    assert lines[2].split(" | ")[:5] == ["| 64", "every token", "64", "90.0 (90.0 to 90.0)", "0.00"]
    (evit,) = [text for text in lines if "| EViT |" in text]
    assert "| 22 | 85.0 (85.0 to 85.0) |" in evit and evit.endswith("| 150 | 150 | 150 | 0.77 | 0.77 | 0.77 |")
    assert "random" not in "".join(lines)
    assert "even the smallest budget costs more: EViT at 9." in lines[-1]


def test_at_equal_latency_each_engine_has_all_reducers(document):
    lines = equal_latency_table(document).splitlines()
    assert lines[2] == "| PyTorch | latency of the filter | 177.8 ms | 80.0 ms |"
    assert lines[3].startswith("|  | **token filter** | 81.0 (") and lines[4].startswith("|  | EViT | 79.")
    assert lines[4].endswith("| – |")
    assert [text.split(" | ")[0] for text in lines[5::3][:2]] == ["| ONNX Runtime", "| OpenVINO"]


def test_without_rates_the_tables_say_so(document):
    for part in ("rows", "curve"):
        for found in document[part]:
            found.pop("images_per_s", None), found.pop("speedup", None)
    del document["settings"]["speed"]
    assert equal_latency_table(document) == "Images per second are not measured yet."
    text = reducer_table(document)
    assert "Images per second are not measured yet." in text and "images/s" not in text


def cost_row(runtime, method, tokens, macs, speedup):
    interval = {"low": speedup - 0.1, "value": speedup, "high": speedup + 0.1}
    return {"runtime": runtime, "method": method, "tokens": tokens, "macs": macs, "images_per_s": 10 * speedup,
            "speedup": interval}  # fmt: skip


def test_costs_stand_beside_the_filter_of_the_same_multiply_accumulates(document):
    rows = [("full", 196, 4000, 1.0), ("filter", 137, 2000, 1.5), ("filter", 98, 1000, 4.0), ("tome", 150, 1010, 2.0)]
    document |= {
        "model": "deit", "rows": [cost_row("torch", *found) for found in rows],
        "settings": {"rounds": 9, "batch": 8, "threads": 1}, "absent": [{"method": "idle", "tokens": 98}],
    }  # fmt: skip
    lines = cost_table(document).splitlines()
    assert lines[2].startswith("| 196 | every token | 196 | 0.00 | 10.0 |")
    assert lines[3].startswith("| 137 | **token filter** | 137 |") and lines[3].endswith("| 0.75 (0.70 to 0.80) |")
    assert lines[4].startswith("| 98 | **token filter** | 98 |") and "| 1.00 (" in lines[4]
    assert lines[5].startswith("| 98 | ToMe | 150 |") and lines[5].endswith("| 20.0 | 0.51 (0.48 to 0.53) |")
    assert "Not there: IdleViT." in lines[-1] and "Batch 8, 1 thread" in lines[-1]
