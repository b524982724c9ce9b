"""Operators that the ONNX parsers of TensorRT 8.5 and 8.6 read, with their types and conditions.

Copied from onnx-tensorrt's ``docs/operators.md`` (branches 8.5-GA and 8.6-GA, opset 17); what the page leaves out was
read in ``builtin_op_importers.cpp``. A graph is checked before TensorRT is asked: its parser names the first node that
it does not read, and reads some attributes otherwise than ONNX without a message.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from tokfilter.kernels.op import DOMAIN, NAME
from tokfilter.trt.versions import MAX_TOPK

__all__ = ["OPERATORS", "Operator", "ParserVersion", "refusals"]

ParserVersion = Literal["8.5", "8.6"]


@dataclass(frozen=True)
class Operator:
    """What the check has to know of one node.

    name: of the node, for messages
    types: ONNX's names of the types of its inputs; None where unknown
    constant: for each input, whether it is an initializer
    attributes: names
    k: TopK's K where it is constant
    """

    op: str
    name: str = ""
    domain: str = ""
    types: tuple[str | None, ...] = ()
    constant: tuple[bool, ...] = ()
    attributes: frozenset[str] = field(default_factory=frozenset)
    k: int | None = None


_FLOAT: Final = frozenset({"FP32", "FP16"})
_NUMBER: Final = _FLOAT | {"INT32"}
_QUANTIZED: Final = _FLOAT | {"INT8"}
_ANY: Final = _NUMBER | {"INT8", "BOOL"}

_BY_TYPES: Final[Mapping[frozenset[str], str]] = {
    _FLOAT: "Acos Acosh Asin Asinh Atan Atanh BatchNormalization Ceil Celu Cos Cosh CumSum Dropout Einsum Erf Exp "
    "Floor GridSample GroupNormalization InstanceNormalization IsInf LRN LayerNormalization Log LogSoftmax "
    "LpNormalization MatMul MeanVarianceNormalization NonZero Pow QuantizeLinear Reciprocal ReduceL1 ReduceL2 "
    "ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Resize Sin Sinh "
    "Softmax Sqrt Tan",
    _NUMBER: "Abs Add ArgMax ArgMin DepthToSpace Div Equal Greater GreaterOrEqual IsNaN Less LessOrEqual Max Mean Min "
    "Mod Mul Neg Range Shrink SpaceToDepth Sub Sum TopK",
    _QUANTIZED: "Clip Conv ConvTranspose Elu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool HardSigmoid HardSwish "
    "LeakyRelu LpPool MaxPool PRelu Relu Round Selu Sigmoid Softplus Softsign Tanh ThresholdedRelu",
    _ANY: "Concat Constant Gather GatherElements GatherND Identity Reshape ReverseSequence Shape Size Slice Squeeze "
    "Transpose Trilu Unsqueeze",
    _NUMBER | {"BOOL"}: "Expand EyeLike Flatten OneHot Split Tile Where",
    _NUMBER | {"INT8"}: "AveragePool Pad ScatterElements ScatterND Sign",
    _ANY | {"UINT8"}: "Cast",
    frozenset({"BOOL"}): "And Not Or Xor",
    frozenset({"INT8"}): "DequantizeLinear",
    frozenset({"FP32"}): "ConstantOfShape",
}

OPERATORS: Final[Mapping[str, frozenset[str]]] = {op: types for types, ops in _BY_TYPES.items() for op in ops.split()}
"""Operator -> the types that TensorRT 8.6 takes. Control flow, recurrent and random operators are left out."""

_NOT_IN_8_5: Final = frozenset({"GroupNormalization", "IsInf", "LayerNormalization"})
_ONLY_FLOAT_IN_8_5: Final = frozenset({"ArgMax", "ArgMin", "ReverseSequence", "TopK"})

_INITIALIZERS: Final[Mapping[str, int]] = {"CumSum": 1, "ReduceSum": 1, "Slice": 3, "Squeeze": 1, "Unsqueeze": 1}
"""Operator -> its input that must be an initializer."""

_TYPED_INPUT: Final[Mapping[str, int]] = {"Where": 1, "ConstantOfShape": 1, "Size": 1, "Shape": 1}
"""Operator -> the input whose type counts, where it is not the first; none of that number: any type."""

_IGNORED: Final[Mapping[str, frozenset[str]]] = {"Shape": frozenset({"start", "end"})}
"""Attributes that the parsers ignore without a message."""

_TYPE_NAMES: Final[Mapping[str, str]] = {
    "FLOAT": "FP32",
    "DOUBLE": "FP32",
    "FLOAT16": "FP16",
    "INT32": "INT32",
    "INT64": "INT32",
    "INT8": "INT8",
    "UINT8": "UINT8",
    "BOOL": "BOOL",
}
"""ONNX type -> TensorRT's, which takes 64-bit numbers as 32-bit ones."""


def refusals(operators: Iterable[Operator], version: ParserVersion, plugin: bool) -> list[str]:
    """Why the parser does not read a graph: a sentence part for each node that it refuses, empty where it reads all.

    plugin: whether the plugin is loaded, so that TokenSelect is known
    """
    return [reason for operator in operators if (reason := _refusal(operator, version, plugin)) is not None]


def _refusal(operator: Operator, version: ParserVersion, plugin: bool) -> str | None:
    name = f"{operator.op} ({operator.name})"
    if (operator.domain, operator.op) == (DOMAIN, NAME):
        return None if plugin else f"{name} needs the plugin: functions of a model are not read"
    types = None if operator.domain else OPERATORS.get(operator.op)
    if types is None or (version == "8.5" and operator.op in _NOT_IN_8_5):
        return f"{name} is not known"
    if version == "8.5" and operator.op in _ONLY_FLOAT_IN_8_5:
        types = _FLOAT
    if (version, operator.op) == ("8.5", "Cast"):
        types = types - {"UINT8"}
    found = _type(operator)
    if found is not None and found not in types:
        return f"{name} takes {', '.join(sorted(types))}, not {found}"
    ignored = _IGNORED.get(operator.op, frozenset()) & operator.attributes
    if ignored:
        return f"{name} has {', '.join(sorted(ignored))}, which are ignored"
    number = 1 if (operator.op, version) == ("TopK", "8.5") else _INITIALIZERS.get(operator.op)
    if number is not None and number < len(operator.constant) and not operator.constant[number]:
        return f"{name} must have an initializer as input {number}"
    if operator.op == "TopK" and operator.k is not None and operator.k > MAX_TOPK:
        return f"{name} keeps {operator.k}, more than {MAX_TOPK}"
    return None


def _type(operator: Operator) -> str | None:
    position = _TYPED_INPUT.get(operator.op, 0)
    found = operator.types[position] if position < len(operator.types) else None
    return None if found is None else _TYPE_NAMES.get(found, found)
