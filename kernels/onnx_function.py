"""TokenSelect as an ONNX model-local function of standard ops, which a runtime inlines where it has no plugin.

The operators have the same meaning in every opset from 13, so one body serves all. One Gather over flattened tokens
fetches all rows, prefix included: each row is one contiguous copy, and no Concat of tokens follows.
"""

from typing import Final

import onnx
import onnx.parser

from tokfilter.errors import ContractError
from tokfilter.kernels.op import DOMAIN, NAME

__all__ = ["MIN_OPSET", "token_select_function"]

MIN_OPSET: Final = 13

_BUDGET = {
    "slots": "budget = Shape (slots)",
    "attribute": "k_scalar = Constant <value_int: int = @k> () budget = Reshape (k_scalar, one)",
}

# TensorRT's parser requires the same number of inputs on the node and on its function.
_INPUTS = {"slots": "tokens, scores, slots", "attribute": "tokens, scores"}

# "either" is for a model with nodes of both orders: a runtime keeps one body per name (TensorRT-RTX 1.7 ignores
# overload and domain), and a body cannot branch on a string, so the nodes repeat ``order`` as a number.
_ATTRIBUTES = {"either": ", by_position: int = 1"}

# Positions below 2^24 are exact in float32, the type that TopK takes on every runtime.
_KEPT = {
    "score": "kept = Identity (ranked)",
    "position": """
      ranked_float = Cast <to = 1> (ranked)
      kept_float, kept_order = TopK <axis = 1, largest = 0, sorted = 1> (ranked_float, budget)
      kept = Cast <to = 7> (kept_float)""",
    "either": """
      ranked_float = Cast <to = 1> (ranked)
      budget_scalar = Gather <axis = 0> (budget, zero_scalar)
      ranks = Range (zero_scalar, budget_scalar, one_scalar)
      ranks_float = Cast <to = 1> (ranks)
      by_position_int = Constant <value_int: int = @by_position> ()
      by_position_bool = Cast <to = 9> (by_position_int)
      places = Where (by_position_bool, ranked_float, ranks_float)
      sorted_places, kept_order = TopK <axis = 1, largest = 0, sorted = 1> (places, budget)
      kept = GatherElements <axis = 1> (ranked, kept_order)""",
}

_ROWS = {
    "flat": """
      shape = Shape (tokens)
      batch = Gather <axis = 0> (shape, zero)
      batch_scalar = Gather <axis = 0> (shape, zero_scalar)
      length = Gather <axis = 0> (shape, one_scalar)
      prefix_rows = Range (zero_scalar, prefix, one_scalar)
      prefix_count = Reshape (prefix, one)
      prefix_shape = Concat <axis = 0> (batch, prefix_count)
      prefix_expanded = Expand (prefix_rows, prefix_shape)
      patch_rows = Add (kept, prefix)
      local_rows = Concat <axis = 1> (prefix_expanded, patch_rows)
      images = Range (zero_scalar, batch_scalar, one_scalar)
      offsets = Mul (images, length)
      offsets_column = Reshape (offsets, column)
      rows = Add (local_rows, offsets_column)
      flat = Flatten <axis = 2> (tokens)
      selected = Gather <axis = 0> (flat, rows)""",
    "batched": """
      first = Slice (kept, zero, one, one)
      nothing = Mul (first, zero)
      prefix_rows = Range (zero_scalar, prefix, one_scalar)
      prefix_expanded = Add (nothing, prefix_rows)
      patch_rows = Add (kept, prefix)
      local_rows = Concat <axis = 1> (prefix_expanded, patch_rows)
      rows = Unsqueeze (local_rows, minus_one)
      selected = GatherND <batch_dims = 1> (tokens, rows)""",
}
"""How the rows are fetched. One Gather over flattened tokens is the form that every engine takes. It needs the number
of images as a value, which ONNX Runtime computes on the CPU and copies to the GPU; a CUDA graph cannot hold that copy.
GatherND over the batch needs no such value: for ONNX Runtime on CUDA."""

# Every tensor has a unique name: TensorRT-RTX 1.7 fails on two outputs called "_".
_TEXT = """
<opset_import: ["" : {opset}], domain: "{domain}">
{name} <k: int = 0, prefix_tokens: int = 1, order: string = "position"{attributes}> ({inputs}) => (selected, indices)
{{
  zero = Constant <value_ints = [0]> ()
  one = Constant <value_ints = [1]> ()
  minus_one = Constant <value_ints = [-1]> ()
  column = Constant <value_ints = [-1, 1]> ()
  zero_scalar = Constant <value_int = 0> ()
  one_scalar = Constant <value_int = 1> ()
  {budget}

  scores_float = Cast <to = 1> (scores)
  unknown = IsNaN (scores_float)
  lowest = Constant <value = float {{-inf}}> ()
  keys = Where (unknown, lowest, scores_float)
  top, ranked = TopK <axis = 1, largest = 1, sorted = 1> (keys, budget)
  {kept}
  indices = Cast <to = 6> (kept)

  prefix = Constant <value_int: int = @prefix_tokens> ()
  {rows}
}}
"""


def token_select_function(opset: int, budget: str, order: str, rows: str = "flat") -> onnx.FunctionProto:
    """The function body for the nodes of one model (contract: ``kernels/op.py``).

    opset: the model's ai.onnx opset, 13 or later
    budget: "slots" when the third input gives the budget, "attribute" when attribute k does
    order: the nodes' order, which selects the body, because a function cannot branch on a string. "either" is for
        nodes of both orders, each with an int attribute ``by_position`` (1 or 0) that repeats its ``order``
    rows: "flat" for every engine, "batched" for CUDA graphs in ONNX Runtime (``_ROWS``)
    Raises ContractError.
    """
    if opset < MIN_OPSET or budget not in _BUDGET or order not in _KEPT:
        raise ContractError(
            f"the TokenSelect function expects opset >= {MIN_OPSET}, a budget of {', '.join(_BUDGET)} and an order of "
            f"{', '.join(_KEPT)}; got opset {opset}, budget {budget!r}, order {order!r}."
        )
    text = _TEXT.format(
        opset=opset,
        domain=DOMAIN,
        name=NAME,
        inputs=_INPUTS[budget],
        attributes=_ATTRIBUTES.get(order, ""),
        budget=_BUDGET[budget],
        kept=_KEPT[order],
        rows=_ROWS[rows],
    )
    return onnx.parser.parse_function(text)
