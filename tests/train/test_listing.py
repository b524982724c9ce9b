"""Data as users have it: tar archives, class maps, images that no decoder takes."""

import io
import os
import struct
import tarfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from tokfilter.artifacts.bundle import Preprocessing
from tokfilter.artifacts.limits import MAX_CLASS_MAP
from tokfilter.errors import DataError
from tokfilter.train.class_map import mapped
from tokfilter.train.class_map_file import class_map_from_file
from tokfilter.train.data import checked, images_from_folder, splits_from_folder
from tokfilter.train.dataset import ImageDataset
from tokfilter.train.distributed import DistContext

PREPROCESSING = Preprocessing((3, 16, 16), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


def quiet(step, fraction):
    pass


def pixels(seed, size=(20, 24)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def encoded(seed, size=(20, 24)):
    stream = io.BytesIO()
    Image.fromarray(pixels(seed, size)).save(stream, "png")
    return stream.getvalue()


def archive(path, contents):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def classes(prefix="", names=("ant", "bee", "cat"), each=3):
    return {f"{prefix}{name}/{i}.png": encoded(10 * n + i) for n, name in enumerate(names) for i in range(each)}


def in_folder(root, contents):
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def as_one_archive(root):
    return archive(root / "data.tar", classes())


def as_archive_with_a_folder_before(root):
    return archive(root / "data.tar", classes("photos/"))


def as_one_archive_per_class(root):
    for name in ("ant", "bee", "cat"):
        contents = {file.split("/")[1]: content for file, content in classes().items() if file.startswith(name)}
        archive(root / "data" / f"{name}.tar", contents)
    return root / "data"


def as_archive_of_archives(root):
    as_one_archive_per_class(root)
    return archive(root / "outer.tar", {path.name: path.read_bytes() for path in sorted((root / "data").iterdir())})


@pytest.mark.parametrize(
    "kept", [as_one_archive, as_archive_with_a_folder_before, as_one_archive_per_class, as_archive_of_archives]
)
def test_archives_give_what_the_folder_gives(tmp_path, kept):
    folder = images_from_folder(in_folder(tmp_path / "plain", classes()))
    images = images_from_folder(kept(tmp_path))
    assert images.class_names == ("ant", "bee", "cat") and len(images) == 9
    assert len(set(images.files)) == 9 and all(name.endswith(".png") for name in images.files)
    by_class = [sorted(range(9), key=lambda i: (part.labels[i], part.files[i][-5])) for part in (folder, images)]
    for one, other in zip(*by_class, strict=True):
        assert folder.labels[one] == images.labels[other] and folder.bytes(one) == images.bytes(other)
        assert np.array_equal(folder.image(one), images.image(other))
    assert not list(tmp_path.rglob("*pickle*"))
    held, read = ImageDataset(images, PREPROCESSING), ImageDataset(images, PREPROCESSING, hold_bytes=0)
    one, other = next(held.in_order(9)), next(read.in_order(9))  # the latter by processes of their own
    assert torch.equal(one.images, other.images)


def test_a_subset_of_an_archive_keeps_images_and_labels_together(tmp_path):
    images = images_from_folder(as_one_archive(tmp_path))
    part = images.subset([7, 1])
    assert np.array_equal(part.image(0), images.image(7)) and part.labels == (images.labels[7], images.labels[1])
    assert part.digest() != images.digest()


def test_an_archive_is_divided_or_comes_divided(tmp_path):
    whole = splits_from_folder(as_one_archive(tmp_path), holdout=0.34)
    assert (len(whole.train), len(whole.test)) == (6, 3)
    archive(tmp_path / "divided/train.tar", classes())
    archive(tmp_path / "divided/val.tar", classes(names=("bee",), each=1))
    splits = splits_from_folder(tmp_path / "divided")
    assert len(splits.train) == 9 and splits.test.labels == (1,)


def test_a_damaged_image_in_an_archive_is_named_and_skipped(tmp_path):
    contents = {**classes(), "bee/none.png": b"no image", "cat/cut.png": encoded(99)[:200]}
    reports = []
    images = checked(images_from_folder(archive(tmp_path / "data.tar", contents)), quiet, reports.append)
    assert len(images) == 9 and len(reports) == 2
    assert (
        "data.tar/bee/none.png is not an image" in reports[0] and "data.tar/cat/cut.png could not be read" in reports[1]
    )


def cut(path):
    path.write_bytes(path.read_bytes()[:-15_000])


def compressed(path):
    import gzip

    path.write_bytes(gzip.compress(path.read_bytes()))


@pytest.mark.parametrize("harm", [cut, compressed])
def test_a_damaged_or_compressed_archive_is_refused_by_name(tmp_path, harm):
    path = as_one_archive(tmp_path)
    harm(path)
    with pytest.raises(DataError, match=r"data\.tar could not be read as a tar archive .*complete, not compressed"):
        images_from_folder(path)


@pytest.mark.parametrize("contents", [{}, {"notes/a.txt": b"text"}])
def test_an_archive_without_images_is_refused(tmp_path, contents):
    with pytest.raises(DataError, match="has no images"):
        images_from_folder(archive(tmp_path / "data.tar", contents))


def grown(png, side):
    """A PNG whose header says that it is larger; its few bytes are whole otherwise."""
    header = b"IHDR" + struct.pack(">2I", side, side) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


def test_a_huge_image_is_named_and_skipped_before_its_pixels_are_made(tmp_path):
    import resource

    folder = in_folder(tmp_path / "data", classes())
    (folder / "bee/huge.png").write_bytes(grown(encoded(0), 40_000))
    before, reports = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    images = checked(images_from_folder(folder), quiet, reports.append)
    assert len(images) == 9 and len(reports) == 1
    assert "bee/huge.png: expected at most 100 million pixels, got far more. Scale" in reports[0]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB; its pixels would be 4.8 GB


def test_an_image_that_is_damaged_after_it_was_checked_ends_the_run_with_its_name(tmp_path):
    folder = in_folder(tmp_path / "data", classes())
    dataset = ImageDataset(checked(images_from_folder(folder), quiet, print), PREPROCESSING, hold_bytes=0)
    (folder / "bee/1.png").write_bytes(encoded(1)[:100])
    with pytest.raises(DataError, match=r"^\S*bee/1\.png could not be read, it may be damaged or cut short: [^\n]*$"):
        list(dataset.in_order(4))  # read by processes of their own, whose traceback is not for people


def written(path, text):
    path.write_text(text)
    return path


def test_a_class_map_gives_the_order_and_leaves_out_other_classes_by_name(tmp_path):
    images = images_from_folder(in_folder(tmp_path / "data", classes()))
    names, reports = class_map_from_file(written(tmp_path / "map.txt", "cat\nzebra\n ant\n\n")), []
    assert names == ("cat", "zebra", "ant")
    found = mapped(images, names, reports.append)
    assert found.class_names == names and len(found) == 6
    assert {found.files[i].split("/")[0]: label for i, label in enumerate(found.labels)} == {"ant": 2, "cat": 0}
    assert reports == ["left out 3 images of 1 classes that are not in the class map: bee"]


def test_a_class_map_is_what_timm_reads(tmp_path):
    from timm.data.readers import create_reader

    folder = in_folder(tmp_path / "data", classes())
    path = written(tmp_path / "map.txt", "cat\nbee\nant\n")
    reader = create_reader("", str(folder), class_map=str(path))
    theirs = {reader.filename(i): target for i, (_, target) in enumerate(reader.samples)}
    ours = mapped(images_from_folder(folder), class_map_from_file(path), print)
    assert dict(zip(ours.files, ours.labels, strict=True)) == theirs


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("map.pkl", "x", "must be a .txt file"),
        ("map.txt", "", "line 1 is empty"),
        ("map.txt", "ant\n\nbee", "line 2 is empty"),
        ("map.txt", "ant\nbee\nant", "has class names twice: ant"),
        ("map.txt", "x" * (MAX_CLASS_MAP + 1), "must have at most 16 MiB"),
    ],
)
def test_class_maps_that_are_none_are_refused(tmp_path, name, text, words):
    with pytest.raises(DataError, match=words):
        class_map_from_file(written(tmp_path / name, text))


def test_other_files_than_class_maps_are_refused(tmp_path):
    (tmp_path / "map.txt").write_bytes(os.urandom(3) + b"\xff\xfe\x00")
    with pytest.raises(DataError, match="is not UTF-8 text"):
        class_map_from_file(tmp_path / "map.txt")
    with pytest.raises(DataError, match="there is none"):
        class_map_from_file(tmp_path / "nowhere.txt")


def test_a_class_map_that_leaves_one_class_is_refused(tmp_path):
    images = images_from_folder(in_folder(tmp_path / "data", classes()))
    with pytest.raises(DataError, match="images of 1 of the class map's 2 classes"):
        mapped(images, ("bee", "zebra"), print)


def test_a_process_without_a_gpu_of_its_own_is_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert DistContext(0, 2, 0).device == "cuda:0"
    with pytest.raises(DataError, match=r"has 1 GPU, and process 2 gets none: .*--nproc-per-node gpu"):
        _ = DistContext(1, 2, 1).device


def test_each_of_several_processes_checks_its_part_of_the_images(tmp_path):
    folder = in_folder(tmp_path / "data", {**classes(), "bee/none.png": b"no image", "cat/none.png": b""})
    images, reports, raised, counted = images_from_folder(folder), [], [], []

    class Half(DistContext):
        def all_reduce(self, flags):
            raised.append(flags.clone())
            return flags

        def sum(self, keys):
            counted.append(keys.clone())
            return keys

    for rank in (0, 1):
        checked(images, quiet, reports.append, Half(rank, 2))
    alone = checked(images, quiet, lambda text: None)
    whole = [i for i in range(len(images)) if not (raised[0] | raised[1])[i]]
    assert [int(counted[0][i] + counted[1][i]) for i in whole] == list(alone.keys)
    assert sorted(text.split(" is")[0].rsplit("/", 2)[1] for text in reports) == ["bee", "cat"]
    assert (raised[0] | raised[1]).sum() == 2
