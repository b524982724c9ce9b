"""Images of calibration and of the gate: never the same, damaged ones counted, bad folders refused."""

import numpy as np
import pytest
from PIL import Image
from quantize_images import CLASSES, write_images

from tokfilter.artifacts.bundle import Preprocessing
from tokfilter.errors import DataError
from tokfilter.export.quantize import images
from tokfilter.export.quantize.images import pools_from_folders

SIZE = Preprocessing((3, 32, 32), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def pools(folder, check=None, names=CLASSES):
    return pools_from_folders(folder, check, SIZE, names, 5)


def rows(pool):
    return {image.tobytes() for image in pool.pixels}


def test_no_image_is_in_both_and_all_sizes_become_the_models(labelled_folder):
    found = pools(labelled_folder)
    assert len(found.calibration) == 40 and len(found.check) == 40
    assert not rows(found.calibration) & rows(found.check)
    assert found.check.pixels.shape == (40, 3, 32, 32) and found.check.pixels.dtype == np.uint8
    assert sorted(set(found.check.classes)) == [0, 1, 2, 3, 4]


def test_the_choice_is_the_same_every_time_and_labels_are_those_of_the_subfolders(labelled_folder):
    first, second = pools(labelled_folder), pools(labelled_folder)
    assert (first.check.pixels == second.check.pixels).all() and (first.check.classes == second.check.classes).all()
    transform = images.transform_of(SIZE)
    of_class = {
        images.pixels_from_normalised(transform(Image.open(path)).numpy(), SIZE.mean, SIZE.std).tobytes()
        for path in (labelled_folder / "cat").iterdir()
    }
    assert {pixels.tobytes() in of_class for pixels in first.check.pixels[first.check.classes == 2]} == {True}


def test_another_folder_for_the_gate_lends_no_calibration_image(labelled_folder, tmp_path, monkeypatch):
    write_images(tmp_path / "check", 12, seed=9)
    apart = pools(labelled_folder, tmp_path / "check")
    assert len(apart.calibration) == 80 and len(apart.check) == 12 and apart.check.classes is None
    monkeypatch.setattr(images, "MOST_CALIBRATION", 50)
    same = pools(labelled_folder, labelled_folder)
    assert len(same.check) == 30 and not rows(same.calibration) & rows(same.check)


def test_at_most_so_many_images_are_read(labelled_folder, monkeypatch):
    monkeypatch.setattr(images, "MOST_CALIBRATION", 33)
    monkeypatch.setattr(images, "MOST_CHECK", 5)
    found = pools(labelled_folder)
    assert (len(found.calibration), len(found.check)) == (33, 5)


def test_damaged_images_are_left_out_and_named(tmp_path):
    write_images(tmp_path, 80)
    for name in ("a.png", "b.jpg"):
        (tmp_path / name).write_bytes(b"no image")
    found = pools(tmp_path)
    assert sorted(found.as_dict()["damaged"]) == ["a.png", "b.jpg"]
    assert len(found.calibration) + len(found.check) == 80
    assert not found.as_dict()["labelled"], "images in the folder itself have no labels"


def test_subfolders_without_names_of_the_model_are_labels_only_in_the_models_number(tmp_path):
    for number in range(5):
        write_images(tmp_path / str(number), 16, number)
    assert pools(tmp_path, names=[]).check.classes is not None
    (tmp_path / "4").rename(tmp_path / "5")
    write_images(tmp_path / "6", 2, 6)
    assert pools(tmp_path, names=[]).check.classes is None


def test_bad_folders_are_refused(tmp_path, labelled_folder):
    with pytest.raises(DataError, match=r"--calibrate must be a folder of images, but there is none at .*missing"):
        pools(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"--check-images must be a folder .* holds none of .*\.jpg"):
        pools(labelled_folder, tmp_path / "empty")
    write_images(tmp_path / "few", 31)
    with pytest.raises(DataError, match=r"requires 32 images or more, better 500, and .*few has 31 that can be read"):
        pools(tmp_path / "few", labelled_folder)
    write_images(tmp_path / "one" / "cat", 40)
    with pytest.raises(DataError, match=r"images of several classes, and all images of .*one are of class 'cat'"):
        pools(tmp_path / "one")
    write_images(tmp_path / "other" / "zebra", 40)
    with pytest.raises(DataError, match=r"no class of this model, first 'zebra'"):
        pools(tmp_path / "other")
    write_images(tmp_path / "exact", 32)
    with pytest.raises(DataError, match=r"images besides the 32 of the calibration.*--check-images"):
        pools(tmp_path / "exact")
    for path in (tmp_path / "exact").iterdir():
        path.write_bytes(b"cut")
    with pytest.raises(DataError, match=r"has 0 that can be read; 32 are damaged, first "):
        pools(tmp_path / "exact", labelled_folder)
