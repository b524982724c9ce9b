"""The HTML page of a report: context of the templates. No number is computed here."""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image

from tokfilter.benchmarks.documents import evaluated_images
from tokfilter.benchmarks.report.figures import METHODS, accuracy_plots, combined_plots, method_name, speed_plots
from tokfilter.benchmarks.report.limits import device_from_bench, limits_from_report
from tokfilter.benchmarks.report.numbers import Numbers, fact
from tokfilter.benchmarks.report.plots import CUT
from tokfilter.benchmarks.report.summary import FILTER, FULL
from tokfilter.runtime.pictures import BudgetResult, Picture, heat_picture, kept_picture, scale_from_size
from tokfilter.runtime.stage_pictures import stage_picture

__all__ = ["page_from_report"]

Report = Mapping[str, Any]


def page_from_report(report: Report, pictures: Sequence[Picture], json_name: str) -> str:
    """The page as self-contained HTML.

    pictures: those described in the report, in the same order
    json_name: file name of report.json, shown on the page
    """
    environment = _environment()
    context = _context(report, pictures, json_name)
    parts: Any = environment.get_template("parts.html.j2").make_module(context)
    context["headline"] = Markup(re.sub(r"[ \n]+", " ", str(parts.headline())).strip())
    return environment.get_template("report.html.j2").render(context)


def _environment() -> Environment:
    loader = PackageLoader("tokfilter.benchmarks.report", "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["merged"] = lambda first, *others: {k: v for part in (first, *others) for k, v in part.items()}
    environment.filters["code"] = lambda text: Markup(re.sub("`(.+?)`", r"<code>\1</code>", str(escape(text))))
    environment.globals["css"] = Markup(loader.get_source(environment, "report.css")[0])
    return environment


def _context(report: Report, pictures: Sequence[Picture], json_name: str) -> dict[str, Any]:
    """Variables of the templates."""
    accuracy, bench = report["accuracy"], report["bench"]
    tested, timed = (document["rows"] if document else [] for document in (accuracy, bench))
    return {
        "doc": report,
        "accuracy": accuracy,
        "bench": bench,
        "summary": report["story"],
        "real": report.get("real_size"),
        "architecture": (accuracy or bench or {"model": {"architecture": "pictures"}})["model"]["architecture"],
        "n": Numbers(report),
        "name": method_name,
        "fact": fact,
        "when": lambda created: created[:16].replace("T", " ") + " UTC",
        "plots": _plots(report),
        "cut": CUT,
        "engines": _ENGINES,
        "pictures": [_picture(picture, place) for place, picture in enumerate(pictures)],
        "device": device_from_bench(bench) if bench else "",
        "limits": limits_from_report(report),
        "json_name": json_name,
        "sections": _sections(report),
        "pivot": _pivot(tested),
        "tested": evaluated_images(accuracy) if accuracy else "",
        "ordered": _ordered(tested),
        "more": [(title, note, _by_budget(accuracy or {}, name)) for name, (title, note) in _MORE.items()],
        "rates": sorted({runtime for row in tested for runtime in row.get("images_per_s", ())}),
        "batches": sorted({row["batch"] for row in timed}),
        "warnings": _warnings(timed),
        "has_power": any(row["power"] for row in timed),
    }


_ENGINES: Final = {
    "onnx": "ONNX Runtime", "openvino": "OpenVINO", "tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX",
    "torch": "PyTorch",
}  # fmt: skip


def _plots(report: Report) -> dict[str, Markup]:
    plots: dict[str, str] = {}
    if report["accuracy"]:
        plots |= accuracy_plots(report["accuracy"]["rows"])
    if report["bench"]:
        plots |= speed_plots(report["bench"]["rows"], report["bench"].get("cost_model"))
    if report["story"]["combined"]:
        plots |= combined_plots(report["story"]["combined"])
    return {name: Markup(svg) for name, svg in plots.items()}


def _sections(report: Report) -> list[tuple[str, str]]:
    sections = [
        ("accuracy", "Accuracy", report["accuracy"]),
        ("speed", "Speed", report["bench"]),
        ("real", "At a real size", report.get("real_size")),
        ("kept", "Kept tokens", report["pictures"]),
        ("numbers", "All numbers", report["accuracy"] or report["bench"]),
        ("method", "How it was measured", report["accuracy"] or report["bench"]),
        ("limits", "Limits", True),
    ]
    return [(anchor, title) for anchor, title, present in sections if present]


def _warnings(rows: Sequence[Mapping[str, Any]]) -> list[tuple[int, str]]:
    """(count, first warning) of each group of warnings that differ only in their numbers."""
    found: dict[str, list[str]] = {}
    for warning in (warning for row in rows for warning in row["warnings"]):
        found.setdefault(re.sub(r"[\d.]+", "", warning), []).append(warning)
    return [(len(alike), alike[0]) for alike in found.values()]


def _pivot(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One line per budget, one column per method; a cell is the position of its row in the document."""
    methods = [m for m in dict.fromkeys([*METHODS, *(row["method"] for row in rows)]) if m != FULL]
    places = {(row["method"], row["tokens"]): place for place, row in enumerate(rows)}
    methods = [method for method in methods if any(key[0] == method for key in places)]
    lines = []
    for tokens in sorted({row["tokens"] for row in rows if row["method"] != FULL}):
        cells = [places.get((method, tokens)) for method in methods]
        known = [place for place in cells if place is not None]
        best = max(known, key=lambda place: rows[place]["mean"])
        lines.append({"places": cells, "first": known[0], "best": best})
    return {"methods": methods, "lines": lines}


_MORE: Final = {
    "longer": ("Fine-tuned for longer", "Mean top-1 over the seeds."),
    "ablations": (
        "Ablations of the filter",
        "Mean top-1 over the seeds. Each line changes one setting; the first is the unchanged filter, same seeds.",
    ),
}
"""Additional lists of rows in accuracy.json -> (heading, note)."""


def _by_budget(accuracy: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Additional rows: one line per method, one column per budget; a cell is a JSON pointer."""
    rows: Sequence[Mapping[str, Any]] = accuracy.get(name, [])
    places = {(row["method"], row["tokens"]): f"/accuracy/{name}/{i}" for i, row in enumerate(rows)}
    budgets = sorted({row["tokens"] for row in rows}, reverse=True)
    methods = dict.fromkeys(row["method"] for row in rows)
    lines = [(method_name(method), [places.get((method, tokens)) for tokens in budgets]) for method in methods]
    return {"budgets": budgets, "lines": lines}


def _ordered(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """Positions of the rows: full first, then the filter, then the others, each from many tokens to few."""
    methods = list(dict.fromkeys([FULL, FILTER, *METHODS, *(row["method"] for row in rows)]))
    return sorted(range(len(rows)), key=lambda i: (methods.index(rows[i]["method"]), -rows[i]["tokens"]))


def _picture(picture: Picture, place: int) -> dict[str, Any]:
    scale = scale_from_size(picture.view.size)
    heat = None if picture.scores is None else heat_picture(picture.view, picture.scores, picture.grid, scale)
    return {
        "view": _data_uri(kept_picture(picture.view, range(picture.grid[0] * picture.grid[1]), picture.grid, scale)),
        "width": picture.view.width * scale,
        "height": picture.view.height * scale,
        "truth": picture.truth,
        "heat": None if heat is None else _data_uri(heat),
        "choices": [
            _choice(picture, choice, f"/pictures/{place}/choices/{i}", scale)
            for i, choice in enumerate(picture.choices)
        ],
    }


def _choice(picture: Picture, choice: BudgetResult, at: str, scale: int) -> dict[str, Any]:
    image = None
    if choice.indices is not None:
        image = _data_uri(kept_picture(picture.view, choice.indices, picture.grid, scale))
    return {
        "at": at,
        "image": image,
        "stages": [
            {"image": _data_uri(stage_picture(picture.view, stage, picture.grid, scale)), "summary": stage.summary}
            for stage in choice.stages
        ],
        "masks": None if choice.masks is None else _data_uri(choice.masks),
        "alt": f"the {choice.tokens} kept patches of {picture.grid[0] * picture.grid[1]}",
        "predicted": choice.predicted,
        "right": None if picture.truth is None else choice.predicted == picture.truth,
    }


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=88)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
