"""Inputs made from a class, a number and a seed: the same three give the same files."""

import hashlib
import json
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from random import Random

from hostile import places
from hostile.reader import DAMAGE, JSON, NPZ, ONNX, SAFETENSORS, TARGET, ZIP, Reader


@dataclass(frozen=True)
class Case:
    """An input on the disk.

    argv: the command; what: the change; damage: whether bytes were damaged and no sum made right
    """

    argv: tuple[str, ...]
    what: str
    damage: bool


def make_case(reader: Reader, number: int, seed: int, material: Path, folder: Path, canary: str) -> Case:
    """Write the files of a case into an empty folder; the same arguments give the same files."""
    rng = Random(f"{seed}/{reader.name}/{number}")
    copy_material(reader, material, folder)
    globs = rng.choice(reader.changed)
    path = rng.choice(sorted(folder.glob(globs)))
    command = tuple(
        str(path.relative_to(folder)) if text == "CHANGED" else text for text in rng.choice(reader.commands)
    )
    kind = rng.random()
    if kind < 0.04:
        what = f"{path.name}: {places.replaced(path, rng)} in its place"
        return Case(command, what, False)
    if reader.name == "data folders" and kind < 0.5:
        return Case(command, places.odd_names(folder / "data", rng), False)
    damage = kind < 0.35
    change = DAMAGE if damage else _fitting(reader, path, rng)
    damage = damage or change is DAMAGE
    before = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        content, what = _changed(change, before, rng, canary)
    path.write_bytes(content)
    if reader.resum and not damage:
        sum_again(path)
    return Case(command, f"{path.name}: {what}", damage)


def copy_material(reader: Reader, material: Path, folder: Path) -> None:
    """The unchanged files of a class, and the folder that commands write to."""
    (folder / TARGET).mkdir(parents=True)
    for name in reader.files:
        source, target = material / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)


def _changed(change, before, rng, canary):
    for _ in range(20):
        try:
            content, what = change(before, rng, canary)
        except (
            ValueError,
            TypeError,
            RuntimeError,
            KeyError,
            OverflowError,
            MemoryError,
            AttributeError,
            IndexError,
            NotImplementedError,
        ):
            continue  # the library that writes the format refuses this change
        if content != before:
            return content, what
    return DAMAGE(before, rng, canary)


def _fitting(reader, path, rng):
    by_suffix = {".json": (JSON,), ".safetensors": (SAFETENSORS,), ".npz": (NPZ, NPZ, ZIP), ".onnx": (ONNX,)}
    return rng.choice(by_suffix.get(path.suffix, reader.changes))


def sum_again(path: Path) -> None:
    """Write the file's size and SHA-256 into the manifest beside it."""
    manifest = path.with_name("manifest.json")
    if path == manifest:
        return
    data, content = json.loads(manifest.read_text()), path.read_bytes()
    for entry in data["files"]:
        if entry["path"] == path.name:
            entry |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest.write_text(json.dumps(data))
