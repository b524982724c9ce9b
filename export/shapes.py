"""Shape inference that fails with a sentence: onnx-ir's pass logs ONNX's error with its traceback and goes on."""

import logging
from typing import Final

import onnx_ir as ir
import onnx_ir.passes.common as passes

from tokfilter.errors import ExportError

__all__ = ["infer_shapes"]

_LOGGER: Final = "onnx_ir.passes.common.shape_inference"


def infer_shapes(graph: ir.Model) -> ir.Model:
    """``graph`` itself with the shapes that can be inferred. Raises ExportError where they contradict each other."""
    failures: list[str] = []

    def take(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            failures.append(" ".join(str(error).split())[:300])
        return error is None

    logger = logging.getLogger(_LOGGER)
    logger.addFilter(take)
    try:
        passes.ShapeInferencePass()(graph)
    finally:
        logger.removeFilter(take)
    if failures:
        raise ExportError(f"the graph is not valid, its shapes contradict each other: {failures[0]}.")
    return graph
