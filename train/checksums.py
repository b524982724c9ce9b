"""SHA-256 sums of tensors and plain values: names, types, shapes and bytes, so that no header can be read otherwise."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tokfilter.artifacts.limits import MAX_CHECKPOINT_VALUES, MAX_PLAIN_DEPTH
from tokfilter.artifacts.torch_file import is_dense

__all__ = ["content_sum", "json_sum"]


def content_sum(content: Any) -> str:
    """Hexadecimal SHA-256 of nested dicts, lists and tuples of tensors and plain values.

    Tensors count with type, shape and values; dicts with their keys in order of their text.
    Raises ValueError: nested too deep, more values than a checkpoint has, tensors without values of their own.
    """
    digest, left = hashlib.sha256(), MAX_CHECKPOINT_VALUES

    def add(value: Any, depth: int) -> None:
        nonlocal left
        left -= 1
        if left < 0 or depth > MAX_PLAIN_DEPTH:
            raise ValueError(
                f"it must hold at most {MAX_CHECKPOINT_VALUES} values, nested at most {MAX_PLAIN_DEPTH} deep"
            )
        if isinstance(value, Tensor):
            if value.is_nested or value.device.type == "meta" or not is_dense(value.detach().cpu()):
                raise ValueError("it holds tensors that are not dense: sparse, nested, meta or repeated values")
            whole = value.detach().cpu().contiguous()
            digest.update(f"tensor {whole.dtype} {list(whole.shape)}\n".encode())
            digest.update(whole.reshape(-1).view(torch.uint8).numpy().data)
        elif isinstance(value, Mapping):
            digest.update(f"dict {len(value)}\n".encode())
            for key in sorted(value, key=repr):
                digest.update(f"{key!r}\n".encode("utf-8", "backslashreplace"))
                add(value[key], depth + 1)
        elif isinstance(value, list | tuple):
            digest.update(f"list {len(value)}\n".encode())
            for item in value:
                add(item, depth + 1)
        else:
            digest.update(f"{value!r}\n".encode("utf-8", "backslashreplace"))

    add(content, 0)
    return digest.hexdigest()


def json_sum(text: str) -> str:
    """Hexadecimal SHA-256 of a JSON text."""
    return hashlib.sha256(text.encode()).hexdigest()
