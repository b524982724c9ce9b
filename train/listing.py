"""Finds images and their classes by timm's readers: in folders, in a tar archive, in a folder of tar archives.

timm's readers list; its ImageDataset is not used, because it puts the next image in the place of a damaged one.
"""

import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from timm.data.readers.reader_image_folder import find_images_and_targets
from timm.data.readers.reader_image_in_tar import extract_tarinfos

from tokfilter.errors import DataError

__all__ = ["Listing", "Part", "listing_from_path"]


@dataclass(frozen=True)
class Part:
    """Where an image lies in an archive.

    archive: name below the data's root
    offset, size: in bytes
    """

    archive: str
    offset: int
    size: int


@dataclass(frozen=True)
class Listing:
    """Images in timm's order.

    root: folder that names are relative to
    files: names of the images; in archives with the archive's name before
    classes: class of each
    order: the classes, in timm's order
    parts: where each image lies in an archive; None when the files are files
    """

    root: Path
    files: tuple[str, ...]
    classes: tuple[str, ...]
    order: tuple[str, ...]
    parts: tuple[Part, ...] | None = None


def listing_from_path(root: Path) -> Listing:
    """List a folder with one subfolder per class, a .tar file, or a folder of .tar files.

    Raises DataError: nothing there, no images, a class folder without images, an archive that is damaged or compressed.
    """
    if root.is_file() and root.suffix.lower() == ".tar":
        return _from_archives(root, root.parent)
    if not root.is_dir():
        raise DataError(
            f"images want a folder with one subfolder per class or a .tar archive, but there is no folder {root}."
        )
    return _from_archives(root, root) if any(root.glob("*.tar")) else _from_folder(root)


def _from_folder(root: Path) -> Listing:
    found, index = find_images_and_targets(str(root), types=_readable())
    if not found:
        raise DataError(f"{root} holds no images. It wants one subfolder per class with JPEG, PNG, WebP... files.")
    files = tuple(Path(file).relative_to(root).as_posix() for file, _ in found)
    filled = {name.split("/")[0] for name in files}
    folders = {path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")}
    if empty := sorted(folders - filled):
        raise DataError(f"{root} has class folders without images: {', '.join(empty[:5])}. Fill or remove them.")
    order = _order(index)
    return Listing(root, files, tuple(order[target] for _, target in found), order)


def _from_archives(path: Path, root: Path) -> Listing:
    try:
        # timm would keep its list as a pickle beside the archives, and read one that lies there.
        samples, targets, index, _ = extract_tarinfos(str(path), cache_tarinfo=False, extensions=_readable())
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(
            f"{path} could not be read as tar archives ({error}). They want to be whole and not compressed."
        ) from error
    except ValueError as error:  # what timm's code ends in when it has found nothing
        raise DataError(
            f"{path} holds no images. An archive wants one folder per class, or is a class itself."
        ) from error
    order, files, parts = _order(index), [], []
    for image, archive, inner in samples:
        name = archive or path.name
        files.append("/".join([name, inner.name, image.name] if inner else [name, image.name]))
        parts.append(Part(name, image.offset_data + (inner.offset_data if inner else 0), image.size))
    return Listing(root, tuple(files), tuple(order[target] for target in targets), order, tuple(parts))


def _order(index: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(sorted(index, key=index.__getitem__))


def _readable() -> set[str]:
    """Endings of the files that Pillow can open."""
    return {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}
