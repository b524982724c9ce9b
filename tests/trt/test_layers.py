"""Layers that stay in fp32 in an fp16 engine of TensorRT 8, on a fake network with the names of its parser."""

from types import SimpleNamespace

import pytest

from tokfilter.errors import EngineError
from tokfilter.trt.layers import keep_in_fp32, node_of_layer

MODULE = SimpleNamespace(
    __name__="tensorrt",
    __version__="8.6.0",
    float32="fp32",
    float16="fp16",
    LayerType=SimpleNamespace(SHUFFLE="shuffle", CONSTANT="constant", SHAPE="shape", OTHER="other"),
)


class Layer:
    def __init__(self, name, outputs, metadata="", type="other", inputs=(), dtype="fp32"):
        self.name, self.metadata, self.type, self.precision, self.types = name, metadata, type, None, {}
        self.outputs = [SimpleNamespace(name=output, dtype=dtype) for output in outputs]
        self.inputs = [SimpleNamespace(name=source) for source in inputs]
        self.num_outputs, self.num_inputs = len(outputs), len(inputs)

    def get_output(self, index):
        return self.outputs[index]

    def get_input(self, index):
        return self.inputs[index]

    def set_output_type(self, index, dtype):
        self.types[index] = dtype


def network_of(*layers):
    return SimpleNamespace(num_layers=len(layers), get_layer=lambda index: layers[index])


@pytest.mark.parametrize(
    ("layer", "node"),
    [
        (Layer("a/MatMul", ["x"], "[ONNX Layer: a/MatMul]"), "a/MatMul"),
        (Layer("a/MatMul_7", ["x"], "[ONNX Layer: a/MatMul]"), "a/MatMul"),
        (Layer("a", ["x"], "[ONNX Layer: a/MatMul | the doc string]"), "a/MatMul"),
        (Layer("(Unnamed Layer* 3) [Normalization]", ["n/LayerNormalization:0"]), "n/LayerNormalization"),
        (Layer("a/Slice_1", ["x"]), "a/Slice_1"),
        (Layer("a/Slice_1_12", ["x"]), "a/Slice_1"),
        (Layer("(Unnamed Layer* 3) [Shuffle]", ["(Unnamed Layer* 3) [Shuffle]_output"]), None),
    ],
)
def test_the_node_of_a_layer(layer, node):
    assert node_of_layer(layer, {"a/Slice_1", "a/Slice"}) == node


def test_named_layers_and_what_moves_their_output_stay_in_fp32():
    scores = Layer("s/MatMul", ["(Unnamed Layer* 0)_output"], "[ONNX Layer: s/MatMul]")
    moved = Layer("(Unnamed Layer* 1)", ["moved"], type="shuffle", inputs=["(Unnamed Layer* 0)_output"])
    top = Layer("s/TopK", ["values", "places"], "[ONNX Layer: s/TopK]")
    top.outputs[1].dtype = "int32"
    block = Layer("blocks.0/MatMul", ["y"], "[ONNX Layer: blocks.0/MatMul]")
    other = Layer("(Unnamed Layer* 2)", ["z"], type="shuffle", inputs=["y"])
    assert keep_in_fp32(MODULE, network_of(scores, moved, top, block, other), ["s/MatMul", "s/TopK"]) == []
    assert [layer.precision for layer in (scores, moved, top, block, other)] == ["fp32", "fp32", "fp32", None, None]
    assert top.types == {0: "fp32"}, "indices are numbers of another type"


def test_layers_of_shapes_and_constants_have_no_type_to_choose():
    shape = Layer("s/Shape", ["a"], "[ONNX Layer: s/Shape]", dtype="int32")
    constant = Layer("s/Constant", ["b"], "[ONNX Layer: s/Constant]", type="constant")
    assert keep_in_fp32(MODULE, network_of(shape, constant), ["s/Shape", "s/Constant"]) == []
    assert shape.precision is constant.precision is None


def test_names_without_a_layer_are_returned_and_no_layer_at_all_is_an_error():
    network = network_of(Layer("a/MatMul", ["x"], "[ONNX Layer: a/MatMul]"))
    assert keep_in_fp32(MODULE, network, ["a/MatMul", "b/MatMul"]) == ["b/MatMul"]
    with pytest.raises(EngineError, match=r"TensorRT 8.6.0 has no layer for any of the 1 ONNX nodes .* as b/MatMul"):
        keep_in_fp32(MODULE, network, ["b/MatMul"])
    assert keep_in_fp32(MODULE, network, []) == []
