"""Export's verification: every graph runs in ONNX Runtime and is compared with torch before the export is written.

Golden tensors of the bundle at two batch sizes and five budgets, then every image of the user's folder at the graph's
own budget; names, shapes, kept tokens and logits. Tolerances: ``artifacts.compare.TOLERANCES``.
"""

import math
import tempfile
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from tokfilter.artifacts.compare import SCORE_GAP, TOLERANCES, score_rounding
from tokfilter.artifacts.compare_masks import compare_outputs
from tokfilter.artifacts.manifest import Entry
from tokfilter.errors import VerificationError
from tokfilter.export.fp32_search import FP32_REMEDY
from tokfilter.export.functions import with_function
from tokfilter.export.kept_tokens import compare_kept
from tokfilter.export.onnx_file import cpu_session, emulated_session, load_graph, save_graph
from tokfilter.export.reference import Array, Expected, ImageSet, Reference
from tokfilter.export.trace import output_names
from tokfilter.vit.model import FilteredViT

__all__ = ["Check", "budgets_to_check", "check_graph", "report_from_checks", "require_passed"]

_BATCH: Final = 8
_ONE_OF: Final = {"logits": "logit", "masks": "logit", "embedding": "number"}
"""Name of an output -> what one of its values is called in messages."""

_RAN_IN: Final = {
    "fp16": "ONNX Runtime, CPU; and emulated: an fp32 graph that rounds to fp16 after every operation",
    "bf16": "ONNX Runtime, CPU, emulated: an fp32 graph that rounds to bf16 after every operation (no bf16 kernels)",
}


@dataclass(frozen=True)
class Check:
    """One graph at one batch size and budget.

    image_set: "golden", or the user's folder
    budget: patch tokens kept; None with every token
    max_abs, mean_abs, relative, cosine: of the logits, torch run on the tokens that the graph kept
    top1: fraction of images with the same top-1 class; of pixels with the same first mask
    overlap: fraction of kept tokens in common with torch's
    near_ties: number of kept tokens that differ in a near tie
    worst_image, worst_token: where the largest difference is
    emulated: whether an fp32 graph ran that rounds to the low type after every operation
    errors: empty when the graph passed
    """

    path: str
    image_set: str
    images: int
    batch: int
    budget: int | None
    max_abs: float
    mean_abs: float
    relative: float
    cosine: float
    top1: float
    overlap: float | None
    near_ties: int
    worst_image: str
    worst_token: int | None
    emulated: bool
    errors: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether the graph is close enough here."""
        return not self.errors


def budgets_to_check(
    golden: Iterable[int], default: int, patches: int, limits: tuple[int, int] | None = None
) -> list[int]:
    """At least five budgets where the model has them: the ends, the default, the golden ones, quarters between.

    limits: smallest and largest budget; None: 1 and ``patches``
    """
    low, high = limits or (1, patches)
    budgets = {k for k in (low, default, high, *golden) if low <= k <= high}
    for quarter in (0.5, 0.25, 0.75, 0.125, 0.875):
        if len(budgets) < 5:
            budgets.add(min(max(low, math.floor(patches * quarter)), high))
    return sorted(budgets)


def check_graph(
    directory: Path,
    entry: Entry,
    reference: Reference,
    golden: ImageSet,
    others: Sequence[ImageSet],
    budgets: Sequence[int],
) -> list[Check]:
    """Run the graph ``directory/entry.path`` on all image sets.

    budgets: for the form whose budget is an input
    """
    path = directory / entry.path
    for_cuda = entry.runtime == "onnx-cuda"
    if entry.target.get("plugin_interface"):
        session = _session_without_plugin(path, entry)
    else:
        session = cpu_session(path, entry.precision, for_cuda)
    errors = _signature_errors(session, entry, reference.model)
    if errors:
        return [_refused(entry, errors)]
    elastic = entry.role != "full" and entry.budget is None
    own: Sequence[int | None] = budgets if elastic else [entry.budget]
    default = reference.model.keep_tokens if elastic else entry.budget
    batches = _batches(len(golden.images))
    plan = [(golden, batch, k) for k in own for batch in batches]
    plan += [(image_set, _BATCH, default) for image_set in others]
    checks = [_check(session, entry, reference, *wanted) for wanted in plan]
    if entry.precision == "fp16" and for_cuda:
        return [replace(check, emulated=True) for check in checks]
    if entry.precision == "fp16":  # also as a GPU rounds, which ONNX Runtime's CPU does not
        emulated = emulated_session(path)
        checks += [replace(_check(emulated, entry, reference, golden, batches[-1], k), emulated=True) for k in own]
    return checks


def report_from_checks(checks: Sequence[Check]) -> dict[str, Any]:
    """The checks as plain values for the manifest."""
    return {
        "passed": all(check.passed for check in checks),
        "reference": "torch fp32",
        "ran_in": {name: _RAN_IN.get(name, "ONNX Runtime, CPU") for name in TOLERANCES},
        "tolerances": {name: asdict(tolerance) for name, tolerance in TOLERANCES.items()},
        "score_gap": SCORE_GAP,
        "checks": [_check_as_dict(check) for check in checks],
    }


def _check_as_dict(check: Check) -> dict[str, Any]:
    fields = {**asdict(check), "errors": list(check.errors), "passed": check.passed}
    fields["photos"] = fields.pop("image_set")  # the key of manifest version 1
    return fields


def require_passed(checks: Sequence[Check], repairable: Collection[str] = (), output: str = "logits") -> None:
    """Raise VerificationError that names the worst graph, image and token, unless every check passed.

    repairable: paths of graphs for which --auto-fp32 is a remedy
    output: name of the model's output
    """
    failed = [check for check in checks if not check.passed]
    if not failed:
        return
    worst = max(failed, key=lambda check: check.relative)
    token = "" if worst.worst_token is None else f", patch token {worst.worst_token}"
    budget = "every token" if worst.budget is None else f"{worst.budget} tokens"
    remedy = f" {FP32_REMEDY}" if all(check.path in repairable for check in failed) else ""
    common = "" if worst.overlap is None else f", {worst.overlap:.1%} of the kept tokens equal"
    first = "" if output == "embedding" else f"first class equal on {worst.top1:.0%} of the images, "
    raise VerificationError(
        f"{len(failed)} of {len(checks)} checks failed; nothing was written. Worst: {worst.path} with {budget}, batch "
        f"{worst.batch}, {worst.worst_image}{token}: {'; '.join(worst.errors)} ({first}cosine {worst.cosine:.6f}, "
        f"largest difference {worst.relative:.2g} of the image's largest {_ONE_OF[output]}{common}).{remedy}"
    )


def _batches(images: int) -> list[int]:
    return [1, max(2, min(images, _BATCH))]


def _session_without_plugin(path: Path, entry: Entry) -> Any:
    """A graph for a plugin in ONNX Runtime, which takes the function body of the node instead."""
    graph = with_function(load_graph(path))
    with tempfile.TemporaryDirectory(prefix="tokfilter-") as scratch:
        copy = Path(scratch) / path.name
        save_graph(graph, copy)
        return cpu_session(copy, entry.precision)


def _signature_errors(session: Any, entry: Entry, model: FilteredViT) -> tuple[str, ...]:
    inputs = ["images"] if entry.role == "full" or entry.budget is not None else ["images", "slots"]
    outputs = output_names(model)[: 1 if entry.role == "full" else None]
    found = [item.name for item in session.get_inputs()], [item.name for item in session.get_outputs()]
    if found != (inputs, outputs):
        return (f"its inputs and outputs are {found[0]} and {found[1]}, expected {inputs} and {outputs}",)
    return ()


def _refused(entry: Entry, errors: tuple[str, ...]) -> Check:
    infinite = math.inf
    return Check(
        entry.path, "golden", 0, 0, entry.budget, infinite, infinite, infinite, 0, 0, None, 0, "-", None, False, errors
    )


def _check(
    session: Any, entry: Entry, reference: Reference, image_set: ImageSet, batch: int, budget: int | None
) -> Check:
    count = 1 if batch == 1 else max(batch, len(image_set.images))
    rows = np.arange(count) % len(image_set.images)  # one golden image fills a batch of two
    images = image_set.images[rows]
    expected = _rows(reference.expected(image_set, budget), rows)
    logits, found = _run(session, image_set.inputs[rows], batch, None if entry.budget is not None else budget)
    rounding = score_rounding(entry.precision or "fp32", reference.model.drop.name)
    indices, expected_logits = compare_kept(reference, images, found, expected, rounding)
    compared = compare_outputs(
        logits, expected_logits, TOLERANCES[entry.precision or "fp32"], reference.model.output_name
    )
    row, token = (compared.worst, None) if indices is None or indices.worst is None else indices.worst
    return Check(
        path=entry.path,
        image_set=image_set.name,
        images=count,
        batch=batch,
        budget=budget,
        max_abs=compared.max_abs,
        mean_abs=compared.mean_abs,
        relative=compared.relative,
        cosine=compared.cosine,
        top1=compared.top1,
        overlap=None if indices is None else float(indices.overlap.mean()),
        near_ties=0 if indices is None else indices.near_ties,
        worst_image=image_set.labels[rows[row]],
        worst_token=token,
        emulated=entry.precision == "bf16",
        errors=(*(() if indices is None else indices.errors), *compared.errors),
    )


def _rows(expected: Expected, rows: Any) -> Expected:
    kept = (expected.indices, expected.later, expected.partners)
    return Expected(
        expected.logits[rows], expected.scores[rows], *(None if part is None else part[rows] for part in kept)
    )


def _run(session: Any, images: Array, batch: int, slots: int | None) -> tuple[Array, dict[str, Array]]:
    """Logits, and what else the graph gives, by name: indices, later indices, partners."""
    outputs: list[list[Array]] = []
    names = {item.name for item in session.get_inputs()}
    for start in range(0, len(images), batch):
        feed = {"images": images[start : start + batch]}
        if "slots" in names:
            feed["slots"] = np.zeros(slots or 0, dtype=np.int32)
        outputs.append(session.run(None, feed))
    logits, *others = [np.concatenate(parts) for parts in zip(*outputs, strict=True)]
    return logits, dict(zip([item.name for item in session.get_outputs()[1:]], others, strict=True))
