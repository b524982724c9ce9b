"""Lists images and their classes: folders and archives of class folders by timm's readers, webdataset shards.

timm's ImageDataset is not used, because it replaces a damaged image by the next one.
"""

import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from timm.data.readers.reader_image_folder import find_images_and_targets
from timm.data.readers.reader_image_in_tar import extract_tarinfos

from tokfilter.artifacts.images import image_extensions
from tokfilter.errors import DataError
from tokfilter.train.image_index import Listing, PartList
from tokfilter.train.walk import check_archive, check_name, check_tree
from tokfilter.train.webdataset import listing_from_shards, shard_kind

__all__ = ["listing_from_path"]


def listing_from_path(root: Path) -> Listing:
    """List a folder with one subfolder per class, a .tar file, or a folder of .tar files.

    The archives have class folders, or one class each; or they are webdataset shards (``webdataset.py``).

    Raises DataError: no such folder, no images, a class folder without images, a damaged or compressed archive.
    """
    if root.is_file() and root.suffix.lower() == ".tar":
        check_archive(root)
        return _from_archives(root, [root], root.parent)
    if not root.is_dir():
        raise DataError(
            f"expected a folder with one subfolder per class or a .tar archive, but there is no folder {root}."
        )
    archives = sorted(root.glob("*.tar"))
    for archive in archives:
        check_archive(archive)
    if archives:
        return _from_archives(root, archives, root)
    check_tree(root)
    return _from_folder(root)


def _from_folder(root: Path) -> Listing:
    found, index = find_images_and_targets(str(root), types=image_extensions())
    if not found:
        raise DataError(f"{root} has no images: expected one subfolder per class with JPEG, PNG, WebP... files.")
    files = tuple(Path(file).relative_to(root).as_posix() for file, _ in found)
    filled = {name.split("/")[0] for name in files}
    folders = {path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")}
    if empty := sorted(folders - filled):
        raise DataError(f"{root} has class folders without images: {', '.join(empty[:5])}. Add images or remove them.")
    order = _order(index)
    return Listing(root, files, tuple(order[target] for _, target in found), order)


def _from_archives(path: Path, archives: Sequence[Path], root: Path) -> Listing:
    kind = shard_kind(archives[0])
    return listing_from_shards(archives, root) if kind == "class" else _by_timm(path, root, kind == "caption")


def _by_timm(path: Path, root: Path, captioned: bool) -> Listing:
    try:
        # With a cache, timm writes its list as a pickle beside the archives, and unpickles one that it finds there.
        samples, targets, index, _ = extract_tarinfos(str(path), cache_tarinfo=False, extensions=image_extensions())
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(
            f"{path} could not be read as tar archives ({error}). They must be complete and not compressed."
        ) from error
    except ValueError as error:  # timm raises it when it has found no image
        raise DataError(
            f"{path} has no images: expected one folder per class in an archive, or one archive per class."
        ) from error
    order, files, parts = _order(index), list[str](), PartList()
    for image, archive, inner in samples:
        name = archive or path.name
        check_name(image.name, path)
        files.append("/".join([name, inner.name, image.name] if inner else [name, image.name]))
        parts.add(name, image.offset_data + (inner.offset_data if inner else 0), image.size)
    return Listing(root, tuple(files), tuple(order[target] for target in targets), order, parts.parts(), captioned)


def _order(index: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(sorted(index, key=index.__getitem__))
