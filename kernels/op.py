"""The contract of TokenSelect, version 1. Every implementation is tested against it.

TokenSelect keeps the prefix tokens (CLS, distillation, registers) and the ``k`` patch tokens with the highest scores.

============  ==========================================================================================================
tokens        ``[B, P+N, C]`` fp32, fp16 or bf16; the first P rows are prefix tokens
scores        ``[B, N]`` fp32, fp16 or bf16, one per patch token, higher is more important
slots         ``[k]`` int32, optional: only its **length** counts. A dimension needs no host read, so the budget is
              chosen at run time as the batch is. Without it, attribute ``k`` is the budget.
k             int attribute, 1 <= k <= N; 0 means that ``slots`` gives the budget
prefix_tokens int attribute P >= 0
order         string attribute: ``position`` (default) or ``score`` (descending)
selected      ``[B, P+k, C]``, type of tokens: the prefix rows, then the kept patch rows in ``order``
indices       ``[B, k]`` int32, optional: positions of the kept rows among the N patches
============  ==========================================================================================================

Ties: the lower position wins. NaN counts as -inf; -0.0 equals +0.0. Rows are copied bit for bit. The result is the same
on every backend that tokfilter ships, run after run.
"""

from collections.abc import Sequence
from typing import Final, Literal, get_args

from tokfilter.errors import ContractError

__all__ = ["ATTRIBUTES", "DOMAIN", "NAME", "ORDERS", "VERSION", "Order", "check_call"]

DOMAIN: Final = "tokfilter"
NAME: Final = "TokenSelect"
VERSION: Final = "1"

Order = Literal["position", "score"]
ORDERS: Final[tuple[str, ...]] = get_args(Order)

ATTRIBUTES: Final[dict[str, int | str]] = {"k": 0, "prefix_tokens": 1, "order": "position"}
"""The op's attributes with their defaults, in the order in which the plugin's creator lists them."""


def check_call(
    tokens: Sequence[int], scores: Sequence[int], k: int, prefix_tokens: int, order: str
) -> tuple[int, int, int]:
    """Check shapes and attributes against the contract.

    tokens: shape of the tokens, [B, P+N, C]
    scores: shape of the scores, [B, N]
    Returns (B, N, C). Raises ContractError for the first violation.
    """
    if len(tokens) != 3 or len(scores) != 2:
        raise ContractError(
            "TokenSelect expects tokens [batch, prefix + patches, channels] and scores [batch, patches], "
            f"got shapes {list(tokens)} and {list(scores)}."
        )
    if order not in ORDERS:
        raise ContractError(f"TokenSelect expects order to be one of {', '.join(ORDERS)}, got {order!r}.")
    if prefix_tokens < 0:
        raise ContractError(f"TokenSelect expects prefix_tokens >= 0, got {prefix_tokens}.")
    batch, rows, channels = tokens
    patches = scores[1]
    if scores[0] != batch or rows != prefix_tokens + patches:
        raise ContractError(
            f"TokenSelect expects one score per patch token: tokens {list(tokens)} with {prefix_tokens} prefix tokens "
            f"need scores [{batch}, {rows - prefix_tokens}], got {list(scores)}."
        )
    if min(batch, patches, channels) < 1:
        raise ContractError(f"TokenSelect expects no empty dimension, got {list(tokens)} and {list(scores)}.")
    if not 1 <= k <= patches:
        raise ContractError(f"TokenSelect expects a budget k between 1 and {patches} patch tokens, got {k}.")
    return batch, patches, channels
