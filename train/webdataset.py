"""Lists webdataset shards: tar archives in which an image (``0001.jpg``) and its class share a key.

The class is a number in ``0001.cls``, or ``cls`` or ``label`` in ``0001.json``: a number or a name. A number is a
line of ``classnames.txt`` beside the archives, counted from 0; without that file it is its own name. Format:
github.com/webdataset/webdataset.

The package webdataset and timm's ReaderWds read shards from begin to end. Held-out images by content, resuming, and
batches in an order that depends on the seed alone need each image by its place, and an uncompressed tar has it.
"""

import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Literal

from tokfilter.artifacts.images import image_extensions
from tokfilter.artifacts.json_file import json_from_bytes
from tokfilter.artifacts.limits import MAX_SAMPLE_JSON, MAX_SIZE, MAX_TEXT
from tokfilter.artifacts.zip_parts import open_regular
from tokfilter.errors import DataError
from tokfilter.train.class_map_file import class_map_from_file
from tokfilter.train.image_index import TEST_PARTS, TRAIN_PARTS, Listing, PartList
from tokfilter.train.walk import check_name

__all__ = ["NUMBERS", "ShardKind", "listing_from_shards", "shard_kind"]

ShardKind = Literal["class", "caption"]

_NAMES_FILE: Final = "classnames.txt"
NUMBERS: Final = f"Numbers as classes of webdataset shards get their names from {_NAMES_FILE} beside the shards."

_KEY: Final = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)", re.DOTALL)
"""Key and ending of a member: what precedes the first dot of its base name, and what follows."""

_NUMBER: Final = re.compile(rb"[0-9]{1,7}")
_SHOWN: Final = 100


@dataclass(slots=True)
class _Sample:
    """Members of one key, (name, offset, size): the image, what gives its class, a caption."""

    image: tuple[str, int, int] | None = None
    number: tuple[str, int, int] | None = None
    facts: tuple[str, int, int] | None = None
    caption: tuple[str, int, int] | None = None


def shard_kind(path: Path) -> ShardKind | None:
    """What an archive's images have beside them; None: nothing, or the archive has folders.

    ``class`` where any image has a ``.cls``, or the first a ``.json`` with a label; ``caption`` where the first has
    other JSON or a ``.txt``, as img2dataset writes them.
    path: checked by ``check_archive``
    Raises DataError.
    """
    with open_regular(path) as file:
        samples = [sample for sample in _samples(file, path) if sample.image is not None]
        if any(sample.number is not None for sample in samples):
            return "class"
        if not samples or samples[0].image is None:
            return None
        first, name = samples[0], samples[0].image[0]
        try:
            if first.facts is not None and _label(file, first.facts) is not None:
                return "class"
        except ValueError:  # JSON of another kind
            pass
    has_caption = (first.facts or first.caption) is not None
    return "caption" if has_caption and "/" not in name.removeprefix("./") else None


def listing_from_shards(archives: Sequence[Path], root: Path) -> Listing:
    """The images of some archives of the kind ``class``, in order.

    archives: checked by ``check_archive``
    Raises DataError: an image without a class or with a wrong one, two images of a key, a damaged archive.
    """
    names = _names(root)
    known_names = frozenset(names or ())
    files, classes, parts, known = list[str](), list[str](), PartList(), dict[str, str]()
    for path in archives:
        with open_regular(path) as file:
            for sample in _samples(file, path):
                if sample.image is not None:
                    name, offset, size = sample.image
                    files.append(f"{path.name}/{name}")
                    found = _class(file, path, sample, names, known_names)
                    classes.append(known.setdefault(found, found))
                    parts.add(path.name, offset, size)
        if len(known) > MAX_SIZE:
            raise DataError(f"{path} has more than {MAX_SIZE} classes: check what its labels mean.")
    order = names or tuple(sorted(known, key=_natural))
    return Listing(root, tuple(files), tuple(classes), order, parts.parts())


def _names(root: Path) -> tuple[str, ...] | None:
    """The names beside the archives, or beside the folders ``train`` and ``test`` that hold them; None: no file."""
    folders = (root, root.parent) if root.name in (*TRAIN_PARTS, *TEST_PARTS) else (root,)
    found = (folder / _NAMES_FILE for folder in folders if (folder / _NAMES_FILE).exists())
    file = next(found, None)
    return None if file is None else class_map_from_file(file)


def _natural(name: str) -> tuple[bool, int, str]:
    """Numbers in their order, then names."""
    number = name.isascii() and name.isdecimal()
    return not number, int(name) if number else 0, name


def _samples(file: IO[bytes], path: Path) -> Iterator[_Sample]:
    """The keys of an archive in order, those that have neither image nor class included. Raises DataError."""
    found: dict[str, _Sample] = {}
    images = {ending.removeprefix(".") for ending in image_extensions()}
    for member in _members(file, path):
        split = _KEY.fullmatch(member.name)
        if split is None or not member.isreg():
            continue
        check_name(member.name, path)
        ending = split[2].lower()
        kind = "image" if ending in images else {"cls": "number", "json": "facts", "txt": "caption"}.get(ending)
        if kind is not None:
            sample = found.setdefault(split[1], _Sample())
            earlier = getattr(sample, kind)
            if earlier is not None:
                raise DataError(
                    f"{path} has {earlier[0]!r:.{_SHOWN}} and {member.name!r:.{_SHOWN}}, expected one of each kind for "
                    "a key: rename one, or write the shards again."
                )
            setattr(sample, kind, (member.name, member.offset_data, member.size))
    yield from found.values()


def _members(file: IO[bytes], path: Path) -> Iterator[tarfile.TarInfo]:
    """The members of an archive one by one: tarfile itself keeps them all."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            kept: Any = archive
            while (member := archive.next()) is not None:
                kept.members.clear()
                yield member
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise DataError(
            f"{path} could not be read as a tar archive ({str(error)[:200]}). It must be complete, not compressed."
        ) from error


def _class(file: IO[bytes], path: Path, sample: _Sample, names: Sequence[str] | None, known: frozenset[str]) -> str:
    """The name of a sample's class. Raises DataError."""
    assert sample.image is not None
    given, place = sample.number or sample.facts, f"{path}/{sample.image[0]:.200}"
    try:
        if given is None:
            raise ValueError("there is neither")
        label = _number(file, given) if sample.number is not None else _label(file, given)
        if label is None:
            raise ValueError("its JSON has no label")
        if isinstance(label, str) and names is not None and label not in known:
            raise ValueError(f"{label!r} is not in {_NAMES_FILE}")
        if isinstance(label, int) and label >= (MAX_SIZE if names is None else len(names)):
            limit = f"{MAX_SIZE} classes" if names is None else f"the {len(names)} lines of {_NAMES_FILE}"
            raise ValueError(f"it is {label}, beyond {limit}")
    except ValueError as error:
        raise DataError(
            f"{place} has no class that can be read: expected a whole number in its .cls, or label in its .json; "
            f"{str(error)[:300]}. Write the shards again, or give images without classes in a folder."
        ) from error
    return label if isinstance(label, str) else str(label) if names is None else names[label]


def _number(file: IO[bytes], place: tuple[str, int, int]) -> int:
    name, offset, size = place
    if size > _SHOWN:
        raise ValueError(f"{name!r:.{_SHOWN}} has {size} bytes")
    file.seek(offset)
    content = file.read(size).strip()
    if not _NUMBER.fullmatch(content):
        raise ValueError(f"it is {content.decode('utf-8', 'replace')!r:.{_SHOWN}}")
    return int(content)


def _label(file: IO[bytes], place: tuple[str, int, int]) -> int | str | None:
    """The label in a sample's JSON, None where it has none. Raises ValueError."""
    name, offset, size = place
    if size > MAX_SAMPLE_JSON:
        raise ValueError(f"{name!r:.{_SHOWN}} has {size} bytes, expected at most {MAX_SAMPLE_JSON}")
    file.seek(offset)
    facts = json_from_bytes(file.read(size), MAX_SAMPLE_JSON // 16)
    named = [facts.get(key) for key in ("cls", "label")] if isinstance(facts, dict) else []
    label = next((value for value in named if value is not None), None)
    if type(label) is int and label >= 0:
        return label
    if isinstance(label, str) and label.isprintable() and 0 < len(label.strip()) <= len(label) <= MAX_TEXT:
        return label
    if label is not None:
        raise ValueError(f"its label is {label!r:.{_SHOWN}}")
    return None
