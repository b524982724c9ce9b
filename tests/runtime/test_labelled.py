from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tokfilter.artifacts.manifest import load_manifest
from tokfilter.errors import DataError
from tokfilter.runtime.labelled import drops_from_images, labelled_files
from tokfilter.runtime.sessions import SessionOptions, open_session

OPTIONS = SessionOptions(threads=1)


@pytest.fixture
def photos(tmp_path):
    generator = np.random.default_rng(0)
    for name, count in (("ant", 3), ("dog", 7)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(count):
            pixels = generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
        (tmp_path / "photos" / name / "notes.txt").write_text("no image")
    return tmp_path / "photos"


def test_labelled_files_have_their_class(photos):
    names = ["ant", "bee", "cat", "dog", "eel"]
    assert [label for _, label in labelled_files(photos, names)] == [0] * 3 + [3] * 7
    assert [label for _, label in labelled_files(photos, [])] == [0] * 3 + [1] * 7
    with pytest.raises(DataError, match="are no class of this model, first 'ant'"):
        labelled_files(photos, ["dog"])
    with pytest.raises(DataError, match="one subfolder per class"):
        labelled_files(photos / "none", names)
    (photos / "void").mkdir()
    with pytest.raises(DataError, match="no images in the subfolders"):
        labelled_files(photos / "void", names)


def test_drops_from_labelled_images(export_directory, photos):
    """At a budget of every token the filtered model equals the full one: no loss of accuracy."""
    card = load_manifest(export_directory).model
    with (
        open_session(export_directory, "full", OPTIONS) as full,
        open_session(export_directory, options=OPTIONS) as filtered,
    ):
        drops = drops_from_images(full, filtered, card, labelled_files(photos, card.class_names), [4, 16], print)
    assert drops[16] == 0.0 and -1.0 <= drops[4] <= 1.0


@pytest.mark.parametrize("batches", [(1, 1, 3), (2, 4, 8), (8, 8, 8), (16, 16, 16)])
def test_an_engine_gets_batches_that_it_takes(export_directory, photos, batches):
    """Eight images and a rest of two, whatever sizes a plan was built for; results are the same."""
    card = load_manifest(export_directory).model
    files = labelled_files(photos, card.class_names)
    with (
        open_session(export_directory, "full", OPTIONS) as full,
        open_session(export_directory, options=OPTIONS) as filtered,
    ):
        expected, sizes = drops_from_images(full, filtered, card, files, [4], print), []
        filtered.model_file = replace(
            filtered.model_file, entry=replace(filtered.model_file.entry, batch_range=batches)
        )
        run = filtered.run
        filtered.run = lambda images, keep: (sizes.append(len(images)), run(images, keep))[1]
        assert drops_from_images(full, filtered, card, files, [4], print) == expected
    assert sizes and all(batches[0] <= size <= batches[2] for size in sizes)


@pytest.mark.parametrize("damaged", [1, 9, 10])
def test_damaged_images_are_named_and_left_out(export_directory, photos, damaged):
    """What is measured is what the same folder without them gives."""
    card = load_manifest(export_directory).model
    files, reports = labelled_files(photos, card.class_names), []
    for path, _ in files[:damaged]:
        path.write_bytes(path.read_bytes()[:60])
    with (
        open_session(export_directory, "full", OPTIONS) as full,
        open_session(export_directory, options=OPTIONS) as filtered,
    ):
        if damaged == len(files):
            with pytest.raises(DataError, match="none of 10 images can be decoded, first .*0.png"):
                drops_from_images(full, filtered, card, files, [4], reports.append)
        else:
            found = drops_from_images(full, filtered, card, files, [4], reports.append)
            assert found == drops_from_images(full, filtered, card, files[damaged:], [4], print)
    assert len(reports) == damaged and all("skipped" in text and ".png" in text for text in reports)
