"""Documents and pictures for the report: the usual ones, and those that its layout must bear."""

import json
from typing import Any

import numpy as np
from paths import DATA
from PIL import Image

from tokfilter.runtime.pictures import BudgetResult, Picture

LONG = "tabby, tabby cat, and eleven other synonyms that one data set puts into a single class name"
UNBROKEN = "electric_ray_crampfish_numbfish_torpedo_" * 4
HOSTILE = '<script>$x_1$</script> & "it\'s"'


def document(name: str, **changes: Any) -> dict[str, Any]:
    """tests/data/NAME.json with some keys changed."""
    return {**json.loads((DATA / f"{name}.json").read_text()), **changes}


def one_row() -> tuple[Any, Any]:
    """Accuracy and speed of a single budget, without the full model."""
    accuracy, bench = document("accuracy"), document("bench")
    tested = [row for row in accuracy["rows"] if row["method"] == "filter"][:1]
    return {**accuracy, "rows": tested}, {**bench, "rows": [r for r in bench["rows"] if r["role"] == "filtered"][:1]}


def wide_intervals() -> dict[str, Any]:
    """Speed with intervals to 45 and with a 99th percentile of two seconds, as on a busy machine."""
    bench = document("bench")
    for row in bench["rows"]:
        if row["speedup"] and row["batch"] == 1 and row["tokens"] < 100:
            row["speedup"] |= {"low": 0.7, "high": 45.0}
        if row["tokens"] == 72:
            row["latency_ms"]["p99"] = 2000.0
    return bench


def many_rows() -> tuple[dict[str, Any], dict[str, Any]]:
    """12 methods with long names and 5 seeds; 12 batch sizes with warnings and the power of 3 rails."""
    accuracy, bench = wide(document("accuracy")), wide_intervals()
    power = {"joules_per_image": dict.fromkeys(("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), 0.0123)}
    rows = [row for row in bench["rows"] if row["batch"] == 1 and row["tokens"] in (36, 72, 144)]
    bench["rows"] = [
        {**row, "batch": batch, "warnings": ["cv 31 % of the rounds"], "power": power}
        for batch in (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128)
        for row in rows
    ]
    return accuracy, bench


def wide(accuracy: dict[str, Any]) -> dict[str, Any]:
    known = [row for row in accuracy["rows"] if row["method"] not in ("full", "filter")]
    names = [HOSTILE, UNBROKEN, LONG, *(f"method {i} of a paper" for i in range(4))]
    some = [row for row in known if row["method"] == "random"]
    more = [{**row, "method": name, "mean": row["mean"] - 0.001} for name in names for row in some]
    rates = {"onnx": 123.4, "torch": 98.7}
    rows = [{**row, "top1": row["top1"][:1] * 5, "images_per_s": rates} for row in (*accuracy["rows"], *more)]
    return {**accuracy, "rows": rows}


def picture(light: float = 1.0, truth: str | None = LONG, guess: str = LONG, seed: int = 0) -> Picture:
    """A picture like a photograph, of 14 x 14 patches.

    light: factor of its brightness
    guess: predicted class at few tokens
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:224, 0:224]
    waves = [120 + 80 * np.sin(x / 30), 110 + 70 * np.cos(y / 25), 90 + 60 * np.sin((x + y) / 40)]
    pixels = light * (np.stack(waves, axis=-1) + rng.normal(0, 12, (224, 224, 3)))
    row, column = np.divmod(np.arange(196), 14)
    scores = (-((row - 6) ** 2) - (column - 7) ** 2 + rng.normal(0, 8, 196)).astype(np.float32)
    order = np.argsort(-scores).tolist()
    choices = [BudgetResult(196, truth or guess, 0.99)]
    choices += [
        BudgetResult(k, said, 0.7, tuple(sorted(order[:k])))
        for k, said in ((98, truth or guess), (49, guess), (20, guess))
    ]
    return Picture(Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), (14, 14), choices, truth, scores)
