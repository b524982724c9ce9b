"""Webdataset shards: what a folder gives, from archives; and what no image can be found or trusted in is refused."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from small_models import small_model

from tokfilter.artifacts.limits import MAX_SAMPLE_JSON
from tokfilter.cli import cli
from tokfilter.errors import DataError
from tokfilter.train.data import checked, images_from_folder, splits_from_folder, with_keys
from tokfilter.train.fit import fit
from tokfilter.train.label_store import LabelStore
from tokfilter.train.listing import listing_from_path
from tokfilter.vit.bundle import load_bundle

NAMES = ("ant", "bee", "cat", "dog", "emu")


def quiet(step, fraction):
    pass


def encoded(seed, form="png"):
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (34, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, form)
    return stream.getvalue()


def shard(path, members, form=tarfile.GNU_FORMAT):
    """members: (name, bytes), or a TarInfo without bytes"""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            entry = tarfile.TarInfo(member[0])
            entry.size = len(member[1])
            tar.addfile(entry, io.BytesIO(member[1]))
    return path


def sample(number, label, inside="", by="cls"):
    """Members of one image; label: a number, or anything in JSON."""
    content = str(label) if by == "cls" else json.dumps({"label": label, "width": 40})
    key = f"{inside}{number:04d}"
    return [(f"{key}.{by}", content.encode()), (f"{key}.png", encoded(number))]


def as_shards(root, each=4, names=NAMES):
    """Images of each class in three shards, beside the names of the classes."""
    samples = [sample(10 * label + i, label) for label in range(len(names)) for i in range(each)]
    for place in range(3):
        part = samples[place * len(samples) // 3 : (place + 1) * len(samples) // 3]
        shard(root / f"shard-{place:06d}.tar", [member for some in part for member in some])
    (root / "classnames.txt").write_text("\n".join(names) + "\n")
    return root


def as_folder(root, each=4, names=NAMES):
    for label, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for i in range(each):
            (root / name / f"{10 * label + i:04d}.png").write_bytes(encoded(10 * label + i))
    return root


def test_shards_give_what_the_folder_gives(tmp_path):
    folder, images = images_from_folder(as_folder(tmp_path / "a")), images_from_folder(as_shards(tmp_path / "b"))
    assert images.class_names == folder.class_names == NAMES and images.labels == folder.labels
    assert images.files[:2] == ("shard-000000.tar/0000.png", "shard-000000.tar/0001.png")
    assert images.files[-1] == "shard-000002.tar/0043.png"
    for i in range(20):
        assert np.array_equal(images.image(i), folder.image(i)) and images.bytes(i) == folder.bytes(i)
    assert with_keys(images, quiet).keys == with_keys(folder, quiet).keys
    splits, others = splits_from_folder(tmp_path / "b"), splits_from_folder(tmp_path / "a")
    assert with_keys(splits.test, quiet).keys == with_keys(others.test, quiet).keys
    part = images.subset([17, 2])
    assert np.array_equal(part.image(0), images.image(17)) and part.labels == (4, 0)


def test_the_same_images_give_bit_equal_weights(tmp_path):
    as_folder(tmp_path / "a"), as_shards(tmp_path / "b")
    with tarfile.open(tmp_path / "c.tar", "w") as archive:
        archive.add(tmp_path / "a", "photos")
    settings = {"data.crop_scale": 0.5, "data.auto_augment": "rand-m9-mstd0.5-inc1", "labels.method": "first-order"}
    settings |= {
        "backbone.epochs": 1,
        "filter.epochs": 1,
        "backbone.batch": 6,
        "stages": ["backbone", "label", "filter"],
    }
    models = []
    for data in ("a", "b", "c.tar"):
        models.append(small_model())
        record = fit(models[-1], tmp_path / data, overrides=settings, preprocessing={"crop_pct": 1.0})
        assert record["data"]["class_names"] == list(NAMES) and record["backbone"]["steps"] == 2
    for name, value in models[0].state_dict().items():
        assert all(torch.equal(value, model.state_dict()[name]) for model in models), name


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_numbers_are_their_own_names_where_there_are_none(tmp_path, form):
    members = [*sample(0, 10, "é/" + "long" * 20 + "/"), *sample(1, 2), *sample(2, 2), ("0002.txt", b"a caption")]
    images = images_from_folder(shard(tmp_path / "00000.tar", members, form))
    assert images.class_names == ("2", "10") and images.labels == (1, 0, 0)
    assert images_from_folder(tmp_path, ("0", "2", "10")).labels == (2, 1, 1)


def test_labels_in_json_are_numbers_or_names(tmp_path):
    members = [
        *sample(0, "dog", by="json"),
        *sample(1, 7, by="json"),
        *sample(2, 7),
        ("0002.json", b'{"cls": null, "label": 8}'),
    ]
    images = images_from_folder(shard(tmp_path / "0.tar", [*members, ("0003.json", b"[]"), ("a.seg.png", b"")]))
    assert images.class_names == ("7", "dog") and images.labels == (1, 0, 0)
    (tmp_path / "classnames.txt").write_text("\n".join("abcdefgh") + "\ndog\n")
    assert images_from_folder(tmp_path / "0.tar").labels == (8, 7, 7)


def test_json_without_a_label_beside_images_of_class_folders_changes_nothing(tmp_path):
    members = [
        (f"{name}/0.{kind}", content) for name in NAMES for kind, content in (("json", b"{"), ("png", encoded(1)))
    ]
    assert images_from_folder(shard(tmp_path / "x.tar", members)).class_names == NAMES


def test_shards_with_captions_have_no_classes_where_none_are_needed(tmp_path):
    """As img2dataset writes them. By their archives' names they would have two."""
    for place, kinds in enumerate((("txt", "json"), ("json",))):
        members = [(f"{place}{i}.{kind}", b'{"caption": "an ant"}') for i in range(4) for kind in kinds]
        shard(tmp_path / f"0000{place}.tar", [*members, *((f"{place}{i}.png", encoded(i)) for i in range(4))])
    images = splits_from_folder(tmp_path, need_classes=False, holdout=0.25).train
    assert not images.labelled and len(images) == 6
    assert images_from_folder(tmp_path).class_names == ("00000", "00001")
    assert images_from_folder(tmp_path, ("00001", "00000"), need_classes=False).labels == (1, 1, 1, 1, 0, 0, 0, 0)
    assert not images_from_folder(tmp_path, NAMES, need_classes=False).labelled


def test_a_damaged_image_is_named_by_its_shard_and_skipped(tmp_path):
    as_shards(tmp_path, each=2)
    shard(tmp_path / "shard-000003.tar", [("90.cls", b"1"), ("90.png", b"no image"), ("91.cls", b"2")])
    reports = []
    images = checked(images_from_folder(tmp_path), quiet, reports.append)
    assert len(images) == 10 and len(reports) == 1
    assert "shard-000003.tar/90.png is not an image" in reports[0]


def test_members_that_are_no_files_are_left_out(tmp_path):
    others = []
    for i, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)):
        others.append(tarfile.TarInfo(f"9{i}.png"))
        others[-1].type, others[-1].linkname = kind, "/etc/passwd"
    members = [*others, *sample(0, 0), *sample(1, 1, "/abs/../../"), (".0002.png", b""), ("._3.png", b"")]
    images = images_from_folder(shard(tmp_path / "x.tar", members))
    assert images.files == ("x.tar/0000.png", "x.tar//abs/../../0001.png") and images.image(1).size == (40, 34)


GOOD = sample(0, 0)
BAD = {
    "none": ([("1.png", b"")], "x.tar/1.png has no class that can be read: .* there is neither"),
    "text": ([("1.cls", b"ant"), ("1.png", b"")], "it is 'ant'"),
    "negative": ([("1.cls", b"-1"), ("1.png", b"")], "it is '-1'"),
    "digits": ([("1.cls", b"9" * 50), ("1.png", b"")], "it is '9999"),
    "other digits": ([("1.cls", "٣".encode()), ("1.png", b"")], "no class that can be read"),
    "large": ([("1.cls", b" " * 2000 + b"1"), ("1.png", b"")], "'1.cls' has 2001 bytes"),
    "beyond": ([("1.cls", b"1048576"), ("1.png", b"")], "it is 1048576, beyond 1048576 classes"),
    "no label": ([("1.json", b"{}"), ("1.png", b"")], "its JSON has no label"),
    "no JSON": ([("1.json", b"{"), ("1.png", b"")], "no class that can be read"),
    "deep": ([("1.json", b"[" * 60_000), ("1.png", b"")], "no class that can be read"),
    "many values": ([("1.json", b"[" + b"0," * 70_000 + b"0]"), ("1.png", b"")], "more than 65,536 values"),
    "large JSON": ([("1.json", b" " * (MAX_SAMPLE_JSON + 1)), ("1.png", b"")], "has 1048577 bytes, expected at most"),
    "float": ([("1.json", b'{"label": 1.0}'), ("1.png", b"")], "its label is 1.0"),
    "bool": ([("1.json", b'{"label": true}'), ("1.png", b"")], "its label is True"),
    "control": ([("1.json", b'{"label": "a\\u001b[31m"}'), ("1.png", b"")], r"its label is 'a\\x1b\[31m'"),
    "empty": ([("1.json", b'{"label": " "}'), ("1.png", b"")], "its label is ' '"),
    "twice": ([*sample(1, 0), ("0001.png", b"")], "'0001.png' and '0001.png', expected one of each kind"),
    "two images": ([*sample(1, 0), ("0001.jpg", b"")], "'0001.png' and '0001.jpg', expected one of each kind"),
    "two classes": ([*sample(1, 0), ("0001.cls", b"1")], "'0001.cls' and '0001.cls', expected one of each kind"),
}


@pytest.mark.parametrize("kind", BAD)
def test_samples_without_one_class_are_refused_by_name(tmp_path, kind):
    members, words = BAD[kind]
    path = shard(tmp_path / "x.tar", [*GOOD, *members])
    with pytest.raises(DataError, match=words) as caught:
        listing_from_path(path)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("label", [2, "zebra"])
def test_classes_beyond_the_names_are_refused(tmp_path, label):
    shard(tmp_path / "x.tar", [*GOOD, *sample(1, label, by="json")])
    (tmp_path / "classnames.txt").write_text("ant\nbee\n")
    with pytest.raises(DataError, match="it is 2, beyond the 2 lines of class|'zebra' is not in classnames.txt"):
        listing_from_path(tmp_path)


def test_names_beside_train_and_test_are_those_of_both(tmp_path):
    as_shards(tmp_path / "train", each=2)
    shard(tmp_path / "val/0.tar", sample(0, 3))
    (tmp_path / "train/classnames.txt").rename(tmp_path / "classnames.txt")
    splits = splits_from_folder(tmp_path)
    assert splits.test.labels == (3,) and splits.train.class_names == splits.test.class_names == NAMES
    (tmp_path / "val/classnames.txt").write_text("ant\nbee\ncat\nfox\n")
    with pytest.raises(DataError, match=r"val has classes that the model was not trained for: fox\. It has 5"):
        splits_from_folder(tmp_path)
    (tmp_path / "val/classnames.txt").unlink(), (tmp_path / "val").rename(tmp_path / "other")
    with pytest.raises(DataError, match=r"not trained for: 3\. .* Numbers as classes .* from classnames.txt beside"):
        images_from_folder(tmp_path / "other", NAMES)


def test_a_shard_that_is_cut_short_or_huge_by_its_header_is_refused(tmp_path):
    path = as_shards(tmp_path) / "shard-000001.tar"
    content = path.read_bytes()
    path.write_bytes(content[:5000])
    with pytest.raises(DataError, match=r"shard-000001\.tar could not be read as a tar archive.*bytes by its header"):
        listing_from_path(tmp_path)
    entry = tarfile.TarInfo("0000.cls")
    entry.size = 10**12
    path.write_bytes(entry.tobuf(tarfile.GNU_FORMAT) + content)
    with pytest.raises(DataError, match="has 1000000000000 bytes by its header"):
        listing_from_path(tmp_path)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_that_are_not_utf8_are_refused(tmp_path, form):
    name = "d/" * 80 + "\udcff"
    for members in ([*GOOD, (f"{name}.png", b"")], [(f"{name}/0.png", b"")]):
        with pytest.raises(DataError, match="not UTF-8"):
            listing_from_path(shard(tmp_path / "x.tar", members, form))


def test_an_index_takes_tens_of_bytes_for_each_image(tmp_path):
    import tracemalloc

    count = 300
    members = [member for i in range(count) for member in ((f"{i:09d}.cls", b"%d" % (i % 5)), (f"{i:09d}.jpg", b"x"))]
    path = shard(tmp_path / "x.tar", members)
    listing_from_path(path)
    tracemalloc.start()
    images = images_from_folder(path)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(images) == count and held / count < 250  # 75 of them are the name
    assert sum(column.nbytes for column in (images.parts.archive, images.parts.offset, images.parts.size)) == 20 * count


def test_commands_take_shards_as_they_take_folders(tmp_path):
    """Trained from shards, labelled from both, evaluated on the images that were held out, wherever they lie."""
    as_folder(tmp_path / "a"), as_shards(tmp_path / "b")
    bundle = str(tmp_path / "model.pt")
    arguments = ["train", str(tmp_path / "b"), "--arch", "vit_tiny_patch16_224", "--epochs", "1", "--batch", "6"]
    for argument in ("img_size=32", "patch_size=8", "embed_dim=16", "depth=1", "num_heads=2"):
        arguments += ["--arch-arg", argument]
    run(*arguments, "--set", "labels.method=first-order", "--set", "data.crop_pct=1", "-o", bundle)
    assert load_bundle(Path(bundle)).class_names == list(NAMES)
    labels = []
    for data in "ab":
        run("label", str(tmp_path / data), bundle, "-o", str(tmp_path / f"labels-{data}"), "--shard", "4")
        labels.append(LabelStore(tmp_path / f"labels-{data}").read())
    assert torch.equal(labels[0].delta, labels[1].delta) and len(labels[0].delta) == 15
    found = [json.loads(run("eval", bundle, str(tmp_path / data), "--json")) for data in "ab"]
    assert found[0]["rows"] == found[1]["rows"]
    assert all((one["data"]["images"], one["data"]["part"]) == (5, "held-out") for one in found)
    (tmp_path / "b/classnames.txt").write_text("ant\nbee\ncat\ndog\nfox\n")
    refused = CliRunner().invoke(cli, ["eval", bundle, str(tmp_path / "b")])
    assert refused.exit_code == 1 and "has classes that the model was not trained for: fox" in refused.output


def run(*arguments):
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    return result.stdout
