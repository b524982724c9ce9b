"""SHA-256 sums of tensors and plain values: names, types, shapes and bytes, so that no header can be read otherwise."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["content_sum", "json_sum"]


def content_sum(content: Any) -> str:
    """Hexadecimal SHA-256 of nested dicts, lists and tuples of tensors and plain values.

    Tensors count with type, shape and values; dicts with their keys in order of their text.
    """
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, Tensor):
            whole = value.detach().cpu().contiguous()
            digest.update(f"tensor {whole.dtype} {list(whole.shape)}\n".encode())
            digest.update(whole.reshape(-1).view(torch.uint8).numpy().data)
        elif isinstance(value, Mapping):
            digest.update(f"dict {len(value)}\n".encode())
            for key in sorted(value, key=repr):
                digest.update(f"{key!r}\n".encode("utf-8", "backslashreplace"))
                add(value[key])
        elif isinstance(value, list | tuple):
            digest.update(f"list {len(value)}\n".encode())
            for item in value:
                add(item)
        else:
            digest.update(f"{value!r}\n".encode("utf-8", "backslashreplace"))

    add(content)
    return digest.hexdigest()


def json_sum(text: str) -> str:
    """Hexadecimal SHA-256 of a JSON text."""
    return hashlib.sha256(text.encode()).hexdigest()
