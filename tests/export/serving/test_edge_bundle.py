"""`tokfilter pack`: what an edge bundle holds, what it refuses, and that it works where torch is not."""

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator
from paths import ROOT

from tokfilter.artifacts.manifest import entry_from_file, load_manifest, save_manifest
from tokfilter.cli import cli
from tokfilter.errors import DataError, EngineError, ExportError
from tokfilter.export.serving.edge_bundle import archive
from tokfilter.export.serving.edge_bundle.archive import write_tar
from tokfilter.export.serving.edge_bundle.pack import pack
from tokfilter.export.serving.edge_bundle.source import native_sources, own_package
from tokfilter.export.serving.edge_bundle.wheel import wheel_bytes, wheel_name


@pytest.fixture
def copied(export_directory, tmp_path):
    shutil.copytree(export_directory, tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture(scope="module")
def edge_tar(export_directory, tmp_path_factory):
    path = tmp_path_factory.mktemp("edge") / "edge.tar"
    pack(export_directory, path)
    return path


def members(path):
    with tarfile.open(path) as tar:
        return {item.name.partition("/")[2]: (item, tar.extractfile(item).read()) for item in tar}


def test_an_edge_bundle_holds_what_the_edge_needs(edge_tar, export_directory):
    found = members(edge_tar)
    for name in ("model.onnx", "full.onnx", "golden.npz"):
        assert found[f"out/{name}"][1] == (export_directory / name).read_bytes()
    for name in ("kernels/CMakeLists.txt", "kernels/csrc/token_select.cu", "runtime/cpp/include/tokfilter/tokfilter.h"):
        assert found[f"src/{name}"][1] == (ROOT / name).read_bytes()
    assert found["run.sh"][0].mode == 0o755 and "LICENSE" in found
    wheel = next(data for name, (_, data) in found.items() if name.endswith(".whl"))
    with zipfile.ZipFile(io.BytesIO(wheel)) as opened:
        names = opened.namelist()
    assert "tokfilter/runtime/sessions.py" in names and "tokfilter/kernels/csrc/token_select.cu" in names
    assert (
        "tokfilter/runtime/cpp/CMakeLists.txt" in names
        and "tokfilter/export/serving/edge_bundle/README.template" in names
    )
    assert not [name for name in names if "test_" in Path(name).name and name.endswith(".py")]


def test_every_member_has_its_sum(edge_tar):
    found = members(edge_tar)
    lines = found.pop("SHA256SUMS")[1].decode().splitlines()
    sums = dict(reversed(line.split("  ")) for line in lines)
    assert sums == {name: hashlib.sha256(data).hexdigest() for name, (_, data) in found.items()}


def test_unpacking_stays_in_one_folder_and_tells_nothing_of_the_packer(edge_tar, tmp_path):
    with tarfile.open(edge_tar) as tar:
        items = tar.getmembers()
        tar.extractall(tmp_path, filter="data")
    assert all(item.isreg() and item.name.startswith("edge/") and ".." not in item.name.split("/") for item in items)
    assert {(item.uid, item.gid, item.uname, item.gname, item.mtime) for item in items} == {(0, 0, "", "", 315532800)}
    assert {item.mode for item in items} == {0o644, 0o755}
    assert [item.name for item in items] == sorted(item.name for item in items)
    assert [path.name for path in tmp_path.iterdir()] == ["edge"]


def test_the_same_export_gives_the_same_bytes(edge_tar, copied, tmp_path, monkeypatch):
    for path in copied.iterdir():
        os.utime(path, (1e9, 1e9))
        path.chmod(0o600)
    monkeypatch.chdir(copied.parent)
    pack("out", "edge.tar")
    assert (tmp_path / "edge.tar").read_bytes() == edge_tar.read_bytes()


def with_files(directory, *entries, **changes):
    manifest = load_manifest(directory)
    save_manifest(directory, replace(manifest, files=[*manifest.files, *entries], **changes))


def with_engine(directory):
    (directory / "model.plan").write_bytes(b"a plan")
    (directory / "timing.cache").write_bytes(b"timings")
    (directory / "libtokfilter_plugin.so").write_bytes(b"\x7fELF for x86-64")
    with_files(
        directory,
        entry_from_file(directory, "model.plan", "filtered", runtime="tensorrt", precision="fp32"),
        entry_from_file(directory, "timing.cache", "timing-cache", runtime="tensorrt"),
        entry_from_file(directory, "libtokfilter_plugin.so", "plugin", runtime="tensorrt"),
        choice={"tokens": 3},
    )


def test_engines_of_this_machine_and_its_choice_stay_behind(copied, tmp_path):
    with_engine(copied)
    made = pack(copied, tmp_path / "edge.tar")
    assert made.left_out == ["model.plan", "timing.cache"]
    found = members(made.path)
    assert "out/model.plan" not in found and "out/libtokfilter_plugin.so" in found
    manifest = json.loads(found["out/manifest.json"][1])
    assert manifest["choice"] == {} and "model.plan" not in [entry["path"] for entry in manifest["files"]]
    assert "--dynamicPlugins=out/libtokfilter_plugin.so" in found["README.md"][1].decode()
    taken = pack(copied, tmp_path / "all.tar", engines=True)
    assert taken.left_out == [] and "out/model.plan" in members(taken.path)


def test_a_plugin_of_the_other_machine_takes_the_place_of_ours(copied, tmp_path):
    with_engine(copied)
    (tmp_path / "libother.so").write_bytes(b"\x7fELF for aarch64")
    found = members(pack(copied, tmp_path / "edge.tar", tmp_path / "libother.so").path)
    assert found["out/libother.so"][1] == b"\x7fELF for aarch64" and "out/libtokfilter_plugin.so" not in found
    plugins = [e for e in json.loads(found["out/manifest.json"][1])["files"] if e["role"] == "plugin"]
    assert [entry["path"] for entry in plugins] == ["libother.so"]
    assert "plugin build --architectures" not in found["run.sh"][1].decode()


def test_weights_beside_a_graph_come_along(copied, tmp_path):
    (copied / "big.onnx").write_bytes(b"graph")
    (copied / "big.onnx.data").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    entry = entry_from_file(copied, "big.onnx", "full", runtime="onnx", precision="bf16")
    with_files(copied, replace(entry, external={"big.onnx.data": digest}))
    assert members(pack(copied, tmp_path / "edge.tar").path)["out/big.onnx.data"][1] == b"weights"
    (copied / "big.onnx.data").write_bytes(b"Weights")
    with pytest.raises(EngineError, match=r"big.onnx.data is not the file that manifest.json describes"):
        pack(copied, tmp_path / "other.tar")


def test_commands_of_readme_and_script_are_the_same(edge_tar):
    found = members(edge_tar)
    page, script = found["README.md"][1].decode(), found["run.sh"][1].decode()
    shown = re.findall(r"^    (.+)$", page.split("## Without Python")[0], re.MULTILINE)
    ran = re.findall(r"^  (\S.+)$", script.split('[ "$#"')[0], re.MULTILINE)
    assert shown == ran and len(shown) > 8


def test_precision_of_the_commands_is_one_that_the_bundle_has(copied, tmp_path):
    (copied / "model.fp16.onnx").write_bytes(b"graph")
    with_files(copied, entry_from_file(copied, "model.fp16.onnx", "full", runtime="onnx", precision="fp16"))
    page = members(pack(copied, tmp_path / "edge.tar").path)["README.md"][1].decode()
    assert "verify out --precision fp32" in page and "engine out --trt --precision fp16" in page


def test_refusals_write_nothing(copied, tmp_path):
    taken = tmp_path / "taken.tar"
    taken.write_text("mine")
    with pytest.raises(ExportError, match="exists already and is not overwritten"):
        pack(copied, taken)
    with pytest.raises(DataError, match=r"an edge bundle is a \.tar file, got -o .*edge.zip"):
        pack(copied, tmp_path / "edge.zip")
    (tmp_path / "notes.txt").write_text("no library")
    with pytest.raises(DataError, match="--plugin must be a shared library"):
        pack(copied, tmp_path / "edge.tar", tmp_path / "notes.txt")
    with pytest.raises(DataError, match="--plugin: expected a file, but there is none"):
        pack(copied, tmp_path / "edge.tar", tmp_path / "nowhere.so")
    with pytest.raises(DataError, match="manifest"):
        pack(tmp_path, tmp_path / "edge.tar")
    assert taken.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "out", "taken.tar"]


def test_an_export_whose_manifest_does_not_hold_is_refused(copied, tmp_path):
    data = bytearray((copied / "model.onnx").read_bytes())
    data[100] ^= 1
    (copied / "model.onnx").write_bytes(data)
    done = CliRunner().invoke(cli, ["pack", str(copied), "-o", str(tmp_path / "edge.tar")])
    assert done.exit_code == 1 and "model.onnx is not the file that manifest.json describes" in done.output
    (copied / "model.onnx").unlink()
    with pytest.raises(EngineError, match="missing, though manifest.json lists it"):
        pack(copied, tmp_path / "edge.tar")
    assert not (tmp_path / "edge.tar").exists()


def test_an_export_without_golden_tensors_is_refused(copied, tmp_path):
    manifest = load_manifest(copied)
    save_manifest(copied, replace(manifest, files=[e for e in manifest.files if e.role != "golden"]))
    with pytest.raises(DataError, match="no golden tensors"):
        pack(copied, tmp_path / "edge.tar")


def test_a_disk_that_fills_leaves_nothing(export_directory, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archive, "_add", full)
    done = CliRunner().invoke(cli, ["pack", str(export_directory), "-o", str(tmp_path / "edge.tar")])
    assert done.exit_code == 1 and "No space left on device" in done.output and list(tmp_path.iterdir()) == []


def test_a_file_that_comes_meanwhile_is_kept(tmp_path, monkeypatch):
    add = archive._add
    monkeypatch.setattr(archive, "_add", lambda *a: ((tmp_path / "edge.tar").write_text("mine"), add(*a)))
    with pytest.raises(ExportError, match="created meanwhile"):
        write_tar(tmp_path / "edge.tar", "edge", {"a": b"1"})
    assert (tmp_path / "edge.tar").read_text() == "mine"


def test_native_sources_are_those_of_git():
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone")
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "kernels/CMakeLists.txt", "kernels/csrc", "runtime/cpp"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert set(native_sources()) == {name for name in listed if (ROOT / name).is_file()}


@pytest.mark.slow
def test_the_wheel_is_what_setuptools_makes(tmp_path):
    """The same files and bytes as a wheel that is built from the sources."""
    unwanted, hidden = (
        ("tests", "build", "demo", "out", "dist"),
        shutil.ignore_patterns("*.egg-info", "__pycache__", ".*"),
    )
    shutil.copytree(
        ROOT, tmp_path / "tree", ignore=lambda at, names: {*hidden(at, names), *(unwanted if at == str(ROOT) else ())}
    )
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", tmp_path, tmp_path / "tree"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"pip cannot build a wheel here: {done.stderr[-300:]}")
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as built:
        wanted = {name: built.read(name) for name in built.namelist() if ".dist-info/" not in name}
    with zipfile.ZipFile(io.BytesIO(wheel_bytes(own_package()))) as ours:
        found = {name: ours.read(name) for name in ours.namelist() if ".dist-info/" not in name}
        assert ours.testzip() is None
    assert sorted(found) == sorted(wanted)
    assert found == wanted


def test_builds_without_python_name_folders_of_the_bundle(edge_tar):
    """CMake's projects, the pages that explain them, and graphs for trtexec: all of it is there."""
    found = members(edge_tar)
    page = found["README.md"][1].decode().split("## Without Python")[1]
    for folder in re.findall(r"cmake -S (\S+)", page):
        assert f"{folder}/CMakeLists.txt" in found
    for name in [*re.findall(r"\]\((\S+?)\)", page), *re.findall(r"--onnx=(\S+)", page)]:
        assert name in found, name
    assert page.count("--stronglyTyped --noTF32") == 3, "as `tokfilter engine` builds"
    assert len(re.findall("cmake -S", page)) == 2 and page.count("trtexec --onnx") == 3


def steps_of(page):
    """Name of a step -> its commands, as a reader of README.md finds them."""
    parts = re.split(r"^## \d+\. .*\(`(\w+)`\)$", page.split("## Without Python")[0], flags=re.MULTILINE)[1:]
    blocks = zip(parts[::2], parts[1::2], strict=True)
    return {name: re.findall(r"^    (.+)$", text, re.MULTILINE) for name, text in blocks}


@pytest.mark.slow
def test_the_commands_of_readme_work_in_a_bare_environment(edge_tar, tmp_path):
    """A virtual environment of its own, with the bundle's requirements only: no torch, no onnx, no jinja2."""
    with tarfile.open(edge_tar) as tar:
        tar.extractall(tmp_path, filter="data")
    place = tmp_path / "edge"
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment = kept | {"PATH": f"{Path(sys.executable).parent}:{kept['PATH']}", "OMP_NUM_THREADS": "1"}

    def shell(command):
        done = subprocess.run(["sh", "-ec", command], cwd=place, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stdout[-1500:]}{done.stderr[-1500:]}"
        return done.stdout

    steps = steps_of((place / "README.md").read_text())
    commands = [command for name in ("files", "install", "cpu") for command in steps[name]]
    shorter = {command: f"{command} --duration 0.3 --warm-up 0.1" for command in commands if " bench " in command}
    outputs = [shell(shorter.get(command, command)) for command in commands]
    for absent in ("torch", "timm", "onnx", "jinja2"):
        assert "No module named" in shell(f".venv/bin/python -c 'import {absent}' 2>&1 || true")
    assert "model.onnx, batch 2, 8 tokens: logits and indices match PyTorch's" in "".join(outputs)
    document = json.loads((place / "cpu.json").read_text())
    schema = json.loads((ROOT / "benchmarks" / "schemas" / "bench.json").read_text())
    Draft202012Validator(schema).validate(document)
    assert {(row["batch"], row["tokens"]) for row in document["rows"]} >= {(1, 16), (1, 8), (8, 16), (8, 8)}
    assert "torch" not in document["versions"] and document["versions"]["tokfilter"]
    # What was installed from the edge bundle packs the very same wheel again.
    shell(".venv/bin/tokfilter pack out -o again.tar")
    wheel = wheel_name(own_package())
    assert members(place / "again.tar")[wheel][1] == (place / wheel).read_bytes()
