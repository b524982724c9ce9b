"""TokenSelect in standard ONNX operators: the body of a model-local function, or nodes in the place of the node.

====  ==============================================================================================================
flat  one Gather over flattened tokens fetches all rows, prefix included: each row is one contiguous copy, and no
      Concat of tokens follows. It needs the number of images as a value
cuda  GatherND over the batch. ONNX Runtime computes the number of images on the CPU and copies it to the GPU, which
      a CUDA graph cannot hold, so it is not computed here
====  ==============================================================================================================

The operators have the same meaning in every opset from 13, so one text serves all. What runtimes refuse is avoided:

* IsNaN (MNN), constants that are not tensors (``value_int`` in ONNX Runtime's ``quant_pre_process``), two tensors of
  one name (TensorRT-RTX 1.7)
* Flatten: ONNX Runtime's symbolic shape inference loses the width, so that ``quant_pre_process`` stops
* a last output of TopK that nothing reads: pnnx removes it, which leaves an invalid TopK
* GatherElements: onnx's ReferenceEvaluator takes 64 rows at most, and ONNX Runtime is slow
* GatherND over the batch, except for CUDA: onnx2torch has none, and ONNX Runtime's symbolic shape inference gets it
  wrong, so that ``quant_pre_process`` stops
"""

from collections.abc import Sequence
from typing import Final

import onnx
import onnx.parser

from tokfilter.errors import ContractError
from tokfilter.kernels.op import DOMAIN, NAME

__all__ = ["MIN_OPSET", "token_select_function"]

MIN_OPSET: Final = 12

_AXES_AS_INPUT: Final = 13
"""First opset whose Unsqueeze takes its axes as an input."""

_ORDERS: Final = ("score", "position", "either")

# TensorRT's parser requires the same number of inputs on the node and on its function.
_INPUTS: Final = {"slots": "tokens, scores, slots", "attribute": "tokens, scores"}

# "either" is for a model with nodes of both orders: a runtime keeps one body per name (TensorRT-RTX 1.7 ignores
# overload and domain), and a body cannot branch on a string, so the nodes repeat ``order`` as a number.
_ATTRIBUTES: Final = {"either": ", by_position: int = 1"}

_CONSTANTS: Final = """
  zero = Constant <value = int64[1] {0}> ()
  one = Constant <value = int64[1] {1}> ()
  two = Constant <value = int64[1] {2}> ()
  minus_one = Constant <value = int64[1] {-1}> ()
  column = Constant <value = int64[2] {-1, 1}> ()
  zero_scalar = Constant <value = int64 {0}> ()
  one_scalar = Constant <value = int64 {1}> ()
  lowest = Constant <value = float {-inf}> ()"""

# NaN, which alone does not equal itself, counts as the lowest score.
_RANKED: Final = """
  known = Equal (SCORES, SCORES)
  keys = Where (known, SCORES, lowest)
  top, RANKED = TopK <axis = 1, largest = 1, sorted = 1> (keys, budget)"""

# Positions below 2^24 are exact in float32, the type that TopK takes on every runtime.
_SORTED: Final = {
    "position": """
  ranked_float = Cast <to = 1> (ranked)
  positions, order = TopK <axis = 1, largest = 0, sorted = 1> (ranked_float, budget)""",
    "either": """
  ranked_float = Cast <to = 1> (ranked)
  budget_scalar = Gather <axis = 0> (budget, zero_scalar)
  ranks = Range (zero_scalar, budget_scalar, one_scalar)
  ranks_float = Cast <to = 1> (ranks)
  by_position_int = Constant <value_int: int = @by_position> ()
  by_position_bool = Cast <to = 9> (by_position_int)
  places = Where (by_position_bool, ranked_float, ranks_float)
  positions, order = TopK <axis = 1, largest = 0, sorted = 1> (places, budget)""",
}

_IMAGES: Final = """
  shape = Shape (tokens)
  batch = Gather <axis = 0> (shape, zero_scalar)
  images = Range (zero_scalar, batch, one_scalar)"""

_KEPT_FLAT: Final = """
  ranked_flat = Reshape (ranked, minus_one)
  ranked_offsets = Mul (images, budget)
  ranked_column = Reshape (ranked_offsets, column)
  order_rows = Add (order, ranked_column)
  kept = Gather <axis = 0> (ranked_flat, order_rows)"""

_KEPT_BATCHED: Final = """
  order_column = UNSQUEEZE(order)
  kept = GatherND <batch_dims = 1> (ranked, order_column)"""

_ROWS: Final = {
    "flat": """
  offsets = Mul (images, length)
  first = Reshape (offsets, column)
  width = Gather <axis = 0> (shape, two)
  flat_shape = Concat <axis = 0> (minus_one, width)
  flat = Reshape (tokens, flat_shape)
  PLACES
  selected = Gather <axis = 0> (flat, rows)""",
    "cuda": """
  one_kept = Slice (kept, zero, one, one)
  first = Mul (one_kept, zero)
  PLACES
  rows_column = UNSQUEEZE(rows)
  selected = GatherND <batch_dims = 1> (tokens, rows_column)""",
}
"""``first`` [B, 1] is the first row of each image."""

_PLACES: Final = """
  prefix_places = Add (first, prefix_rows)
  first_patch = Add (first, prefix)
  patch_places = Add (kept, first_patch)
  rows = Concat <axis = 1> (prefix_places, patch_places)"""

_PREFIX_OF_NODE: Final = """
  prefix = Constant <value_int: int = @prefix_tokens> ()
  prefix_rows = Range (zero_scalar, prefix, one_scalar)"""


def token_select_function(
    opset: int,
    budget: str,
    order: str,
    rows: str = "flat",
    k: int | None = None,
    prefix_tokens: int | None = None,
    float_scores: bool = False,
    length: int | None = None,
) -> onnx.FunctionProto:
    """The function body for the nodes of one model (contract: ``kernels/op.py``).

    opset: the model's ai.onnx opset, 12 or later
    budget: "slots" when the third input gives the budget, "attribute" when attribute k does
    order: the nodes' order, which selects the body, because a function cannot branch on a string. "either" is for
        nodes of both orders, each with an int attribute ``by_position`` (1 or 0) that repeats its ``order``
    rows: "flat" or "cuda"
    k, prefix_tokens: where all nodes have the same, which become constants of the body; None: the body reads the
        attributes of its node
    float_scores: whether the scores are known to be fp32
    length: number of tokens of an image, P+N, where it is known
    Raises ContractError.
    """
    if opset < MIN_OPSET or budget not in _INPUTS or order not in _ORDERS or rows not in _ROWS:
        raise ContractError(
            f"the TokenSelect function expects opset >= {MIN_OPSET}, a budget of {', '.join(_INPUTS)}, an order of "
            f"{', '.join(_ORDERS)} and rows of {', '.join(_ROWS)}; got opset {opset}, budget {budget!r}, order "
            f"{order!r}, rows {rows!r}."
        )
    steps = [_CONSTANTS, _budget(budget == "slots", k), *_ranked(order, float_scores), *_kept(order, rows)]
    steps += ["indices = Cast <to = 6> (kept)", _length(length), *_selected(rows, prefix_tokens)]
    text = (
        f'<opset_import: ["" : {opset}], domain: "{DOMAIN}">\n{NAME} '
        f'<k: int = 0, prefix_tokens: int = 1, order: string = "position"{_ATTRIBUTES.get(order, "")}> '
        f"({_INPUTS[budget]}) => (selected, indices)\n{{\n{_joined(steps, opset)}\n}}"
    )
    return _without_unread(onnx.parser.parse_function(text))


def _joined(steps: Sequence[str], opset: int) -> str:
    """The nodes; UNSQUEEZE(x) adds a last axis of length 1."""
    text = "\n".join(steps)
    if opset < _AXES_AS_INPUT:
        return text.replace("UNSQUEEZE(", "Unsqueeze <axes = [-1]> (")
    lines = [line.replace(")", ", minus_one)") if "UNSQUEEZE(" in line else line for line in text.split("\n")]
    return "\n".join(lines).replace("UNSQUEEZE(", "Unsqueeze (")


def _budget(slots: bool, k: int | None) -> str:
    if slots:
        return "budget = Shape (slots)"
    if k is not None:
        return f"budget = Constant <value = int64[1] {{{k}}}> ()"
    return "k_scalar = Constant <value_int: int = @k> () budget = Reshape (k_scalar, one)"


def _ranked(order: str, float_scores: bool) -> list[str]:
    """Positions by score; where that is the order, they are the kept ones."""
    ranked = _RANKED.replace("RANKED", "kept" if order == "score" else "ranked")
    if float_scores:
        return [ranked.replace("SCORES", "scores")]
    return ["scores_float = Cast <to = 1> (scores)", ranked.replace("SCORES", "scores_float")]


def _kept(order: str, rows: str) -> list[str]:
    images = [_IMAGES] if rows == "flat" else []
    if order == "score":
        return images
    return [*images, _SORTED[order], _KEPT_FLAT if rows == "flat" else _KEPT_BATCHED]


def _length(length: int | None) -> str:
    if length is not None:
        return f"length = Constant <value = int64 {{{length}}}> ()"
    return "token_shape = Shape (tokens) length = Gather <axis = 0> (token_shape, one_scalar)"


def _selected(rows: str, prefix_tokens: int | None) -> list[str]:
    if prefix_tokens == 0:
        return [_ROWS[rows].replace("PLACES", "rows = Add (kept, first)")]
    prefix = _PREFIX_OF_NODE if prefix_tokens is None else _constant_prefix(prefix_tokens)
    return [prefix, _ROWS[rows].replace("PLACES", _PLACES)]


def _constant_prefix(count: int) -> str:
    numbers = ", ".join(map(str, range(count)))
    return f"""
  prefix = Constant <value = int64 {{{count}}}> ()
  prefix_rows = Constant <value = int64[{count}] {{{numbers}}}> ()"""


def _without_unread(function: onnx.FunctionProto) -> onnx.FunctionProto:
    """Remove the nodes that nothing reads in this body."""
    while True:
        read = {name for node in function.node for name in node.input} | set(function.output)
        unread = [node for node in function.node if not read & set(node.output)]
        if not unread:
            return function
        for node in unread:
            function.node.remove(node)
