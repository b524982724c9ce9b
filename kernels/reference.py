"""Reference implementation of TokenSelect in numpy; the other implementations must equal it bit for bit."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokfilter.errors import ContractError
from tokfilter.kernels.op import check_call

__all__ = ["SCORE_TYPES", "token_select"]

SCORE_TYPES = ("float32", "float16", "bfloat16")


def token_select(
    tokens: NDArray[Any], scores: NDArray[Any], k: int, prefix_tokens: int = 1, order: str = "position"
) -> tuple[NDArray[Any], NDArray[np.int32]]:
    """Keep the prefix tokens and the k patch tokens with the highest scores (contract: ``kernels/op.py``).

    tokens: [B, P+N, C], any type; rows are copied without arithmetic
    scores: [B, N], float32, float16 or (ml_dtypes) bfloat16
    Returns selected [B, P+k, C] and indices [B, k]. Raises ContractError.
    """
    check_call(tokens.shape, scores.shape, k, prefix_tokens, order)
    if scores.dtype.name not in SCORE_TYPES:
        raise ContractError(f"TokenSelect expects scores of type {', '.join(SCORE_TYPES)}, got {scores.dtype.name}.")
    # fp16 and bf16 convert to fp32 exactly, so comparing in fp32 keeps the order.
    keys = scores.astype(np.float32)
    keys = np.where(np.isnan(keys), np.float32(-np.inf), keys)
    ranked = np.argsort(-keys, axis=1, kind="stable")[:, :k]
    kept = np.sort(ranked, axis=1) if order == "position" else ranked
    patches = np.take_along_axis(tokens[:, prefix_tokens:], kept[:, :, None], axis=1)
    selected = np.concatenate([tokens[:, :prefix_tokens], patches], axis=1)
    return selected, kept.astype(np.int32)
