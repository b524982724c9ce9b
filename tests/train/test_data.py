import numpy as np
import pytest
import torch
from PIL import Image

from tokfilter.artifacts.bundle import Preprocessing
from tokfilter.artifacts.images import open_image
from tokfilter.benchmarks.study.scenes import (
    _COLUMNS,
    SceneConfig,
    _digits,
    _photos,
    scene_images,
    segmented_scenes,
    write_scenes,
)
from tokfilter.errors import DataError
from tokfilter.train.augmentation import Augmentation, augmented
from tokfilter.train.data import checked, images_from_folder, splits_from_folder
from tokfilter.train.dataset import ImageDataset

PREPROCESSING = Preprocessing((3, 16, 16), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


def quiet(step, fraction):
    pass


def picture(path, mode="RGB", size=(20, 24), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    if mode == "I;16":
        image = Image.fromarray(rng.integers(0, 65536, size[::-1], dtype=np.uint16))
    else:
        channels = len(Image.new(mode, (1, 1)).getbands())
        pixels = rng.integers(0, 256, (*size[::-1], channels), dtype=np.uint8)
        image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels, mode=None).convert(mode)
    image.save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    for name in ("ant", "bee", "cat10", "cat9"):
        for i in range(4):
            picture(tmp_path / "data" / name / f"{i}.png", seed=i)
    return tmp_path / "data"


def test_classes_stand_in_timms_order_or_in_the_models(folder):
    images = images_from_folder(folder)
    assert images.class_names == ("ant", "bee", "cat9", "cat10")
    assert [images.class_names[label] for label in images.labels] == [name.split("/")[0] for name in images.files]
    names = ("zebra", "cat9", "ant", "bee", "cat10")
    assert images_from_folder(folder, names).class_names == names
    assert set(images_from_folder(folder, names).labels) == {1, 2, 3, 4}


def test_a_class_that_the_model_does_not_know_is_refused(folder):
    with pytest.raises(DataError, match="was not trained for: cat10, cat9. It has 2"):
        images_from_folder(folder, ["ant", "bee"])


def test_folders_that_hold_nothing_to_learn_from_are_refused(tmp_path, folder):
    with pytest.raises(DataError, match="there is no folder"):
        images_from_folder(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no images"):
        images_from_folder(tmp_path / "empty")
    picture(tmp_path / "single/ant/0.png")
    with pytest.raises(DataError, match="has one class only .ant."):
        images_from_folder(tmp_path / "single")
    (folder / "dog").mkdir()
    (folder / "dog/notes.txt").write_text("no image")
    with pytest.raises(DataError, match="class folders without images: dog"):
        images_from_folder(folder)


def test_a_divided_folder_is_taken_as_it_is(tmp_path, folder):
    folder.rename(tmp_path / "train")
    with pytest.raises(DataError, match="but none of test, val"):
        splits_from_folder(tmp_path)
    picture(tmp_path / "val/bee/x.png")
    splits = splits_from_folder(tmp_path)
    assert (len(splits.train), splits.test.files, splits.test.labels) == (16, ("bee/x.png",), (1,))


def test_an_undivided_folder_is_divided_by_class_and_always_alike(folder):
    splits = splits_from_folder(folder, holdout=0.25)
    assert sorted(splits.test.labels) == [0, 1, 2, 3]
    assert not set(splits.train.files) & set(splits.test.files)
    assert len(splits.train) + len(splits.test) == 16
    assert splits_from_folder(folder, holdout=0.25) == splits
    with pytest.raises(DataError, match="between 0 and 1, got 1.0"):
        splits_from_folder(folder, holdout=1.0)
    picture(folder / "dog/0.png")
    with pytest.raises(DataError, match="class dog has one image"):
        splits_from_folder(folder)


def test_the_digest_names_the_data(folder):
    before = images_from_folder(folder).digest()
    assert images_from_folder(folder).digest() == before
    picture(folder / "ant/0.png", size=(30, 30))
    assert images_from_folder(folder).digest() != before


def test_images_that_cannot_be_decoded_are_reported_by_name_and_skipped(folder):
    (folder / "bee/broken.png").write_bytes(b"no image at all")
    whole = (folder / "ant/0.png").read_bytes()
    (folder / "ant/cut.png").write_bytes(whole[: len(whole) // 2])
    reports = []
    images = checked(images_from_folder(folder), quiet, reports.append)
    assert len(images) == 16
    assert len(reports) == 2 and all(text.startswith("skipped ") for text in reports)
    assert "ant/cut.png" in reports[0] and "bee/broken.png" in reports[1]


def test_a_class_whose_images_are_all_damaged_is_an_error(folder):
    for file in (folder / "bee").iterdir():
        file.write_bytes(b"")
    with pytest.raises(DataError, match="no image of class bee"):
        checked(images_from_folder(folder), quiet, lambda text: None)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "LA", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("size", [(20, 24), (1, 1), (3, 50)])
def test_every_kind_of_image_becomes_the_models_input(tmp_path, mode, size):
    path = picture(tmp_path / ("a.tif" if mode == "CMYK" else "a.png"), mode, size)
    image = open_image(path)
    assert (image.mode, image.size) == ("RGB", size)


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path):
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert np.asarray(open_image(tmp_path / "a.png"))[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("pixels", [np.full((2, 2), 70_000, np.int32), np.ones((2, 2), np.float32)])
def test_pixels_of_no_known_range_are_refused(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif: .*no agreed range"):
        open_image(tmp_path / "a.tif")


def test_views_are_the_same_held_in_memory_or_decoded_each_time(folder):
    images = images_from_folder(folder)
    held, streamed = ImageDataset(images, PREPROCESSING), ImageDataset(images, PREPROCESSING, hold_bytes=0)
    plan = [torch.tensor([3, 0, 7]), torch.tensor([15])]
    for one, other in zip(held.batches(plan), streamed.batches(plan), strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one.positions, other.positions)
        assert one.images.dtype == torch.uint8 and one.images.shape[1:] == (3, 16, 16)
    first = next(held.in_order(5))
    normal = held.normalised(first.images)
    expected = (first.images[:, 2].float() / 255 - 0.3) / 0.4
    torch.testing.assert_close(normal[:, 2], expected)


def test_augmentation_repeats_with_its_seed_and_keeps_size_and_range():
    images = torch.rand(6, 3, 16, 16)

    def draw(config, seed=1):
        return augmented(images, torch.arange(6), config, torch.Generator().manual_seed(seed))[0]

    zoomed = draw(Augmentation(zoom=0.7, flip=0.5))
    assert torch.equal(zoomed, draw(Augmentation(zoom=0.7, flip=0.5)))
    assert zoomed.shape == images.shape and not torch.equal(zoomed, images)
    assert float(zoomed.min()) >= 0 and float(zoomed.max()) <= 1.0001
    assert draw(Augmentation()) is images
    torch.testing.assert_close(draw(Augmentation(flip=1.0)), images.flip(3), atol=1e-5, rtol=1e-5)


def test_augmentation_moves_the_mask_with_its_image():
    masks = torch.randint(0, 4, (6, 8, 8), generator=torch.Generator().manual_seed(0))
    images = masks[:, None].float().expand(-1, 3, -1, -1)
    moved, labels = augmented(images, masks, Augmentation(flip=1.0), torch.Generator().manual_seed(1))
    assert torch.equal(labels, masks.flip(2)) and labels.dtype == masks.dtype
    torch.testing.assert_close(moved[:, 0], labels.float(), atol=1e-4, rtol=0)
    moved, labels = augmented(images, masks, Augmentation(zoom=0.9, flip=0.5), torch.Generator().manual_seed(1))
    assert float((moved[:, 0] - labels).abs().mean()) < 0.6  # bilinear against nearest; unrelated masks have 1.25
    assert not torch.equal(labels, masks)


def test_pixels_of_a_scene_have_the_class_of_their_digit_and_images_are_those_of_the_classes():
    images, labels = segmented_scenes("test", 8, 3)
    plain, classes = scene_images("test", 8, 3)
    assert np.array_equal(images, plain)
    for mask, digit in zip(labels, classes, strict=True):
        assert set(np.unique(mask)) == {0, 1 + digit}
        rows, columns = np.nonzero(mask)
        assert max(np.ptp(rows), np.ptp(columns)) < 24


def test_scenes_repeat_with_their_seed_and_hold_digits_on_photographs():
    images, classes = scene_images("train", 12, 3)
    again, _ = scene_images("train", 12, 3)
    other, _ = scene_images("test", 12, 3)
    assert np.array_equal(images, again) and not np.array_equal(images, other)
    assert images.shape == (12, 64, 64, 3) and set(classes) <= set(range(10))


def test_nothing_leaks_from_training_to_test_scenes():
    train, _ = _digits("train")
    test, _ = _digits("test")
    assert len(train) + len(test) == 1797
    for left, right in zip(_photos("train"), _photos("test"), strict=True):
        width = left.shape[1] + right.shape[1]
        assert left.shape[1] == int(width * _COLUMNS["train"][1]) == 448


@pytest.mark.parametrize("jitter", [0, 3])
def test_digits_lie_inside_the_scene(jitter):
    config = SceneConfig(size=32, digits=(16, 32), step=4, jitter=jitter, window=(40, 60))
    images, _ = scene_images("test", 20, 0, config)
    assert images.shape == (20, 32, 32, 3)


def test_written_scenes_are_a_folder_that_training_reads(tmp_path):
    write_scenes(tmp_path, 0, train=60, test=30)
    splits = splits_from_folder(tmp_path)
    assert (len(splits.train), len(splits.test)) == (60, 30)
    assert splits.train.class_names == splits.test.class_names == tuple("0123456789")
    images, classes = scene_images("train", 60, 0)
    position = splits.train.files.index(f"{classes[7]}/00007.png")
    assert np.array_equal(np.asarray(open_image(splits.train.root / splits.train.files[position])), images[7])
