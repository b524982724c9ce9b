import dataclasses
import io
import pickletools
import resource
import subprocess
import sys
import textwrap
import warnings
import zipfile

import pytest
import torch

from tokfilter.artifacts.bundle import Bundle, Golden
from tokfilter.errors import BundleError, DataError
from tokfilter.vit.bundle import load_bundle, model_from_bundle, save_bundle

NAN = float("nan")


def content_of(path):
    return torch.load(path, weights_only=True)


@pytest.fixture
def content(bundle_file):
    return content_of(bundle_file)


def refused(content, tmp_path, words):
    path = tmp_path / "bad.pt"
    torch.save(content, path)
    with pytest.raises(BundleError, match=words):
        load_bundle(path)


def test_what_is_written_is_read(bundle, tmp_path):
    save_bundle(bundle, tmp_path / "model.pt")
    again = load_bundle(tmp_path / "model.pt")
    for field in ("architecture", "filter_config", "keep", "preprocessing", "class_names", "training"):
        assert getattr(again, field) == getattr(bundle, field)
    for weights in ("backbone", "filter"):
        old, new = getattr(bundle, weights), getattr(again, weights)
        assert old.keys() == new.keys()
        assert all(torch.equal(old[name], new[name]) for name in old)


@torch.inference_mode()
def test_the_model_reproduces_its_golden_tensors(bundle_file):
    bundle = load_bundle(bundle_file)
    model, golden = model_from_bundle(bundle), bundle.golden
    torch.testing.assert_close(model(golden.images, 1.0), golden.full, rtol=0, atol=0)
    assert sorted(golden.logits) == [4, 8, 11]
    for k in golden.logits:
        torch.testing.assert_close(model(golden.images, k), golden.logits[k], rtol=0, atol=0)
        assert torch.equal(model.last.indices, golden.indices[k])
    assert not model.training


def test_the_file_is_plain(bundle_file):
    """One page of docs/bundle.md: a zip of a pickle that names nothing but tensors and containers."""
    with zipfile.ZipFile(bundle_file) as archive:
        (pickled,) = [name for name in archive.namelist() if name.endswith("data.pkl")]
        operations = list(pickletools.genops(archive.read(pickled)))
    names = {argument for opcode, argument, _ in operations if opcode.name == "GLOBAL"}
    assert names <= {
        "collections OrderedDict",
        "torch FloatStorage",
        "torch IntStorage",
        "torch._utils _rebuild_tensor_v2",
    }


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_code_in_a_pickle_is_not_run(content, tmp_path):
    trap = tmp_path / "run"
    content["training"] = Hostile(str(trap))
    refused(content, tmp_path, "never unpickles")
    assert not trap.exists()


@pytest.mark.parametrize("kept", [0, 3, 4, 100, 0.5, -1])
def test_truncated_files(bundle_file, tmp_path, kept):
    whole = bundle_file.read_bytes()
    count = int(len(whole) * kept) if isinstance(kept, float) else kept
    (tmp_path / "cut.pt").write_bytes(whole[:count])
    with pytest.raises(BundleError, match="cut.pt is (not a bundle|damaged)"):
        load_bundle(tmp_path / "cut.pt")


def test_a_changed_byte_never_changes_what_is_loaded(bundle_file, tmp_path):
    whole, expected = bundle_file.read_bytes(), load_bundle(bundle_file)
    for position in range(0, len(whole), max(1, len(whole) // 97)):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        (tmp_path / "changed.pt").write_bytes(damaged)
        try:
            found = load_bundle(tmp_path / "changed.pt")
        except BundleError:
            continue  # most of them; the rest are bytes of padding
        assert found.architecture == expected.architecture
        assert all(torch.equal(found.backbone[name], weight) for name, weight in expected.backbone.items())
        assert torch.equal(found.golden.full, expected.golden.full)


def test_a_compressed_archive_is_not_inflated(bundle_file, tmp_path):
    with zipfile.ZipFile(bundle_file) as source, zipfile.ZipFile(tmp_path / "bomb.pt", "w") as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry), zipfile.ZIP_DEFLATED)
    with pytest.raises(BundleError, match="is compressed"):
        load_bundle(tmp_path / "bomb.pt")


def test_files_that_are_something_else(tmp_path):
    with pytest.raises(DataError, match="there is none at"):
        load_bundle(tmp_path / "none.pt")
    with pytest.raises(DataError, match="got the folder"):
        load_bundle(tmp_path)
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(BundleError, match="no file that torch.save wrote"):
        load_bundle(tmp_path / "text.pt")
    buffer = io.BytesIO()
    torch.save({"w": torch.zeros(1)}, buffer, _use_new_zipfile_serialization=False)
    (tmp_path / "legacy.pt").write_bytes(buffer.getvalue())
    with pytest.raises(BundleError, match="no file that torch.save wrote"):
        load_bundle(tmp_path / "legacy.pt")
    refused({"model": {}}, tmp_path, "lacks format")
    refused([1, 2], tmp_path, "lacks format")
    refused({"format": torch.ones(9)}, tmp_path, "lacks format")


@pytest.mark.parametrize(
    ("version", "words"),
    [
        (2, "Update tokfilter"),
        (0, "reads version 1"),
        ("1", "reads version 1"),
        (None, "None"),
        (torch.ones(9), "tensor"),
    ],
)
def test_other_versions(content, tmp_path, version, words):
    content["version"] = version
    refused(content, tmp_path, words)


def change(content, path, value):
    *parents, last = path
    for key in parents:
        content = content[key]
    if value is KeyError:
        del content[last]
    else:
        content[last] = value


def nested():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls them a prototype
        return torch.nested.nested_tensor([torch.zeros(3), torch.zeros(4)], layout=torch.strided)


def multiplied():
    """30 lists, each of which names the one before twice: 2^30 values for whoever walks through them."""
    value = [0]
    for _ in range(30):
        value = [value, value]
    return {"a": value}


def nested_lists():
    value = []
    for _ in range(50):
        value = [value]
    return {"a": value}


BAD_FIELDS = [
    (("backbone", "cls_token"), KeyError, "backbone lacks 1 tensors, first .*cls_token"),
    (("backbone", "extra"), torch.zeros(1), "backbone has 1 tensors too many, first .*extra"),
    (("backbone", "cls_token"), torch.zeros(1, 1, 25), r"cls_token must be torch.float32 \[1, 1, 24\]"),
    (("backbone", "cls_token"), torch.zeros(1, 1, 24, dtype=torch.float64), "got torch.float64"),
    (("backbone", "cls_token"), torch.full((1, 1, 24), NAN), "cls_token holds NaN"),
    (("backbone", "cls_token"), torch.zeros(1, 1, 24).to_sparse(), "not dense|damaged"),
    (("backbone", "cls_token"), "text", "no dense tensor"),
    (("backbone",), [1], "holds no tensors"),
    (("filter", "weights", "norm.weight"), torch.full((24,), NAN), "filter norm.weight holds NaN"),
    (("filter", "weights", "norm.weight"), KeyError, "filter lacks"),
    (("filter", "config", "width"), 9, "filter .* must be"),
    (("filter", "config", "width"), 0, "width is a whole number from 1"),
    (("filter", "config", "depth"), 10**9, "depth is a whole number from 1"),
    (("filter", "config", "depth"), 99, "filter is deeper than it has weights"),
    (("filter", "config", "depth"), True, "whole number"),
    (("filter", "config", "surprise"), 1, "surprise"),
    (("architecture", "name"), "resnet18", "timm refuses resnet18"),
    (("architecture", "name"), "hf-hub:someone/model", "has no model"),
    (("architecture", "kwargs", "checkpoint_path"), "/tmp/evil", "got checkpoint_path"),
    (("architecture", "kwargs", "depth"), 10**9, "sizes of its architecture must be at most"),
    (("architecture", "kwargs", "depth"), 10**6, "deeper than it has weights"),
    (("architecture", "kwargs", "patch_size"), 0, "refuses|sound"),
    (("architecture", "kwargs", "num_heads"), 0, "refuses|sound"),
    (("architecture", "kwargs", "embed_dim"), -8, "refuses|sound"),
    (("architecture", "name"), 7, "no text"),
    (("architecture", "kwargs"), [], "no names"),
    (("backbone", "cls_token"), torch.zeros(1, 1, 24, device="meta"), "not dense"),
    (("backbone", "cls_token"), nested(), "not dense|unpickles"),
    (("backbone", "cls_token"), torch.zeros(1).expand(1, 1, 24), "repeated values"),
    (("golden", "images"), torch.zeros(1).expand(10**6, 3, 32, 32), "repeated values"),
    (("architecture", "kwargs", "depth"), 1, "too many"),
    (("keep",), NAN, "keep must be"),
    (("keep",), 99, "keep must be"),
    (("keep",), "half", "keep must be"),
    (("preprocessing", "mean"), [0.5, 0.5], "three channels"),
    (("preprocessing", "std"), [0.5, 0.0, 0.5], "a positive std"),
    (("preprocessing", "std"), [0.5, NAN, 0.5], "finite numbers"),
    (("preprocessing", "input_size"), [3, 64, 64], "its model takes"),
    (("preprocessing", "interpolation"), "sinc", "interpolation must be one of nearest"),
    (("preprocessing", "crop_mode"), ["center"], "crop_mode must be one of"),
    (("preprocessing", "crop_pct"), "much", "finite numbers"),
    (("preprocessing", "crop_pct"), 0.0, "crop_pct must lie above 0"),
    (("preprocessing",), None, "TypeError"),
    (("class_names",), ["a"], "names 1 classes and its model has 5"),
    (("class_names",), [1, 2, 3, 4, 5], "not texts"),
    (("golden", "full"), torch.zeros(3, 4), "golden full must be"),
    (("golden", "logits"), {}, "do not belong together"),
    (("golden", "indices", 4), torch.full((3, 4), 16, dtype=torch.int32), "outside 0..15"),
    (("golden", "indices", 4), torch.zeros(3, 4, dtype=torch.int32), "do not rise"),
    (("golden", "indices", 4), torch.arange(4, dtype=torch.int32).repeat(3, 1), "keeps other tokens"),
    (("golden", "images"), torch.zeros(0, 3, 32, 32), "do not belong together"),
    (("golden",), KeyError, "KeyError"),
    (("training",), KeyError, "KeyError"),
    (("training",), multiplied(), "at most 500000, nested at most 32 deep"),
    (("training",), nested_lists(), "nested at most 32 deep"),
    (("architecture", "kwargs"), multiplied(), "nested at most 32 deep"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "words"), BAD_FIELDS)
def test_every_field_is_checked(content, tmp_path, path, value, words):
    change(content, path, value)
    refused(content, tmp_path, words)


def test_an_unsound_bundle_is_not_written(bundle, tmp_path):
    (tmp_path / "model.pt").write_text("old")
    unsound = dataclasses.replace(bundle, class_names=["a"])
    with pytest.raises(BundleError, match="the bundle to be written"):
        save_bundle(unsound, tmp_path / "model.pt")
    with pytest.raises(BundleError, match="plain values, got set"):
        save_bundle(dataclasses.replace(bundle, training={"x": {1}}), tmp_path / "model.pt")
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]
    assert (tmp_path / "model.pt").read_text() == "old"


def test_a_full_disk_leaves_the_old_bundle(bundle_file, tmp_path):
    """The kernel refuses to let the file grow, as a full disk would."""
    old = tmp_path / "model.pt"
    old.write_bytes(bundle_file.read_bytes())
    program = textwrap.dedent(
        f"""
        import resource, signal, sys
        from tokfilter.vit.bundle import load_bundle, save_bundle
        bundle = load_bundle({str(bundle_file)!r})
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            save_bundle(bundle, {str(old)!r})
        except (OSError, RuntimeError) as error:
            print("refused:", error)
        """
    )
    assert hasattr(resource, "RLIMIT_FSIZE")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "refused:" in done.stdout
    assert old.read_bytes() == bundle_file.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]


def test_golden_leaves_the_full_budget_out(bundle):
    assert isinstance(bundle, Bundle)
    assert isinstance(bundle.golden, Golden)
    assert 16 not in bundle.golden.logits
