"""How many nodes an ONNX file has once its functions are expanded, read from its bytes without the package onnx.

An inference engine puts the body of a function in the place of each call when it loads a graph: 30 functions that call
the next one twice are 2^30 nodes. Field numbers: onnx/onnx.proto (ModelProto, FunctionProto, GraphProto, NodeProto,
AttributeProto); the wire format: protobuf's "Encoding" page.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tokfilter.artifacts.limits import MAX_GRAPH_NODES
from tokfilter.errors import EngineError

__all__ = ["check_functions"]

_Bytes = bytes | memoryview
_Call = tuple[str, str]

_MODEL_GRAPH: Final = 7
_MODEL_FUNCTIONS: Final = 25
_FUNCTION_NAME: Final = 1
_FUNCTION_NODE: Final = 7
_FUNCTION_DOMAIN: Final = 10
_GRAPH_NODE: Final = 1
_NODE_OPERATOR: Final = 4
_NODE_ATTRIBUTE: Final = 5
_NODE_DOMAIN: Final = 7
_ATTRIBUTE_GRAPHS: Final = (6, 11)

_FIXED: Final = {1: 8, 5: 4}
"""Wire type -> bytes."""
_MOST_SUBGRAPHS: Final = 100
"""Graphs within each other; protobuf reads no deeper messages."""


def check_functions(path: Path, name: str) -> None:
    """Raise EngineError where functions call themselves or expand to more than MAX_GRAPH_NODES nodes.

    name: of the file, for the message
    A file that is no protobuf message passes: the engine refuses it.
    """
    with path.open("rb") as file:
        if not file.seek(0, 2):
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content, memoryview(content) as view:
            try:
                count = _expanded(view)
            except (IndexError, ValueError, UnicodeDecodeError):
                return
    if count > MAX_GRAPH_NODES:
        raise EngineError(
            f"{name} must have at most {MAX_GRAPH_NODES} nodes once its functions are expanded, and has more. "
            "Export again."
        )


def _expanded(model: memoryview) -> int:
    """Nodes after every call is replaced by a function's body; MAX_GRAPH_NODES + 1 stands for more, or without end.

    0 without functions: then nodes are not looked at.
    """
    functions = dict(_function(value) for number, value in _fields(model) if number == _MODEL_FUNCTIONS)
    if not functions:
        return 0
    graphs = (value for number, value in _fields(model) if number == _MODEL_GRAPH)
    calls = [call for graph in graphs for call in _calls(graph, _GRAPH_NODE)]
    counts: dict[_Call, int] = {}
    for key in _callees_first(functions):
        counts[key] = min(MAX_GRAPH_NODES + 1, sum(counts.get(call, 1) for call in functions[key]))
    total = 0
    for call in calls:
        # a function without a count is part of a circle
        total += counts.get(call, MAX_GRAPH_NODES + 1) if call in functions else 1
    return total


def _callees_first(functions: dict[_Call, list[_Call]]) -> Iterator[_Call]:
    """Functions after those that they call; those of a circle, and what calls them, are left out."""
    waiting = {key: {call for call in body if call in functions} for key, body in functions.items()}
    callers: dict[_Call, list[_Call]] = {}
    for key, body in waiting.items():
        for call in body:
            callers.setdefault(call, []).append(key)
    ready = [key for key, body in waiting.items() if not body]
    while ready:
        key = ready.pop()
        yield key
        for caller in callers.get(key, ()):
            waiting[caller].discard(key)
            if not waiting[caller]:
                ready.append(caller)


def _function(message: _Bytes) -> tuple[_Call, list[_Call]]:
    texts = {number: value for number, value in _fields(message) if number in (_FUNCTION_NAME, _FUNCTION_DOMAIN)}
    key = _text(texts.get(_FUNCTION_DOMAIN, b"")), _text(texts.get(_FUNCTION_NAME, b""))
    return key, _calls(message, _FUNCTION_NODE)


def _calls(message: _Bytes, field: int, depth: int = 0) -> list[_Call]:
    """Domain and operator of each node in a graph or function, those of subgraphs included."""
    if depth > _MOST_SUBGRAPHS:
        raise ValueError("subgraphs within each other are too deep for protobuf")
    found = []
    for number, node in _fields(message):
        if number != field:
            continue
        domain, operator = "", ""
        for part, value in _fields(node):
            if part == _NODE_OPERATOR:
                operator = _text(value)
            elif part == _NODE_DOMAIN:
                domain = _text(value)
            elif part == _NODE_ATTRIBUTE:
                graphs = (graph for key, graph in _fields(value) if key in _ATTRIBUTE_GRAPHS)
                found += [call for graph in graphs for call in _calls(graph, _GRAPH_NODE, depth + 1)]
        found.append((domain, operator))
    return found


def _text(value: _Bytes) -> str:
    return bytes(value).decode()


def _fields(message: _Bytes) -> Iterator[tuple[int, _Bytes]]:
    """Number and bytes of each field that has a length. Raises IndexError, ValueError for what is no message."""
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        kind = key & 7
        if not key >> 3:
            raise ValueError("protobuf has no field 0")  # zeros would be fields of two bytes without end
        if kind == 2:
            size, at = _varint(message, at)
            if size > end - at:
                raise ValueError("a field is longer than its message")
            yield key >> 3, message[at : at + size]
            at += size
        elif kind == 0:
            _, at = _varint(message, at)
        elif kind in _FIXED:
            at += _FIXED[kind]
        else:
            raise ValueError(f"protobuf's wire type {kind} is not in use")


def _varint(message: _Bytes, at: int) -> tuple[int, int]:
    """A number of 7 bits for each byte, and the position after it."""
    number = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
    raise ValueError("a number has more than 64 bits")
