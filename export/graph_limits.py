"""Bounds of an ONNX graph of a stranger, before anything is expanded or allocated: functions and sizes of tensors."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from tokfilter.artifacts.limits import MAX_GRAPH_NODES
from tokfilter.errors import ExportError

__all__ = ["check_limits"]


def check_limits(graph: ir.Model, name: str) -> None:
    """Raise ExportError: functions that call themselves or expand without end, names that are no text, inputs of nodes
    that nothing gives, and tensors without a type or without their bytes.
    """
    count = _expanded(graph)
    if count > MAX_GRAPH_NODES:
        raise ExportError(
            f"{name} must have at most {MAX_GRAPH_NODES} nodes once its functions are expanded, and has more."
        )
    _check_names(graph, name)
    _check_order(graph, name)
    for tensor in _tensors(graph):
        if not _has_type(tensor):
            raise ExportError(
                f"{name}: tensor {tensor.name!r:.80} has no data type. The file is damaged: export it again."
            )
        held = _bytes_held(tensor)
        if held is not None and held < tensor.nbytes:
            raise ExportError(
                f"{name}: tensor {tensor.name!r:.80} {list(tensor.shape)} takes {tensor.nbytes} bytes and holds "
                f"{held}. The file is damaged: export it again."
            )


def _has_type(tensor: Any) -> bool:
    try:
        return bool(tensor.dtype != ir.DataType.UNDEFINED)
    except ValueError:  # a number that ONNX gives no type
        return False


def _check_names(graph: ir.Model, name: str) -> None:
    """Names are UTF-8: protobuf gives others as bytes, and onnx-ir fails when such a graph is written.

    Only nodes of functions take attributes from their function.
    """
    loose = [node.name for node in ir.traversal.RecursiveGraphIterator(graph.graph) if _takes_attributes(node)]
    if loose:
        raise ExportError(
            f"{name} is no valid ONNX graph: node {loose[0]!r:.80} takes an attribute from a function and is in none."
        )
    for body in (graph.graph, *(function.graph for function in graph.functions.values())):
        texts: list[Any] = [value.name for value in (*body.inputs, *body.outputs)]
        for node in ir.traversal.RecursiveGraphIterator(body):
            texts += [node.name, node.op_type, node.domain, node.doc_string, *node.attributes]
            texts += [value.name for value in node.outputs]
        broken = [text for text in texts if isinstance(text, bytes)]
        if broken:
            raise ExportError(f"{name}: the name {broken[0]!r:.80} is not UTF-8. The file is damaged: export it again.")


def _takes_attributes(node: ir.Node) -> bool:
    return any(attribute.is_ref() for attribute in node.attributes.values())


def _check_order(graph: ir.Model, name: str) -> None:
    """Each input of a node comes before it: from the graph's inputs and weights, or from a node above.

    onnx-ir makes up a value for a name that nothing gives, and fails when such a graph is copied.
    """

    known: set[ir.Value] = set()  # one set for all: a copy for each subgraph takes time by the square

    def check(body: ir.Graph) -> None:
        own = [*body.inputs, *body.initializers.values()]
        known.update(own)
        for node in body:
            missing = [value for value in node.inputs if value is not None and value not in known]
            if missing:
                raise ExportError(
                    f"{name} is no valid ONNX graph: node {node.name!r:.80} ({node.op_type!r:.40}) takes "
                    f"{missing[0].name!r:.80}, which no input, weight or node above it gives."
                )
            for inner in _subgraphs(node):
                check(inner)
            known.update(node.outputs)
            own += node.outputs
        lost = [value for value in body.outputs if value not in known]
        if lost:
            raise ExportError(f"{name} is no valid ONNX graph: nothing gives its output {lost[0].name!r:.80}.")
        known.difference_update(own)

    for body in (graph.graph, *(function.graph for function in graph.functions.values())):
        check(body)


def _subgraphs(node: ir.Node) -> Iterable[ir.Graph]:
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def _expanded(graph: ir.Model) -> int:
    """Nodes after every call of a function is replaced by its body; larger than MAX_GRAPH_NODES means too many."""
    counts: dict[Any, int] = {}
    active: set[Any] = set()

    def of_nodes(nodes: Iterable[ir.Node]) -> int:
        total = 0
        for node in nodes:
            total += of_function(node.op_identifier()) if node.op_identifier() in graph.functions else 1
            if total > MAX_GRAPH_NODES:
                break
        return total

    def of_function(key: Any) -> int:
        if key in active:
            raise ExportError(f"function {key[0]}::{key[1]} of the graph calls itself, which ONNX does not allow.")
        if key not in counts:
            active.add(key)
            counts[key] = of_nodes(ir.traversal.RecursiveGraphIterator(graph.functions[key].graph))
            active.discard(key)
        return counts[key]

    try:
        return of_nodes(ir.traversal.RecursiveGraphIterator(graph.graph))
    except RecursionError as error:
        raise ExportError("functions of the graph call each other too deeply.") from error


def _tensors(graph: ir.Model) -> Iterable[Any]:
    bodies = [graph.graph, *(function.graph for function in graph.functions.values())]
    for body in bodies:
        yield from (v.const_value for v in body.initializers.values() if v.const_value is not None)
        for node in ir.traversal.RecursiveGraphIterator(body):
            attributes: Mapping[str, Any] = node.attributes
            yield from (a.value for a in attributes.values() if not a.is_ref() and a.type == ir.AttributeType.TENSOR)


def _bytes_held(tensor: Any) -> int | None:
    """Bytes of a tensor in its file, or an upper bound; None where there is none to compare."""
    if isinstance(tensor, ir.ExternalTensor):
        path = Path(tensor.path)
        return path.stat().st_size - (tensor.offset or 0) if path.is_file() else None
    if not isinstance(tensor, ir.TensorProtoTensor):
        return None
    proto = tensor.raw
    if proto.HasField("raw_data"):
        return len(proto.raw_data)
    numbers = (proto.float_data, proto.int32_data, proto.int64_data, proto.double_data, proto.uint64_data)
    return 8 * max(map(len, numbers))  # each number stands for at most 8 bytes
