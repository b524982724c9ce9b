"""ONNX graphs of a filtered model: traced once by torch, then rewritten into the other forms.

Three forms of one model, all with a free batch dimension:

========  ============================  ==================================================================
slots     images, slots -> logits,      any budget: the length of ``slots`` is the number of kept tokens
          indices
fixed     images -> logits, indices     one fixed budget (about 5 % faster in ONNX Runtime on a CPU)
full      images -> logits              every token, no filter: the baseline of a filtered graph
========  ============================  ==================================================================

A model with a mask head gives ``masks`` [B, M, H', W'] in place of ``logits``, one without a classifier ``embedding``
[B, C].

Tokens are selected by one node, ``tokfilter::TokenSelect``, with a model-local function of the same name, which a
runtime without the plugin inlines. Tracing takes seconds and rewriting milliseconds, so the fixed and full forms are
made from the slots form; ``verify`` compares each of them with torch. A model that reduces inside its blocks has
one node for each choice, the further output ``later_indices``, and is traced again for the full form.
"""

import onnx_ir as ir

from tokfilter.errors import ExportError
from tokfilter.export.functions import select_node, select_nodes, with_function, without_functions
from tokfilter.export.later_slots import kept_dim, kept_lengths, stage_of
from tokfilter.export.options import DEFAULT_OPSET
from tokfilter.export.simplify import simplify, without_dead_code
from tokfilter.export.trace import full_trace_from_model, traced_from_model
from tokfilter.kernels.op import DOMAIN, NAME
from tokfilter.vit.model import FilteredViT

__all__ = [
    "fixed_graph_from_slots",
    "full_graph_from_model",
    "full_graph_from_slots",
    "select_node",
    "slots_graph_from_model",
    "with_function",
    "without_functions",
]


def slots_graph_from_model(model: FilteredViT, opset: int = DEFAULT_OPSET) -> ir.Model:
    """Trace the form whose budget is an input. Raises ExportError."""
    return with_function(traced_from_model(model, opset))


def fixed_graph_from_slots(slots_graph: ir.Model, k: int) -> ir.Model:
    """The same model with a fixed budget: no ``slots`` input, k an attribute of the node, shapes known."""
    fixed = without_functions(slots_graph.clone())
    nodes = select_nodes(fixed)
    lengths = kept_lengths(fixed, k)
    for node in nodes:
        node.attributes["k"] = ir.AttrInt64("k", lengths[kept_dim(stage_of(node))])
        node.resize_inputs(2)
    (slots,) = (value for value in fixed.graph.inputs if value.name == "slots")
    _make_length_constant(fixed.graph, slots, k)
    without_dead_code(fixed)
    if slots.uses():
        raise ExportError(
            f"the slots of {NAME} are used by {len(slots.uses())} other nodes; the budget cannot be fixed."
        )
    fixed.graph.inputs.remove(slots)
    _bind(fixed.graph, lengths)
    return with_function(simplify(fixed))


def _make_length_constant(graph: ir.Graph, slots: ir.Value, k: int) -> None:
    """Replace the length of ``slots`` by a constant."""
    for node in [use for use in slots.consumers() if use.op_type == "Shape"]:
        name = f"{node.outputs[0].name}_kept"
        length = ir.Value(name=name, const_value=ir.tensor([k], dtype=ir.DataType.INT64, name=name))
        graph.register_initializer(length)
        node.outputs[0].replace_all_uses_with(length)
        graph.remove(node, safe=True)


def full_graph_from_model(model: FilteredViT, slots_graph: ir.Model, opset: int = DEFAULT_OPSET) -> ir.Model:
    """The same weights with every token, as fp32: rewritten from the slots form, or traced. Raises ExportError."""
    if model.drop.name == "filter":
        return full_graph_from_slots(slots_graph, model.num_patches)
    return full_trace_from_model(model, opset)


def full_graph_from_slots(slots_graph: ir.Model, num_patches: int) -> ir.Model:
    """The same weights with every token, of a model with a filter.

    Raises ExportError for an unknown use of kept indices.
    """
    full = without_functions(slots_graph.clone())
    node = select_node(full)
    tokens, (selected, indices) = node.inputs[0], node.outputs
    assert tokens is not None
    del full.graph.outputs[1]
    _block_input(full.graph, selected).replace_all_uses_with(tokens)
    _take_every_place(full.graph)
    without_dead_code(full)
    _keep_all_rows(indices)
    full.graph.inputs[:] = [value for value in full.graph.inputs if value.name != "slots"]
    _bind(full.graph, {kept_dim(0): num_patches})
    full.opset_imports.pop(DOMAIN)
    return simplify(full)


def _block_input(graph: ir.Graph, selected: ir.Value) -> ir.Value:
    """Input of the first block: the selected tokens, or the output of ``vit/global_context.py`` for them."""
    ends = (node.outputs[0] for node in graph if node.name and node.name.endswith("scorer.summary/Concat"))
    return next(ends, selected)


def _take_every_place(graph: ir.Graph) -> None:
    """Bypass the fill of a mask head (``vit/dense``): every place of the grid has its own scores."""
    for node in [node for node in graph if (node.name or "").startswith("mask_head.fill/")]:
        kept = {"ScatterElements": 2, "GatherElements": 0}.get(node.op_type)
        scores = None if kept is None else node.inputs[kept]
        if scores is not None:
            node.outputs[0].replace_all_uses_with(scores)


def _keep_all_rows(indices: ir.Value) -> None:
    """Bypass the gathers of rotary position embeddings by kept index: every token is kept."""
    waiting = [indices]
    while waiting:
        for node in waiting.pop().consumers():
            data = node.inputs[0]
            if node.op_type in ("Cast", "Expand", "Reshape", "Unsqueeze"):
                waiting.extend(node.outputs)
            elif node.op_type == "GatherElements" and data is not None:
                node.outputs[0].replace_all_uses_with(data)
            else:
                raise ExportError(
                    f"the full graph cannot be made: kept indices are read by {node.op_type} ({node.name}), which "
                    "is not supported. Report this model."
                )


def _bind(graph: ir.Graph, lengths: dict[str, int]) -> None:
    for value in [*graph.inputs, *(output for node in graph for output in node.outputs)]:
        if value.shape is not None:
            value.shape = value.shape.evaluate(lengths)
