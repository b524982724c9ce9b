"""Run two graphs in ONNX Runtime on the same random inputs and compare every output bit for bit.

No tolerance applies (``artifacts.compare``): a selection moves rows and computes nothing, so the rest of the graph gets
the same bits.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tokfilter.errors import ExportError, VerificationError

__all__ = ["compare_graphs"]

_BATCHES: Final = (2, 3)
_OTHER_SIZES: Final = (224, 256, 384, 128, 64, 32, 16, 8)
_ADVICE_FP16: Final = (
    "ONNX Runtime's CPU computes fp16 in fp32 and rounds at other places once the nodes around are others, so graphs "
    "in fp16 may differ by rounding here and nowhere else: fuse the graph in fp32 and convert the result to fp16, or "
    "pass --no-verify and compare on a GPU."
)
_TYPES: Final = {"float": "float32", "double": "float64"}


def compare_graphs(original: Path, fused: Path, sizes: Mapping[str, int]) -> list[dict[str, list[int]]]:
    """Run both graphs and compare every output of ``fused`` with ``original``'s, bit for bit.

    sizes: numbers for symbolic dimensions. Without one, the first dimension of an input is tried at 2 and 3, and all
        others at the first common size at which the original runs.
    Returns the input shapes of each comparison. ONNX Runtime's optimizer is off: it may rewrite the unchanged rest of
    two graphs differently once shapes are better known.
    Raises VerificationError for the first output that differs, ExportError when the original does not run.
    """
    reference = _session(original)
    symbols = _batch_symbols(reference) - set(sizes)
    batches = [dict.fromkeys(symbols, batch) for batch in _BATCHES if symbols] or [{}]
    shapes = []
    feeds_and_outputs = [_first_run(reference, {**batch, **sizes}, seed) for seed, batch in enumerate(batches)]
    names = [output.name for output in reference.get_outputs()]
    half = any("float16" in value.type for value in (*reference.get_inputs(), *reference.get_outputs()))
    del reference  # never two large models in memory at once
    candidate = _session(fused)
    for feeds, expected in feeds_and_outputs:
        shape = {name: list(value.shape) for name, value in feeds.items()}
        for name, reference_output, found in zip(names, expected, candidate.run(names, feeds), strict=True):
            _check_same(name, reference_output, found, shape, half)
        shapes.append(shape)
    return shapes


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors share no base of their own
        raise ExportError(f"ONNX Runtime does not load {path.name}, so nothing can be compared: {error}") from error


def _batch_symbols(session: Any) -> set[str]:
    return {value.shape[0] for value in session.get_inputs() if value.shape and isinstance(value.shape[0], str)}


def _first_run(session: Any, sizes: Mapping[str, int], seed: int) -> tuple[dict[str, NDArray[Any]], list[NDArray[Any]]]:
    """Inputs at the first sizes at which ``session`` runs, and its outputs."""
    symbols = {dim for value in session.get_inputs() for dim in value.shape if not isinstance(dim, int)} - set(sizes)
    errors = []
    for other in _OTHER_SIZES if symbols else (0,):
        try:
            feeds = _random_inputs(session, {**dict.fromkeys(symbols, other), **sizes}, seed)
            return feeds, session.run(None, feeds)
        except Exception as error:  # of ONNX Runtime, or of numpy for a type that it lacks
            errors.append(str(error).splitlines()[0])
    free = ", ".join(sorted(map(str, symbols))) or "none"
    raise ExportError(
        f"the input graph itself does not run in ONNX Runtime: {errors[0]} Give the sizes of its free dimensions "
        f"(free and not given: {free}), or compare by other means and pass --no-verify."
    )


def _random_inputs(session: Any, sizes: Mapping[Any, int], seed: int) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    feeds = {}
    for value in session.get_inputs():
        shape = [dim if isinstance(dim, int) else sizes[dim] for dim in value.shape]
        kind = value.type.removeprefix("tensor(").removesuffix(")")
        kind = _TYPES.get(kind, kind)
        whole = kind == "bool" or "int" in kind
        feeds[value.name] = (rng.integers(0, 2, shape) if whole else rng.standard_normal(shape)).astype(kind)
    return feeds


def _check_same(
    name: str, expected: NDArray[Any], found: NDArray[Any], shape: Mapping[str, list[int]], half: bool
) -> None:
    if expected.shape != found.shape or expected.dtype != found.dtype:
        difference = f"is {found.dtype} {list(found.shape)}, expected {expected.dtype} {list(expected.shape)}"
    elif expected.tobytes() != found.tobytes():
        difference = f"differs in {int((expected != found).sum())} of {expected.size} elements"
    else:
        return
    advice = _ADVICE_FP16 if half else "Please report this graph: after its equivalence check it must not differ."
    raise VerificationError(
        f"the graph to be written differs from the input graph: at inputs {dict(shape)}, output {name!r} {difference}. "
        f"Nothing was written. {advice}"
    )
