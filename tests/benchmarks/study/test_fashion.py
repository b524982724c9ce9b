import gzip
import struct

import numpy as np
import pytest

from tokfilter.benchmarks.study.fashion import DEBIAN, write_fashion
from tokfilter.errors import DataError
from tokfilter.train.data import splits_from_folder
from tokfilter.train.dataset import ImageDataset
from tokfilter.vit.info import preprocessing_from_backbone

COUNTS = {"train": 40, "t10k": 20}


def write_idx(folder, split, count):
    """Files in Zalando's format: a big-endian header, then bytes."""
    rng = np.random.default_rng(count)
    pixels = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
    labels = (np.arange(count) % 10).astype(np.uint8)
    with gzip.open(folder / f"{split}-images-idx3-ubyte.gz", "wb") as file:
        file.write(struct.pack(">4i", 2051, count, 28, 28) + pixels.tobytes())
    with gzip.open(folder / f"{split}-labels-idx1-ubyte.gz", "wb") as file:
        file.write(struct.pack(">2i", 2049, count) + labels.tobytes())
    return pixels, labels


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


def test_every_image_is_in_the_folder_of_its_class(source, tmp_path, model):
    expected = {split: write_idx(source, split, count) for split, count in COUNTS.items()}
    write_fashion(tmp_path / "data", source)
    splits = splits_from_folder(tmp_path / "data")
    assert splits.train.class_names[0] == "Ankle boot" and "T-shirt or top" in splits.train.class_names
    preprocessing = preprocessing_from_backbone(model.backbone, crop_pct=1.0)
    for part, split in ((splits.train, "train"), (splits.test, "t10k")):
        assert len(part) == COUNTS[split]
        assert len(ImageDataset(part, preprocessing)) == len(part)
        pixels, _ = expected[split]
        for position, name in enumerate(part.files):
            image = np.asarray(part.image(position).convert("L"))
            np.testing.assert_array_equal(image, pixels[int(name.split("/")[1].removesuffix(".png"))])


def test_training_images_can_be_held_out_in_place_of_the_test_images(source, tmp_path):
    train, _ = write_idx(source, "train", 40)
    write_idx(source, "t10k", 20)
    write_fashion(tmp_path / "data", source, held_out=20, seed=5)
    found = splits_from_folder(tmp_path / "data")
    written = [
        np.asarray(part.image(i).convert("L")).tobytes() for part in (found.train, found.test) for i in range(len(part))
    ]
    assert (len(found.train), len(found.test)) == (20, 20)
    assert sorted(written) == sorted(image.tobytes() for image in train)


def test_a_folder_without_the_files_is_refused(source, tmp_path):
    with pytest.raises(DataError, match="dataset-fashion-mnist"):
        write_fashion(tmp_path / "data", source)
    assert not (tmp_path / "data").exists()


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_debians_files_are_complete():
    for split, count in (("train", 60_000), ("t10k", 10_000)):
        with gzip.open(DEBIAN / f"{split}-labels-idx1-ubyte.gz") as file:
            labels = np.frombuffer(file.read()[8:], np.uint8)
        assert np.bincount(labels).tolist() == [count // 10] * 10
