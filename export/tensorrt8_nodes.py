"""Which nodes of a graph for TensorRT 8 its parser reads, and which stay in fp32 when the builder chooses fp16."""

from collections.abc import Collection, Iterable, Iterator
from typing import Final

import onnx_ir as ir

from tokfilter.errors import ExportError
from tokfilter.export.shapes import infer_shapes
from tokfilter.kernels.op import DOMAIN, NAME
from tokfilter.trt.operators import Operator, ParserVersion, refusals

__all__ = ["FP32_OPERATORS", "FP32_UP_TO_CHOICE", "check_operators", "fp32_nodes", "written_out"]

FP32_OPERATORS: Final[frozenset[str]] = frozenset()
"""Operators that stay in fp32 everywhere in a graph.

None: TensorRT 8.6 makes one block of the whole network, and with LayerNormalization in fp32 all of it ran in fp32
(H100, docs/gpu.md). Inside, that layer computes in fp32 in any case.
"""

FP32_UP_TO_CHOICE: Final = False
"""Whether everything up to the choice of tokens stays in fp32, for the same reason not."""

_EXACT_IN_FP16: Final = 2048
"""Whole numbers up to this are exact in fp16."""

_SHOWN: Final = 3
"""Refused nodes that a message names."""


def check_operators(graph: ir.Model, version: ParserVersion, plugin: bool) -> None:
    """Raise ExportError where the parser of this TensorRT does not read a node, or the graph has functions.

    Types are checked where they are known: infer the shapes first.
    """
    if graph.functions:
        names = ", ".join(sorted(name for _, name, _ in graph.functions))
        raise ExportError(
            f"TensorRT {version} reads no model-local functions, and the graph has {names}: make a graph for it with "
            "`tokfilter engine` or `tokfilter export`, which write them out as standard operators."
        )
    refused = refusals((_operator(node) for node in graph.graph), version, plugin)
    if refused:
        more = f" and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN else ""
        fixed = " Give a fixed budget (--keep)." if any("initializer as input 1" in text for text in refused) else ""
        raise ExportError(
            f"TensorRT {version} does not read this graph: {'; '.join(refused[:_SHOWN])}{more}.{fixed} Newer versions "
            "(10.3 and later) read it."
        )


def _operator(node: ir.Node) -> Operator:
    constants = [None if value is None else value.const_value for value in node.inputs]
    is_topk = node.op_type == "TopK" and len(constants) > 1 and constants[1] is not None
    return Operator(
        node.op_type,
        node.name or "",
        node.domain,
        tuple(None if value is None or value.dtype is None else value.dtype.name for value in node.inputs),
        tuple(constant is not None for constant in constants),
        frozenset(node.attributes),
        int(constants[1].numpy().item()) if is_topk and constants[1] is not None else None,
    )


def fp32_nodes(
    graph: ir.Model, operators: Collection[str] = FP32_OPERATORS, up_to_choice: bool = FP32_UP_TO_CHOICE
) -> tuple[str, ...]:
    """Names of the nodes of numbers that stay in fp32, for ``trt.build.BuildOptions.fp32_layers``.

    operators: which stay in fp32 everywhere
    up_to_choice: whether everything up to the choice of tokens does, where an error changes which tokens are kept; in
        the full graph the same layers, which come before the first block. The plugin takes the tokens in the type of
        the blocks

    Where native ops sort positions above 2048, which fp16 rounds, those are named in any case.
    """
    graph = graph.clone()
    infer_shapes(graph)
    before = set(_up_to_choice(graph.graph)) if up_to_choice else set(_sorted_positions(graph.graph))
    return tuple(
        str(node.name)
        for node in graph.graph
        if (node in before or _is_one_of(node, operators)) and not _is_select(node) and _gives_numbers(node)
    )


def written_out(graph: ir.Model, names: Iterable[str]) -> list[str]:
    """The nodes ``names`` of an export's graph as they are called in its graph for TensorRT 8, in the order there.

    A node that became several, such as TokenSelect without the plugin, has its name before a slash in theirs; where the
    export has its operators, any of them stands for all.
    """
    wanted = {name.rpartition("/")[0] if f"{NAME}/" in name else name for name in names}
    found = [node.name or "" for node in graph.graph]
    return [name for name in found if name in wanted or name.rpartition("/")[0] in wanted]


def _sorted_positions(graph: ir.Graph) -> Iterator[ir.Node]:
    """The nodes that sort positions as floats, where there are more than fp16 tells apart."""
    chosen = [node for node in graph if node.op_type == "TopK"]
    shapes = [node.inputs[0].shape for node in chosen if node.inputs[0] is not None]
    lengths = [shape[-1] for shape in shapes if shape is not None]
    if any(isinstance(length, int) and length > _EXACT_IN_FP16 for length in lengths):
        for node in chosen:
            cast = None if node.inputs[0] is None else node.inputs[0].producer()
            if cast is not None and cast.op_type == "Cast":
                yield from (cast, node)


def _up_to_choice(graph: ir.Graph) -> Iterator[ir.Node]:
    kept = next((value for value in graph.outputs if value.name == "indices"), None)
    if kept is None:  # the full graph
        for node in graph:
            if (node.name or "").startswith("blocks."):
                return
            yield node
        return
    waiting, seen = [kept], set()
    while waiting:
        producer = waiting.pop().producer()
        if producer is not None and producer not in seen:
            seen.add(producer)
            yield producer
            waiting.extend(value for value in producer.inputs if value is not None)


def _is_one_of(node: ir.Node, operators: Collection[str]) -> bool:
    """Whether the operator, or the one that it was decomposed from and is named after, is in ``operators``."""
    origins = {part.split("_")[0] for part in (node.name or "").split("/")[1:]}
    return node.op_type in operators or not origins.isdisjoint(operators)


def _is_select(node: ir.Node) -> bool:
    return (node.domain, node.op_type) == (DOMAIN, NAME)


def _gives_numbers(node: ir.Node) -> bool:
    return any(value.dtype in (None, ir.DataType.FLOAT) for value in node.outputs)
