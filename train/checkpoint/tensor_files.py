"""The tensors of a folder's safetensors files: names and shapes from the headers first, then values one by one."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tokfilter.errors import DataError
from tokfilter.train.checkpoint.fields import read_json

__all__ = ["TensorFiles", "tensor_files_from_folder"]

_PLAIN: Final = {"F64", "F32", "F16", "BF16"}
_SHARD: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}\.safetensors")
_MOST_SHARDS: Final = 1000


class TensorFiles:
    """Tensors by name, in one file or in several.

    shapes: name -> shape, from the headers
    """

    def __init__(self, folder: Path, places: Mapping[str, Path], headers: Mapping[str, tuple[list[int], str]]) -> None:
        self.folder = folder
        self._places = places
        self._types = {name: kind for name, (_, kind) in headers.items()}
        self.shapes = {name: tuple(shape) for name, (shape, _) in headers.items()}

    def read(self, name: str) -> Tensor:
        """One tensor in fp32. Raises DataError for another type than floats, NaN and infinity."""
        if self._types[name] not in _PLAIN:
            raise DataError(
                f"{self.folder}: {name} has the type {self._types[name]}; quantised weights cannot be read. Give the "
                "model in fp32, fp16 or bf16."
            )
        with _opened(self._places[name]) as file:
            value: Tensor = file.get_tensor(name).to(torch.float32)
        if not bool(value.isfinite().all()):
            raise DataError(f"{self.folder}: {name} holds NaN or infinity: the checkpoint is damaged.")
        return value


def tensor_files_from_folder(folder: Path) -> TensorFiles:
    """``model.safetensors``, or the files that ``model.safetensors.index.json`` names.

    Raises DataError: neither there, a damaged file, a name in the index that is not a file of this folder, a tensor
    that is not where the index says.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        found = _headers(single)
        return TensorFiles(folder, dict.fromkeys(found, single), found)
    if not index.is_file():
        others = sorted(path.name for path in folder.glob("*") if path.suffix in (".bin", ".h5", ".msgpack", ".ckpt"))[
            :3
        ]
        found_text = f" (there is {', '.join(others)})" if others else ""
        raise DataError(
            f"{folder}: expected model.safetensors or model.safetensors.index.json, there is neither{found_text}. Save "
            "the model again with save_pretrained(folder, safe_serialization=True)."
        )
    return _sharded(folder, index)


def _sharded(folder: Path, index: Path) -> TensorFiles:
    where = read_json(index, "an index of safetensors files").part("weight_map").values
    shards = sorted({str(shard) for shard in where.values()})
    if not 1 <= len(shards) <= _MOST_SHARDS:
        raise DataError(f"{index} names {len(shards)} files, expected 1 to {_MOST_SHARDS}.")
    headers: dict[str, dict[str, tuple[list[int], str]]] = {}
    for shard in shards:
        if not _SHARD.fullmatch(shard):
            raise DataError(
                f"{index} names {shard[:100]!r}, which is not the name of a safetensors file in its folder."
            )
        if not (folder / shard).is_file():
            raise DataError(f"{index} names {shard}, which is not in {folder}. Copy the folder whole.")
        headers[shard] = _headers(folder / shard)
    for name, shard in where.items():
        if name not in headers[shard]:
            raise DataError(f"{index} says that {name[:100]} is in {shard}, but it is not. Copy the folder whole.")
    places = {name: folder / shard for name, shard in where.items()}
    return TensorFiles(folder, places, {name: headers[shard][name] for name, shard in where.items()})


def _headers(path: Path) -> dict[str, tuple[list[int], str]]:
    """Name -> shape and type of every tensor; no value is read."""
    with _opened(path) as file:
        names = list(file.keys())
        slices = {name: file.get_slice(name) for name in names}
        return {name: (part.get_shape(), str(part.get_dtype())) for name, part in slices.items()}


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"{path} is damaged, or no safetensors file: {str(error)[:200]}. Copy it again.") from error
