"""`tokfilter verify`: the bytes of an export directory against its manifest, its engines against the golden tensors."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from tokfilter.artifacts.checked import check_file
from tokfilter.artifacts.compare import TOLERANCES, Tolerance, compare_indices, score_rounding
from tokfilter.artifacts.compare_masks import compare_outputs
from tokfilter.artifacts.golden import GoldenArrays, golden_of
from tokfilter.artifacts.manifest import Entry, Manifest, Runtime, load_manifest
from tokfilter.errors import MissingDependencyError, VerificationError
from tokfilter.runtime.model_files import ModelFile, Role, entry_at, file_precision, find_model_file
from tokfilter.runtime.session import Array, Budgets, CheckedSession, Session
from tokfilter.runtime.sessions import SessionOptions, session_from_model_file, torch_session
from tokfilter.trt.gpus import gpus

__all__ = ["Verdict", "check_engine", "checked_files", "golden_for", "verdicts", "verify"]

_ROLES: Final[tuple[Role, ...]] = ("full", "filtered")
_NOT_MEASURED: Final = "No time was taken; export and verify again."


@dataclass(frozen=True)
class Verdict:
    """How one engine's outputs compare at one batch and budget.

    compared: "logits and indices", "logits" or "indices" (where torch computed no logits at this budget, or
        every image kept other tokens in near ties of later choices); "embedding" or "masks" in place of "logits" where
        the model gives them
    largest_difference: of a logit, over the largest golden logit of the image; None where no logits were compared
    tolerance: for that difference
    same_top1: fraction of the compared images with the same top-1 class; of pixels with the same first mask; None for
        an embedding
    same_indices: fraction of the kept tokens that the golden tensors keep too
    same_later: the same of the choices behind the first, where they were compared
    cosine: least cosine between an image's logits (embedding, masks) and the golden ones
    """

    path: str
    sha256: str
    tokens: int
    batch: int
    compared: str
    largest_difference: float | None
    tolerance: float
    same_top1: float | None
    same_indices: float | None
    same_later: float | None = None
    cosine: float | None = None


def checked_files(directory: str | Path) -> Manifest:
    """The manifest of a directory whose files are all there, byte by byte. Raises DataError, EngineError."""
    manifest = load_manifest(directory)
    for entry in manifest.files:
        check_file(directory, entry)
    return manifest


def verdicts(
    source: str | Path, options: SessionOptions | None = None, batches: Sequence[int] = ()
) -> Iterator[Verdict]:
    """Run every model file of a runtime and precision on the golden images, at each budget that torch computed.

    source: an export directory, or a bundle (model.pt) for PyTorch
    batches: none means the smallest that an engine serves, and two images where it does
    Raises VerificationError at the first that differs, DataError, EngineError, MissingDependencyError.
    """
    options = options or SessionOptions()
    if Path(source).is_file():
        yield from _bundle_verdicts(Path(source), options, batches)
        return
    for chosen in _model_files(source, options):
        yield from _verdicts(chosen, options, batches or _batches(chosen.entry), _NOT_MEASURED)


def check_engine(directory: Path, manifest: Manifest, entry: Entry) -> str | None:
    """Compare an engine with the golden tensors before it is called done: `tokfilter engine` and `export` call this.

    At each budget that torch computed, and at the smallest, usual and largest batch. ``manifest`` lists the golden
    tensors and the plugin; the engine ``entry`` need not stand in it yet. Returns why no logits were compared, if so.
    Raises VerificationError with figures; MissingDependencyError where this machine cannot run the engine; EngineError
    where it should and does not; DataError.
    """
    _require_target(entry)
    runtime: Runtime = "tensorrt-rtx" if entry.runtime == "tensorrt-rtx" else "tensorrt"
    options = SessionOptions(runtime=runtime, precision=entry.precision or "fp32")
    batches = sorted({*_batches(entry), *(entry.batch_range or ())})
    found = list(_verdicts(ModelFile(directory, manifest, entry), options, batches, remedy=""))
    if any(verdict.largest_difference is not None for verdict in found):
        return None
    return (
        f"only its kept tokens were: at {found[0].tokens} tokens torch computed no {manifest.model.output_name}, or "
        "every image kept other tokens in near ties"
    )


def _require_target(entry: Entry) -> None:
    """Raise MissingDependencyError where a TensorRT-RTX plan was built for other GPUs than those of this machine."""
    targets = entry.target.get("compute_capabilities", "all")
    here = {f"SM{gpu.compute_capability.replace('.', '')}" for gpu in gpus() if gpu.compute_capability}
    if targets != "all" and here and not here & {str(name).upper() for name in targets}:
        raise MissingDependencyError(
            f"it was built for {', '.join(map(str, targets))}, and this machine's GPU is {', '.join(sorted(here))}"
        )


def _verdicts(chosen: ModelFile, options: SessionOptions, batches: Sequence[int], remedy: str) -> Iterator[Verdict]:
    with session_from_model_file(chosen, options) as session:
        golden = golden_for(session, chosen)
        for batch in batches:
            for k in _budgets(golden, session.budgets):
                yield verify(session, chosen, golden, batch, k, remedy)


def _bundle_verdicts(bundle: Path, options: SessionOptions, batches: Sequence[int]) -> Iterator[Verdict]:
    for role in _ROLES:
        with torch_session(bundle, role, options) as session:
            for batch in batches or _batches(session.model_file.entry):
                for k in _budgets(session.golden, session.budgets):
                    yield verify(session, session.model_file, session.golden, batch, k, "")


def golden_for(session: CheckedSession, chosen: ModelFile) -> GoldenArrays:
    """Golden tensors for an open session: PyTorch takes those of its bundle, which are floats in every export."""
    own = getattr(session, "golden", None)
    return own if isinstance(own, GoldenArrays) else golden_of(chosen.directory, chosen.manifest)


def _model_files(directory: str | Path, options: SessionOptions) -> Iterator[ModelFile]:
    """All that `bench` may take a time of: the full file, the filtered one, those made for one budget."""
    for role in _ROLES:
        first = find_model_file(
            directory, role, options.runtime, options.precision, provider=options.provider, bundle=options.bundle
        )
        if first.bundle is not None:
            yield first
        in_file = file_precision(options.runtime, options.precision)
        for entry in first.manifest.entries(role, first.entry.runtime):
            if entry.precision == in_file:
                yield replace(first, entry=entry_at(entry, options.runtime, options.precision))


def _batches(entry: Entry) -> list[int]:
    low, _, high = entry.batch_range or (1, 1, 2)
    return sorted({low, min(max(2, low), high)})


def _budgets(golden: GoldenArrays, served: Budgets) -> list[int]:
    """The engine's own default comes with them: where torch computed no logits, the kept tokens are compared."""
    return sorted({served.default} | {k for k in golden.logits if served.low <= k <= served.high})


def verify(
    session: Session,
    model_file: ModelFile,
    golden: GoldenArrays,
    batch: int,
    k: int,
    remedy: str = _NOT_MEASURED,
) -> Verdict:
    """Run the golden images in batches of ``batch`` at k tokens and compare. Raises VerificationError with figures.

    Logits, the embedding or masks are compared on the images whose kept tokens are the golden ones at every choice:
    other tokens give other logits. Where all images differ in near ties of later choices, no logits are compared.

    remedy: the last sentence of the error message
    """
    entry, output = model_file.entry, model_file.manifest.model.output_name
    tolerance = TOLERANCES[entry.precision or "fp32"]
    images = golden.tiled(max(batch, len(golden.images)), session.inputs[0].dtype)
    rows = np.arange(len(images)) % len(golden.images)
    logits, *kept = _run(session, images, batch, k)
    found = kept[0]
    same = np.ones(len(rows), bool)
    common = later_common = None
    errors: list[str] = []
    later, in_later = golden.later.get(k), False
    if found is not None:
        rounding = score_rounding(entry.precision or "fp32", model_file.manifest.model.reducer["name"])
        expected_rows = golden.expected_indices(k)[rows]
        indices = compare_indices(found, expected_rows, golden.scores[rows], tolerance.common, rounding)
        same, common = indices.overlap == 1.0, float(indices.overlap.mean())
        errors += indices.errors
        if later is not None and not errors:
            behind = later.compare(kept, rows, same, tolerance, rounding)
            in_later = same.any() and not behind.same.any()
            same, later_common = behind.same, behind.overlap
            errors += behind.errors
    expected = golden.full if k == golden.scores.shape[1] else golden.logits.get(k)
    difference = top1 = cosine = None
    if not np.isfinite(logits).all():
        difference = float("inf")
        errors.append(f"{output} {'holds' if output == 'embedding' else 'hold'} NaN or infinity")
    elif expected is not None and same.any():
        compared = compare_outputs(logits[same], expected[rows][same], tolerance, output)
        difference, cosine = compared.relative, compared.cosine
        top1 = None if output == "embedding" else compared.top1
        errors += compared.errors
    elif expected is not None and not in_later:
        errors.append(f"no image keeps the golden tokens, so no {output} can be compared")
    verdict = Verdict(
        path=entry.path,
        sha256=entry.sha256,
        tokens=k,
        batch=batch,
        compared=_compared(output, expected is not None and not in_later, common is not None),
        largest_difference=difference,
        tolerance=tolerance.relative,
        same_top1=top1,
        same_indices=common,
        same_later=later_common,
        cosine=cosine,
    )
    if errors:
        raise VerificationError(f"{_message(verdict, output, cosine, errors, tolerance)} {remedy}".rstrip())
    return verdict


def _run(session: Session, images: Array, batch: int, k: int) -> tuple[Array, Array | None, Array | None, Array | None]:
    """Logits [M, classes], or masks, in fp32, indices [M, k], later indices and partners of images [M, 3, H, W].

    The last batch is filled up.
    """
    count = -(-len(images) // batch)
    padded = images if count * batch == len(images) else images[np.arange(count * batch) % len(images)]
    results = [session.run(padded[i * batch : (i + 1) * batch], k) for i in range(count)]
    logits = np.concatenate([result.logits for result in results])[: len(images)].astype(np.float32)

    def joined(parts: Sequence[Array | None]) -> Array | None:
        there = [part for part in parts if part is not None]
        return np.concatenate(there)[: len(images)] if there else None

    return (
        logits,
        joined([result.indices for result in results]),
        joined([result.later_indices for result in results]),
        joined([result.partners for result in results]),
    )


def _compared(output: str, there: bool, indices: bool) -> str:
    return " and ".join(word for word, is_there in ((output, there), ("indices", indices)) if is_there) or output


def _message(verdict: Verdict, output: str, cosine: float | None, errors: Sequence[str], tolerance: Tolerance) -> str:
    def shown(value: float | None, form: str) -> str:
        return "not compared" if value is None else format(value, form)

    first = f"first class equal on {shown(verdict.same_top1, '.0%')} of the images, " if output != "embedding" else ""
    return (
        f"{verdict.path} differs from the golden tensors at a batch of {verdict.batch} and {verdict.tokens} tokens: "
        f"{output} {shown(verdict.largest_difference, '.2g')} (expected at most {tolerance.relative:g} of the image's "
        f"largest), cosine {shown(cosine, '.6f')} (expected {tolerance.cosine:g}), "
        f"{first}kept tokens in common {shown(verdict.same_indices, '.3g')} "
        f"(expected {tolerance.common:g}); {'; '.join(errors)}."
    )
