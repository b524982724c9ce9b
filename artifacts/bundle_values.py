"""Values of a bundle, checked one by one before a model is built from them: they are a stranger's."""

import math
from collections.abc import Mapping
from typing import Any

from tokfilter.artifacts.limits import CROP_MODES, INTERPOLATIONS, MAX_PLAIN_DEPTH, MAX_PLAIN_VALUES, MAX_SIZE
from tokfilter.artifacts.torch_file import is_dense, tensors_of
from tokfilter.errors import BundleError

__all__ = ["check_sizes", "check_tensors", "plain_copy", "preprocessing_problem"]


def plain_copy(value: Any) -> Any:
    """``value`` with its containers as dicts and lists. Raises BundleError for other types and too many values."""
    left = MAX_PLAIN_VALUES

    def copied(value: Any, depth: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0 or depth > MAX_PLAIN_DEPTH:
            raise BundleError(
                f"a bundle's plain values are at most {MAX_PLAIN_VALUES}, nested at most {MAX_PLAIN_DEPTH} deep"
            )
        if value is None or isinstance(value, str | int | float | bool):
            return value
        if isinstance(value, Mapping):
            if not all(isinstance(key, str | int | float) for key in value):
                raise BundleError("keys of a bundle's plain values are texts or numbers")
            return {str(key): copied(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [copied(item, depth + 1) for item in value]
        raise BundleError(f"a bundle holds tensors and plain values, got {type(value).__name__}: {_short(value)}")

    return copied(value, 0)


def _short(value: Any) -> str:
    """The start of the text of a value; nothing of what it holds, where that could be of any size."""
    return repr(value)[:80] if isinstance(value, str | int | float | complex | bytes) else "..."


def preprocessing_problem(fields: Mapping[str, Any]) -> str:
    """What is wrong with the fields of a Preprocessing, expected and found; empty where nothing is."""
    closed = {"interpolation": INTERPOLATIONS, "crop_mode": CROP_MODES}
    for name, allowed in closed.items():
        value = fields[name]
        if value not in allowed:
            return f"{name} must be one of {', '.join(allowed)}, got {value!r:.100}"
    mean, std, size, fraction = (fields[name] for name in ("mean", "std", "input_size", "crop_pct"))
    numbers = (*mean, *std, fraction)
    if not all(isinstance(n, int | float) and type(n) is not bool and math.isfinite(n) for n in numbers):
        return f"expected finite numbers as mean, std and crop_pct, got {numbers!r:.100}"
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        return f"expected a mean and a positive std for three channels, got {mean!r:.100} and {std!r:.100}"
    if len(size) != 3 or size[0] != 3 or not all(type(side) is int and 1 <= side <= MAX_SIZE for side in size):
        return f"expected an input_size of (3, H, W), got {size!r:.100}"
    if not 0 < fraction <= min(size[1:]):
        return f"crop_pct must lie above 0 and at most be the image's side, got {fraction!r:.50}"
    return ""


def check_sizes(kwargs: Mapping[str, Any]) -> None:
    """Numbers of an architecture are sizes: a larger one would be built before it is compared with the weights."""
    values = [item for value in kwargs.values() for item in (value if isinstance(value, list) else [value])]
    large = [value for value in values if isinstance(value, int) and abs(value) > MAX_SIZE]
    _require(not large, f"sizes of its architecture must be at most {MAX_SIZE}, got {str(large[:1])[:50]}")


def check_tensors(content: Mapping[str, Any]) -> None:
    """Each tensor holds its own values: a stride of 0 makes a matrix of any size from one number."""
    parts = [content["backbone"], content["filter"]["weights"], content["golden"]]
    parts += [content["mask_head"]["weights"]] if "mask_head" in content else []
    tensors = [tensor for part in parts for tensor in tensors_of(part)]
    _require(
        all(map(is_dense, tensors)), "it holds tensors that are not dense: sparse, nested, meta or repeated values"
    )
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    _require(sum(tensor.nbytes for tensor in tensors) <= sum(storages.values()), "its tensors share their values")


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise BundleError(problem)
