"""Files of torch.save: read without unpickling code, after a check of every byte; written whole or not at all.

torch itself compares no checksums: a file with a flipped bit gives other weights.
"""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from tokfilter.artifacts.files import atomic_path, sweep_parts
from tokfilter.artifacts.limits import MAX_FILE, MAX_PICKLE
from tokfilter.artifacts.pickle_check import check_pickles
from tokfilter.artifacts.zip_parts import DAMAGES, checked_archive, open_regular

__all__ = ["full_disk_named", "is_dense", "read_torch_file", "save_torch_file", "tensors_of"]

_ZIP: Final = b"PK\x03\x04"
_PICKLE: Final = b"\x80"
_TORCH_FOUND: Final = "WeightsUnpickler error: "
_FOREIGN: Final = re.compile(r"Unsupported (?:global|class)\b.*?\b(?:GLOBAL |class )(\S+)")
_LEGACY_PICKLES: Final = 5
"""Of a file before torch 1.6: magic number, protocol, system, the content, keys of the storages; then their bytes."""


def read_torch_file(path: Path, legacy: bool = False) -> Any:
    """What a file of torch.save holds: tensors and plain values.

    legacy: also take torch's format before 1.6, a bare pickle, which has no checksums
    Raises ValueError with the reason in one line.
    """
    import torch

    try:
        with open_regular(path) as file:
            start = file.read(4)
            if start == _ZIP:
                _check_parts(file)
            elif not (legacy and start[:1] == _PICKLE):
                raise ValueError("it is no file that torch.save wrote")
            elif file.seek(0, os.SEEK_END) > MAX_FILE:
                raise ValueError(f"it must have at most {MAX_FILE >> 20} MiB")
            else:
                file.seek(0)
                check_pickles(file.read(MAX_PICKLE), _LEGACY_PICKLES)
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile or damaged file can raise any type; the remedy is the same
        raise ValueError(_reason(error)) from error


def _reason(error: Exception) -> str:
    """One line, and of torch's long text, which advises unpickling, what it found."""
    text = str(error).partition(_TORCH_FOUND)[2] or str(error)
    if found := _FOREIGN.match(text):
        return f"it has a pickled object of {found[1]:.150}"
    return (text.strip() or type(error).__name__).splitlines()[0][:200]


def _check_parts(file: IO[bytes]) -> None:
    file.seek(0)
    try:
        archive = checked_archive(file, MAX_FILE)
        for part in archive.infolist():
            if not part.filename.lower().endswith(".pkl"):  # torch finds names whatever their case
                continue
            if part.file_size > MAX_PICKLE:
                raise ValueError(f"its part {part.filename!r:.100} must have at most {MAX_PICKLE >> 20} MiB")
            check_pickles(archive.read(part))
    except DAMAGES as error:
        raise ValueError(f"damaged: {error}") from error


def save_torch_file(content: Any, path: Path) -> None:
    """Write a file of torch.save atomically; what killed processes left of it is removed. Raises OSError."""
    import torch

    sweep_parts(path)
    with atomic_path(path) as part, full_disk_named(path):
        torch.save(content, part)


@contextmanager
def full_disk_named(path: Path) -> Iterator[None]:
    """Turn the errors of a writer that has no operating-system errors (torch, safetensors) into OSError."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # RuntimeError of torch, SafetensorError
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise OSError(errno.EIO, f"it could not be written, the disk may be full ({reason})", str(path)) from error


def tensors_of(value: Any) -> Iterator[Any]:
    """Every tensor in containers that are nested as a bundle's are, at most 4 deep."""
    import torch

    level = [value]
    for _ in range(5):
        yield from (item for item in level if isinstance(item, torch.Tensor))
        level = [part for item in level if isinstance(item, dict) for part in item.values()]


def is_dense(tensor: Any) -> bool:
    """Whether a tensor holds its values: no sparse, nested or meta tensor, no element that stands for several."""
    import torch

    if tensor.is_nested or tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        return False
    if tensor.is_conj() or tensor.is_neg():  # views that are computed when they are read
        return False
    stored: int = tensor.untyped_storage().nbytes()
    return bool(tensor.numel() * tensor.element_size() <= stored)
