"""The operators that the parsers of TensorRT 8.5 and 8.6 read."""

import pytest

from tokfilter.kernels.op import DOMAIN, NAME
from tokfilter.trt.operators import OPERATORS, Operator, refusals


@pytest.mark.parametrize(
    "operator",
    [
        Operator("MatMul", types=("FLOAT", "FLOAT")),
        Operator("MatMul", types=("DOUBLE", None)),
        Operator("Where", types=("BOOL", "FLOAT", "FLOAT")),
        Operator("Gather", types=("INT64", "INT64")),
        Operator("Shape", types=("FLOAT",)),
        Operator("Slice", types=("FLOAT",), constant=(False, False, False, True)),
        Operator("ConstantOfShape", types=("INT64",)),
        Operator("Softmax"),
    ],
)
@pytest.mark.parametrize("version", ["8.5", "8.6"])
def test_operators_of_vits_are_read(operator, version):
    assert refusals([operator], version, plugin=False) == []


@pytest.mark.parametrize(
    ("operator", "reason"),
    [
        (Operator("Gelu", "mlp/Gelu"), r"Gelu (mlp/Gelu) is not known"),
        (Operator("MatMul", "a", "com.microsoft"), "MatMul (a) is not known"),
        (Operator("MatMul", "a", types=("INT64",)), "MatMul (a) takes FP16, FP32, not INT32"),
        (Operator("MatMul", "a", types=("BFLOAT16",)), "MatMul (a) takes FP16, FP32, not BFLOAT16"),
        (Operator("Where", "a", types=("BOOL", "INT8")), "Where (a) takes BOOL, FP16, FP32, INT32, not INT8"),
        (Operator("Shape", "a", attributes=frozenset({"start"})), "Shape (a) has start, which are ignored"),
        (Operator("Squeeze", "a", constant=(False, False)), "Squeeze (a) must have an initializer as input 1"),
        (Operator("Slice", "a", constant=(False, True, True, False)), "Slice (a) must have an initializer as input 3"),
        (Operator("TopK", "a", constant=(False, True), k=3841), "TopK (a) keeps 3841, more than 3840"),
        (Operator(NAME, "a", DOMAIN), f"{NAME} (a) needs the plugin: functions of a model are not read"),
    ],
)
def test_what_8_6_does_not_read_is_said(operator, reason):
    assert refusals([Operator("Add"), operator], "8.6", plugin=False) == [reason]


def test_the_plugin_makes_its_node_known():
    assert refusals([Operator(NAME, "a", DOMAIN)], "8.6", plugin=True) == []


def test_8_5_reads_less():
    norm, dynamic = Operator("LayerNormalization", "a"), Operator("TopK", "b", constant=(False, False))
    integers, bytes_ = Operator("TopK", "c", types=("INT32",)), Operator("Cast", "d", types=("UINT8",))
    assert refusals([norm, dynamic, integers, bytes_], "8.6", plugin=False) == []
    assert refusals([norm, dynamic, integers, bytes_], "8.5", plugin=False) == [
        "LayerNormalization (a) is not known",
        "TopK (b) must have an initializer as input 1",
        "TopK (c) takes FP16, FP32, not INT32",
        "Cast (d) takes BOOL, FP16, FP32, INT32, INT8, not UINT8",
    ]


def test_the_table_has_no_operator_twice():
    assert len(OPERATORS) == 128
    assert all(types for types in OPERATORS.values())
