"""The form of an fp32 or int8 graph that engines on a CPU run fastest: the same weights and results, other operators.

==============================  ==========================================================================
class token early               after the last attention only the row that the head reads is computed
separate projections            three products for q, k, v in place of one that is cut: no copy
tokens as rows                  [B * N, C] between attentions: product and bias become one Gemm
==============================  ==========================================================================

int8 graphs take the first step only: with the others ONNX Runtime runs products in fp32, or more slowly. Everything up
to the scores of a filter before the blocks stays as it was traced, so the same tokens are kept. ``python -m
tokfilter.benchmarks cpu-forms`` measures each step (docs/cpu-forms.md). Graphs in fp16, bf16 and fp8 and those for
``--cuda`` keep the traced form: fused attention on a GPU starts from one large product. The graphs with the node
TokenSelect for TensorRT's plugin have the form of the plain ones in their precision, so that full and filtered engines
do the same work for each token.
"""

from collections.abc import Callable
from typing import Final

import onnx_ir as ir
import onnx_ir.passes.common as passes

from tokfilter.export.class_token_rows import take_class_token_early
from tokfilter.export.contrib.whole_slices import drop_whole_slices
from tokfilter.export.precision import scoring_nodes
from tokfilter.export.separate_projections import separate_projections
from tokfilter.export.simplify import without_dead_code
from tokfilter.export.token_rows import tokens_as_rows

__all__ = ["STEPS", "STEPS_OF", "for_cpu"]

STEPS: Final = ("class-token-early", "separate-projections", "tokens-as-rows")
"""The steps, in the order in which they are applied."""

STEPS_OF: Final[dict[str, tuple[str, ...]]] = {"fp32": STEPS, "int8": STEPS[:1]}
"""Precision of a graph -> the steps that make it faster. Other precisions are for GPUs and keep the traced form."""


def for_cpu(form: ir.Model, steps: tuple[str, ...] = STEPS) -> ir.Model:
    """A copy of an fp32 or int8 graph (slots, fixed or full, with its TokenSelect node) for engines on a CPU.

    steps: those to take; each is exact but for rounding
    """
    graph = form.clone()
    passes.ShapeInferencePass()(graph)
    drop_whole_slices(graph.graph)
    without_dead_code(graph)
    scoring = scoring_nodes(graph)
    apply: dict[str, Callable[[], int]] = {
        "class-token-early": lambda: take_class_token_early(graph.graph),
        "separate-projections": lambda: separate_projections(graph.graph),
        "tokens-as-rows": lambda: tokens_as_rows(graph.graph, scoring),
    }
    for step in STEPS:
        if step in steps:
            apply[step]()
            without_dead_code(graph)
    return graph
