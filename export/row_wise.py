"""Which nodes compute every row of tokens [B, N, C] by itself: rows can then be left out, or be those of a matrix."""

from typing import Final

import onnx_ir as ir

from tokfilter.export.contrib.walk import constant, made_by

__all__ = ["is_row_wise", "token_inputs"]

_UNARY: Final = ("Erf", "Gelu", "HardSigmoid", "Identity", "Relu", "Sigmoid", "Softplus", "Tanh")
_BINARY: Final = ("Add", "Div", "Mul", "Pow", "Sub")
_QUANTIZERS: Final = ("DequantizeLinear", "QuantizeLinear")
_NORMS: Final = ("LayerNormalization", "RMSNormalization")


def is_row_wise(node: ir.Node) -> bool:
    """Whether each row [C] of the output [B, N, C'] depends on the same row of the inputs, and on constants, only."""
    if node.domain or len(node.outputs) != 1 or not _is_tokens(node.outputs[0]):
        return False
    tokens, others = token_inputs(node), [value for value in node.inputs if value is not None and not _is_tokens(value)]
    if not tokens or (node.op_type not in _BINARY and tokens[0] is not node.inputs[0]):
        return False
    if node.op_type == "MatMul":
        return len(tokens) == 1 and (_rank(others[0]) == 2 or _is_dequantized_matrix(others[0]))
    if node.op_type in _QUANTIZERS:
        return len(tokens) == 1 and all(_rank(value) == 0 for value in others)
    if node.op_type in _NORMS:
        return len(tokens) == 1 and node.attributes.get_int("axis", -1) in (-1, 2) and all(map(_is_per_channel, others))
    if node.op_type in _BINARY:
        return all(value.shape == node.outputs[0].shape for value in tokens) and all(map(_is_per_channel, others))
    return node.op_type in _UNARY


def token_inputs(node: ir.Node) -> list[ir.Value]:
    """The inputs that are no constants and have the form [B, N, C]."""
    return [value for value in node.inputs if value is not None and _is_tokens(value)]


def _is_tokens(value: ir.Value) -> bool:
    return constant(value) is None and value.shape is not None and len(value.shape) == 3


def _is_per_channel(value: ir.Value) -> bool:
    """A constant of one number, or of one for each channel."""
    rank = _rank(value)
    return rank is not None and rank <= 1


def _is_dequantized_matrix(value: ir.Value) -> bool:
    """A weight in 8 bits after DequantizeLinear."""
    node = made_by(value, "DequantizeLinear")
    return node is not None and node.inputs[0] is not None and _rank(node.inputs[0]) == 2


def _rank(value: ir.Value) -> int | None:
    numbers = value.const_value
    return None if numbers is None else len(tuple(numbers.shape))
