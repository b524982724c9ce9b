"""Where the time of a graph goes in ONNX Runtime on a CPU: its profile, by kind of node."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from tokfilter.runtime.onnxruntime_session import imported_onnxruntime

__all__ = ["KINDS", "kind_of_node", "profiled_ms"]

KINDS: Final = ("products with weights", "attention", "GELU", "norms and sums", "copies", "patch embedding", "rest")
"""Kinds of nodes; ``rest`` is the filter, the selection and the head."""

_WARM_UP: Final = 3
_QUANTILE: Final = 0.1
"""Of the times of one node: other load makes single calls longer, never shorter."""


def kind_of_node(operator: str, name: str) -> str:
    """The kind of a node of the optimised graph, by its operator and its name."""
    if operator in ("Conv", "ReorderOutput") or "patch_embed" in name:
        return "patch embedding"
    if operator in ("Gelu", "BiasGelu") and "patch_drop" not in name:
        return "GELU"
    if operator in ("FusedMatMul", "Softmax") or (operator == "MatMul" and "attn/MatMul" in name):
        return "attention"
    if operator in ("LayerNormalization", "SkipLayerNormalization") and "patch_drop" not in name:
        return "norms and sums"
    if not name.startswith("blocks"):
        return "rest"
    kinds = {"MatMul": "products with weights", "Gemm": "products with weights", "Add": "norms and sums"}
    return kinds.get(operator, "copies")


def profiled_ms(graph: Path, feeds: dict[str, Any], threads: int, calls: int) -> dict[str, float]:
    """Milliseconds of one call by kind of node: of each node the first decile over ``calls``, summed."""
    onnxruntime = imported_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads, options.inter_op_num_threads = 3, threads, 1
    options.enable_profiling, options.profile_file_prefix = True, str(graph.with_suffix(".profile"))
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    for _ in range(_WARM_UP + calls):
        session.run(None, feeds)
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            name = event["name"].removesuffix("_kernel_time")
            times[event["args"]["op_name"], name].append(event["dur"] / 1000)
    totals = dict.fromkeys(KINDS, 0.0)
    for (operator, name), found in times.items():
        per_call = len(found) // (_WARM_UP + calls)  # nodes without a name share one
        usual = float(np.quantile(found[_WARM_UP * per_call :], _QUANTILE))
        totals[kind_of_node(operator, name)] += usual * per_call
    return totals
