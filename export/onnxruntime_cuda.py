"""A graph variant for ONNX Runtime's CUDA provider: attention, norms and activations as its contrib ops.

ONNX Runtime fuses none of a ViT's attentions by itself, so each runs as a dozen kernels. Here a form of the traced
graph (``export/graph.py``) is rewritten with operators of the domain com.microsoft:

======================  ==============================================================================================
MultiHeadAttention      softmax(q k^T * scale) v from q, k, v [B, N, C]; the projection is split on its last axis, so
                        neither Slice nor Squeeze nor a transpose of the heads is left
SkipLayerNormalization  LayerNorm(a + b + bias); the sum is an output too
BiasGelu, QuickGelu     the activation, with the bias before it
======================  ==============================================================================================

The function of TokenSelect gets a body that computes no row numbers on the CPU: ONNX Runtime refuses to capture a CUDA
graph with a copy from the CPU in it.

``onnxscript.rewriter.ort_fusions`` was tried. It fuses the attentions too, but neither norms in fp16 and bf16, nor the
split of the projection, and it renames the nodes.

The variant is an additional file, written on request only (``--cuda``): it doubles the size of the directory, is slower
than the plain graph on a CPU, and runs in ONNX Runtime only.
"""

from collections.abc import Collection, Sequence

import onnx_ir as ir
import onnx_ir.passes.common as passes

from tokfilter.export.contrib.activations import fuse_activations
from tokfilter.export.contrib.attention import fuse_attentions
from tokfilter.export.contrib.layer_scale import fold_layer_scales
from tokfilter.export.contrib.norms import fuse_norms
from tokfilter.export.contrib.projections import split_projections
from tokfilter.export.contrib.walk import DOMAIN, Fused
from tokfilter.export.contrib.whole_slices import drop_whole_slices
from tokfilter.export.functions import is_select_node, with_function
from tokfilter.export.precision import cast_precision
from tokfilter.export.selection import node_graph
from tokfilter.export.simplify import without_dead_code

__all__ = ["cuda_graph_from_form", "fusions_as_dict", "slots_graph_for_cuda"]


def slots_graph_for_cuda(
    slots_graph: ir.Model, precision: str, kept_fp32: Collection[str] = ()
) -> tuple[ir.Model, list[Fused]]:
    """A copy of a traced fp32 graph in ``precision``, LayerScale folded in fp32; the forms are made from it.

    kept_fp32: as in ``cast_precision``

    Raises ExportError.
    """
    graph = slots_graph.clone()
    drop_whole_slices(graph.graph)
    folded = fold_layer_scales(graph.graph, precision)
    return cast_precision(without_dead_code(graph), precision, kept_fp32), [folded]


def cuda_graph_from_form(form: ir.Model, bias_inside: bool = True) -> tuple[ir.Model, list[Fused]]:
    """A fused copy of ``form`` (slots, fixed or full, in any precision), and what was fused.

    bias_inside: as in ``fuse_attentions``
    """
    graph = node_graph(form)
    passes.ShapeInferencePass()(graph)
    split_projections(graph.graph)
    fused = [fuse_attentions(graph.graph, bias_inside), fuse_activations(graph.graph)]
    without_dead_code(graph)
    fused.append(fuse_norms(graph.graph))
    without_dead_code(graph)
    graph.graph.sort()
    if any(is_select_node(node) for node in graph.graph):
        with_function(graph, rows="cuda")
    graph.opset_imports[DOMAIN] = 1
    return graph, fused


def fusions_as_dict(fused: Sequence[Fused]) -> dict[str, object]:
    """For the manifest: kind -> fused, found and the reasons for the others."""
    return {
        item.kind: {"fused": item.count, "found": item.total, "not_fused": item.reasons} for item in fused if item.total
    }
