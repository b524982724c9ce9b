"""No command that writes from an export directory follows a manifest out of its target, whatever the manifest says."""

import json
import shlex
import shutil

import pytest
from click.testing import CliRunner

from tokfilter.artifacts.manifest import NAME, entry_from_file, load_manifest, save_manifest
from tokfilter.cli import cli
from tokfilter.errors import EngineError
from tokfilter.export.serving.edge_bundle.archive import Listed, write_tar
from tokfilter.export.serving.edge_bundle.steps import trtexec_line

EVIL = "x/../../../../victim/models/evil"
FIELDS = ["path", "precision", "runtime", "role", "external"]


def tree(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def copied(export_directory, tmp_path):
    shutil.copytree(export_directory, tmp_path / "a" / "b" / "out")
    (tmp_path / "victim" / "models").mkdir(parents=True)
    return tmp_path / "a" / "b" / "out"


@pytest.mark.parametrize("field", FIELDS)
def test_a_manifest_that_points_outside_is_refused_by_every_writer(copied, tmp_path, field):
    pytest.importorskip("onnx_ir", reason="triton-repo needs onnx and onnx-ir: pip install 'tokfilter[export]'")
    content = json.loads((copied / NAME).read_text())
    content["files"][1][field] = {EVIL: "0" * 64} if field == "external" else EVIL
    (copied / NAME).write_text(json.dumps(content))
    before = tree(tmp_path)
    target = str(copied.parent / "target")
    for command in (
        ["triton-repo", str(copied), target],
        ["deepstream", str(copied), target],
        ["pack", str(copied), "-o", f"{target}.tar"],
        ["page", str(copied), "-o", target],
        ["engine", str(copied), "--rtx"],
        ["verify", str(copied)],
        ["inspect", str(copied)],
    ):
        done = CliRunner().invoke(cli, command)
        assert done.exit_code == 1, (command, done.output)
        assert f"files[1].{field}" in done.output or f"a key of files[1].{field}" in done.output, (command, done.output)
        assert tree(tmp_path) == before, command


def test_a_tar_is_not_written_where_a_file_was_exchanged(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"good")
    entry = entry_from_file(tmp_path, "model.onnx", "full")
    (tmp_path / "model.onnx").write_bytes(b"evil")
    listed = Listed(tmp_path, "model.onnx", entry.sha256)
    with pytest.raises(EngineError, match="its bytes have changed"):
        write_tar(tmp_path / "edge.tar", "edge", {"out/model.onnx": listed, "README.md": b"text"})
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_names_in_commands_are_quoted(copied):
    name = "a b;$(reboot)'`.onnx"
    (copied / "model.onnx").rename(copied / name)
    manifest = load_manifest(copied)
    index = next(i for i, entry in enumerate(manifest.files) if entry.path == "model.onnx")
    manifest.files[index] = entry_from_file(copied, name, "filtered", runtime="onnx", precision="fp32")
    save_manifest(copied, manifest)
    words = shlex.split(trtexec_line(manifest.files[index], manifest.model, "lib x.so"))
    assert words[0] == "trtexec" and words[1] == f"--onnx=out/{name}" and words[2] == f"--saveEngine={name[:-5]}.plan"


def test_class_names_reach_the_terminal_without_escapes(copied, tmp_path):
    from PIL import Image

    manifest = load_manifest(copied)
    names = [f"\x1b]0;owned\x07[red]{i}\x9b31m" for i in range(manifest.model.classes)]
    manifest.model.class_names[:] = names
    save_manifest(copied, manifest)
    Image.new("RGB", (40, 40)).save(tmp_path / "image.png")
    done = CliRunner().invoke(cli, ["predict", str(copied), str(tmp_path / "image.png")])
    assert done.exit_code == 0, done.output
    assert r"\x1b]0;owned\x07[red]" in done.output
    assert not any(char in done.output for char in "\x1b\x07\x9b")
