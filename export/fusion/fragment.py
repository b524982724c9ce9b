"""A part of a foreign graph, cut out so that it can be run alone on given tokens and scores."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from tokfilter.export.fusion.shapes import Shapes, Sizes

__all__ = ["Fragment", "FragmentError"]


class FragmentError(Exception):
    """ONNX Runtime rejects the fragment at the sizes tried; never raised outside this package."""


class Fragment:
    """The nodes that compute ``outputs`` from ``tokens`` and ``scores``.

    Other tensors may be read for their shape only: there the cut is behind the Shape node, and its result is fed.

    nodes: the nodes inside
    outside: other graph inputs that the outputs depend on; with any, the fragment cannot be run
    """

    def __init__(
        self, tokens: ir.Value, scores: ir.Value, outputs: Sequence[ir.Value], shapes: Shapes, sizes: Sizes
    ) -> None:
        self.tokens, self.scores, self.outputs = tokens, scores, list(dict.fromkeys(outputs))
        self.nodes: set[ir.Node] = set()
        self.outside: list[ir.Value] = []
        self._shapes = shapes
        self._lengths: list[ir.Value] = []
        self._collect(sizes)

    def _collect(self, sizes: Sizes) -> None:
        seen, waiting = {self.tokens, self.scores}, list(self.outputs)
        while waiting:
            value = waiting.pop()
            # An initializer that is a graph input as well is a default, which a caller may override.
            if value in seen or (value.is_initializer() and not value.is_graph_input()):
                continue
            seen.add(value)
            node = value.producer()
            if node is None:
                self.outside.append(value)
                continue
            self.nodes.add(node)
            if node.op_type in ("Shape", "Size") and self._shapes.at(_source(node), sizes) is not None:
                self._lengths.append(value)
            else:
                waiting += [read for read in node.inputs if read is not None]

    def computed(self) -> list[ir.Value]:
        """Every value that is computed inside."""
        return [value for node in self.nodes for value in node.outputs if value not in self._lengths]

    def session(self, model: ir.Model) -> Any:
        """An ONNX Runtime session of the fragment. Raises FragmentError."""
        import onnxruntime

        inputs = [self.tokens, self.scores, *self._lengths]
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        try:
            graph = ir.convenience.extract(model.graph, inputs, self.outputs)
            for value in (value for node in graph for value in node.outputs):
                value.type, value.shape = None, None  # run in fp32 whatever the graph's type: rows are only moved
            for value, original in zip(graph.inputs, inputs, strict=True):
                # A type of its own: a clone shares the type objects of the model.
                value.type = ir.TensorType(ir.DataType.INT64 if original in self._lengths else ir.DataType.FLOAT)
                value.shape = None
            cut = ir.to_proto(ir.Model(graph, ir_version=model.ir_version)).SerializeToString()
            return onnxruntime.InferenceSession(cut, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors share no base of their own
            raise FragmentError(str(error)) from error

    def run(
        self, session: Any, tokens: NDArray[np.float32], scores: NDArray[np.float32], sizes: Sizes
    ) -> dict[ir.Value, NDArray[Any]]:
        """Outputs for ``tokens`` and ``scores`` at ``sizes``. Raises FragmentError."""
        feeds = {self.tokens.name: tokens, self.scores.name: scores}
        feeds |= {value.name: self._length(value, sizes) for value in self._lengths}
        try:
            results = session.run(None, feeds)
        except Exception as error:
            raise FragmentError(str(error)) from error
        return dict(zip(self.outputs, results, strict=True))

    def _length(self, value: ir.Value, sizes: Sizes) -> Any:
        node = value.producer()
        assert node is not None
        shape = self._shapes.at(_source(node), sizes) or ()
        if node.op_type == "Size":
            return np.asarray(math.prod(shape), dtype=np.int64)
        start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(shape))
        return np.asarray(shape[start:end], dtype=np.int64)


def _source(node: ir.Node) -> ir.Value:
    (value,) = node.inputs
    assert value is not None
    return value
