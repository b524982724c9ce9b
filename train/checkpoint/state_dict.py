"""State dicts in the forms that training scripts write: nested, with an average of the weights (EMA), with prefixes.

Read by ``torch.load(weights_only=True)`` or from safetensors; nothing is ever unpickled.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file
from torch import Tensor

from tokfilter.artifacts.files import existing_file
from tokfilter.artifacts.torch_file import is_dense, read_torch_file
from tokfilter.errors import DataError

__all__ = ["StateDict", "checkpoint_weights", "state_dict_from_content", "state_dict_from_file"]

_EMA: Final = ("state_dict_ema", "model_ema", "ema_state_dict", "model_ema_state_dict", "ema_model", "ema")
_RAW: Final = ("state_dict", "model", "model_state_dict", "net", "network", "weights", "params", "checkpoint", "module")
_WRAPPERS: Final = ("module.", "_orig_mod.")
"""Prefixes of DistributedDataParallel, of timm's and torch's averaged models, and of torch.compile."""
_ANCHOR: Final = "patch_embed.proj.weight"
"""Every supported timm model has this tensor; what stands before it is a wrapper's prefix."""
_READ_BY_TIMM: Final = ("visual.trunk.", "module.visual.trunk.", "vision_encoder.")
"""Prefixes of OpenCLIP and TIPS, which timm's own conversion strips together with other changes."""
_DEPTH: Final = 4


@dataclass(frozen=True)
class StateDict:
    """Named tensors, and which of the file's they are.

    part: such as "state_dict_ema, without the prefix 'model.'"; empty when the file holds nothing else
    """

    tensors: dict[str, Tensor]
    part: str = ""


def checkpoint_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of ``state_dict_from_file``."""
    return state_dict_from_file(path).tensors


def state_dict_from_file(path: Path) -> StateDict:
    """Read a state dict: .safetensors, or a torch.save file.

    Raises DataError when the file is missing, damaged, or would need unpickling.
    """
    path = existing_file(path, "a checkpoint")
    safe = path.suffix == ".safetensors"
    try:
        if safe:
            content: Any = load_file(path)
        else:
            with torch.serialization.safe_globals([argparse.Namespace]):  # timm's scripts store their options beside
                content = read_torch_file(path, legacy=True)
    except Exception as error:  # the readers raise many kinds of errors for damaged and hostile files
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise DataError(
            f"{path} is not a checkpoint, is damaged, or holds more than tensors and plain values ({reason}). "
            "tokfilter never unpickles: save the model's state_dict(), preferably as .safetensors."
        ) from error
    return state_dict_from_content(content, str(path))


def state_dict_from_content(content: Any, source: str) -> StateDict:
    """The model's tensors in what a file holds: the average (EMA) where there is one, else the raw weights.

    Raises DataError when there are no named tensors, or those of several models.
    """
    steps: list[str] = []
    for _ in range(_DEPTH):
        key = _nest(content)
        if key is None:
            break
        steps.append(key)
        content = content[key]
    entries = content.items() if isinstance(content, Mapping) else ()
    tensors = {name: value for name, value in entries if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors:
        raise DataError(f"{source} has no named tensors; save the model's state_dict().")
    if hollow := [name for name, value in tensors.items() if not is_dense(value)]:
        raise DataError(
            f"{source}: {hollow[0][:100]} does not hold its values: it is sparse, nested, quantised, a meta tensor or "
            "one value repeated. Save the model's state_dict() from a CPU, in fp32."
        )
    tensors = _unwrapped(tensors)
    prefix = _prefix(tensors, source)
    part = ".".join(steps)
    if prefix:
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        part = ", ".join(text for text in (part, f"the tensors below {prefix!r}") if text)
    return StateDict(tensors, part)


def _nest(content: Any) -> str | None:
    """The key below which the weights lie; None when they are here."""
    if not isinstance(content, Mapping):
        return None
    keys = [key for key in (*_EMA, *_RAW) if isinstance(content.get(key), Mapping) and content[key]]
    return keys[0] if keys else None


def _unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    tensors = {name: value for name, value in tensors.items() if name != "n_averaged"}  # of torch's AveragedModel
    while prefix := next((p for p in _WRAPPERS if tensors and all(n.startswith(p) for n in tensors)), ""):
        if any(name.startswith(_READ_BY_TIMM) for name in tensors):
            break
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _prefix(tensors: dict[str, Tensor], source: str) -> str:
    """The prefix of the model among the tensors: Lightning's ``model.`` or ``net.``, or any other.

    An average's prefix (with ``ema``) is preferred. Raises DataError for several models, such as student and teacher.
    """
    found = sorted(name.removesuffix(_ANCHOR) for name in tensors if name.endswith(_ANCHOR))
    found = [prefix for prefix in found if prefix == "" or prefix.endswith(".")]
    if not found or "" in found or any(prefix in _READ_BY_TIMM for prefix in found):
        return ""
    averages = [prefix for prefix in found if "ema" in prefix.lower().replace("_", ".").split(".")]
    chosen = averages or found
    if len(chosen) > 1:
        raise DataError(
            f"{source} holds {len(chosen)} models, below {', '.join(repr(prefix[:50]) for prefix in chosen[:4])}. Save "
            "the state_dict() of the one to be used."
        )
    return chosen[0]
