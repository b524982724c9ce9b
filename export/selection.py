"""A selection of tokens in two forms: the node TokenSelect, or standard operators in its place. Each gives the other.

The operators of the node ``N`` are called ``N/ranked``, ``N/kept`` and so on, after the tensors of its function body
(``kernels/onnx_function.py``). By these names the node is put back, and the result is compared: written out again, it
must give the same operators.

Neither torch nor onnxscript is needed here, as in ``export/functions.py``.
"""

from collections.abc import Iterator

import onnx_ir as ir

from tokfilter.errors import ExportError
from tokfilter.export.functions import is_select_node
from tokfilter.export.shapes import infer_shapes
from tokfilter.kernels.onnx_function import token_select_function
from tokfilter.kernels.op import DOMAIN, NAME, VERSION

__all__ = ["node_graph", "plain_graph", "selections"]

_FIRST = "known"
"""The operator that every selection has once: Equal of the scores and themselves."""


def plain_graph(graph: ir.Model) -> ir.Model:
    """A copy in which standard operators stand in the place of each TokenSelect node. Raises ExportError."""
    plain = graph.clone()
    for node in [node for node in plain.graph if is_select_node(node)]:
        scores = node.inputs[1]
        _write_out(plain, node, scores is not None and scores.dtype == ir.DataType.FLOAT)
    for name in [name for name in plain.functions if name[:2] == (DOMAIN, NAME)]:
        del plain.functions[name]
    if not any(node.domain == DOMAIN for node in plain.graph):
        plain.opset_imports.pop(DOMAIN, None)
    return plain


def node_graph(graph: ir.Model) -> ir.Model:
    """A copy in which the node TokenSelect stands in the place of the operators of ``plain_graph``, without a function.

    Graphs with no such operators are copied as they are. Raises ExportError where the operators were changed.
    """
    restored, names = graph.clone(), selections(graph)
    if names:
        infer_shapes(restored)  # the operators were written for the number of tokens
    for name in names:
        before = _parts(restored.graph, name)
        old = {suffix: ir.serde.serialize_node(node).SerializeToString() for suffix, node in before.items()}
        node = _put_back(restored, name, before)
        again = restored.clone()
        _write_out(again, next(n for n in again.graph if n.name == name), f"{name}/scores_float" not in _names(before))
        new = {s: ir.serde.serialize_node(n).SerializeToString() for s, n in _parts(again.graph, name).items()}
        if old != new:
            raise _changed(node.name or "")
        restored.opset_imports[DOMAIN] = 1
    return restored


def selections(graph: ir.Model) -> list[str]:
    """Names of the nodes whose operators stand in a graph."""
    ends = (node.name or "" for node in graph.graph if node.op_type == "Equal")
    return [name.removesuffix(f"/{_FIRST}") for name in ends if f"{NAME}" in name and name.endswith(f"/{_FIRST}")]


def _write_out(model: ir.Model, node: ir.Node, float_scores: bool) -> None:
    """Put the function body of ``node`` in its place, constants as initializers."""
    slots, tokens = len(node.inputs) > 2, node.inputs[0]
    length = None if tokens is None or tokens.shape is None or len(tokens.shape) < 2 else tokens.shape[1]
    body = token_select_function(
        model.opset_imports[""],
        "slots" if slots else "attribute",
        node.attributes.get_string("order", "position"),
        k=None if slots else node.attributes.get_int("k"),
        prefix_tokens=node.attributes.get_int("prefix_tokens", 1),
        float_scores=float_scores,
        length=length if isinstance(length, int) else None,
    )
    function = ir.serde.deserialize_function(body)
    prefix = _free_prefix(model.graph, node.name or NAME)
    values: dict[ir.Value | None, ir.Value | None] = dict(zip(function.inputs, node.inputs, strict=True))
    results = dict(zip(function.outputs, node.outputs, strict=False))
    for inner in function:
        if inner.op_type == "Constant":
            constant = inner.attributes["value"].as_tensor()
            values[inner.outputs[0]] = _initializer(model.graph, f"{prefix}/{inner.outputs[0].name}", constant)
            continue
        new = ir.Node(
            "",
            inner.op_type,
            [values[value] for value in inner.inputs],
            inner.attributes.values(),
            num_outputs=len(inner.outputs),
            name=f"{prefix}/{inner.outputs[-1].name}",
        )
        model.graph.insert_before(node, new)
        for value, old in zip(new.outputs, inner.outputs, strict=True):
            value.name = f"{prefix}/{old.name}"
            values[old] = value
            if old in results:
                _take_place(value, results[old])
    model.graph.remove(node, safe=True)
    _drop_unread(model.graph, prefix)


def _initializer(graph: ir.Graph, name: str, constant: ir.TensorProtocol) -> ir.Value:
    value = ir.Value(name=name, const_value=ir.tensor(constant.numpy(), name=name))
    graph.register_initializer(value)
    return value


def _take_place(value: ir.Value, old: ir.Value) -> None:
    name = old.name
    value.type, value.shape, old.name = old.type, old.shape, f"{name}_before"
    value.name = name
    old.replace_all_uses_with(value, replace_graph_outputs=True)


def _put_back(model: ir.Model, name: str, parts: dict[str, ir.Node]) -> ir.Node:
    """Replace the operators ``parts`` by the node that they stand for."""
    graph = model.graph
    try:
        tokens = parts["flat"].inputs[0]
        scores = parts["scores_float" if "scores_float" in parts else _FIRST].inputs[0]
        slots = [parts["budget"].inputs[0]] if "budget" in parts else []
        k = 0 if slots else _number(graph, f"{name}/budget")
        outputs = [parts["selected"].outputs[0], parts["indices"].outputs[0]]
    except (KeyError, IndexError) as error:
        raise _changed(name) from error
    prefix = _number(graph, f"{name}/prefix") if f"{name}/prefix" in graph.initializers else 0
    attributes: dict[str, int | str] = {"k": k, "prefix_tokens": prefix}
    attributes |= {"order": "position" if "order" in parts else "score"}
    attributes |= {"plugin_namespace": DOMAIN, "plugin_version": VERSION}
    node = ir.node(NAME, [tokens, scores, *slots], attributes, domain=DOMAIN, num_outputs=2, name=name)
    graph.insert_before(parts[_FIRST], node)
    for new, old in zip(node.outputs, outputs, strict=True):
        _take_place(new, old)
    graph.remove(parts.values(), safe=True)
    _drop_unread(graph, name)
    graph.sort()
    return node


def _parts(graph: ir.Graph, name: str) -> dict[str, ir.Node]:
    """The operators of a selection by the last part of their names."""
    named = ((node.name or "", node) for node in graph)
    return {text.removeprefix(f"{name}/"): node for text, node in named if text.startswith(f"{name}/")}


def _names(parts: dict[str, ir.Node]) -> set[str]:
    return {node.name or "" for node in parts.values()}


def _number(graph: ir.Graph, name: str) -> int:
    value = graph.initializers[name].const_value
    if value is None or value.size != 1:
        raise KeyError(name)
    return int(value.numpy().item())


def _drop_unread(graph: ir.Graph, prefix: str) -> None:
    """Remove the constants of a selection that nothing reads."""
    for name, value in list(graph.initializers.items()):
        if name.startswith(f"{prefix}/") and not value.uses():
            del graph.initializers[name]


def _free_prefix(graph: ir.Graph, name: str) -> str:
    """``name``, with a number where a part of the graph is called as a part of it would be."""
    taken = set(_all_names(graph))
    number, prefix = 0, name
    while any(other.startswith(f"{prefix}/") for other in taken):
        number += 1
        prefix = f"{name}_{number}"
    return prefix


def _all_names(graph: ir.Graph) -> Iterator[str]:
    yield from graph.initializers
    for node in graph:
        yield node.name or ""
        yield from (value.name or "" for value in node.outputs)


def _changed(name: str) -> ExportError:
    return ExportError(
        f"the operators of {name} are not those that tokfilter wrote: another tool changed the graph. Take the file "
        "that `tokfilter export` wrote."
    )
