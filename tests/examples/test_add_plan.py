"""examples/add_plan.py, under Python 3.8 where there is one: JetPack 5 has no other."""

import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
from paths import ROOT

from tokfilter.artifacts.checked import checked_bytes
from tokfilter.artifacts.manifest import entry_from_file, load_manifest, save_manifest

SCRIPT = ROOT / "examples" / "add_plan.py"
PYTHON = subprocess.check_output([ROOT / ".ci" / "python", "3.8"], text=True).strip() or sys.executable
GOOD = (
    "model.plan",
    "--graph",
    "model.k8.trt85.onnx",
    "--precision",
    "fp16",
    "--batch",
    "1:2:4",
    "--tensorrt",
    "8.5.2",
)


@pytest.fixture
def directory(export_directory, tmp_path):
    """An export with graphs for 8.5, as far as the script reads them, a plan and a library."""
    out = tmp_path / "out"
    shutil.copytree(export_directory, out)
    manifest = load_manifest(out)
    files = list(manifest.files)
    for name, budget, plugin in (("model.k8.trt85.onnx", 8, None), ("model.plugin.trt85.onnx", None, "V2")):
        shutil.copy(out / "model.onnx", out / name)
        target = {"tensorrt": "8.5", "plugin_interface": plugin}
        made = entry_from_file(out, name, "filtered", runtime="onnx-tensorrt8", precision="fp32", budget=budget)
        files.append(replace(made, target=target))
    save_manifest(out, replace(manifest, files=files))
    (out / "model.plan").write_bytes(b"a plan")
    (out / "libplugin.so").write_bytes(b"a library")
    return out


def run(directory, *arguments):
    command = [PYTHON, str(SCRIPT), str(directory), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_a_plan_is_listed_once_and_found(directory):
    before = load_manifest(directory)
    for _ in range(2):
        done = run(directory, *GOOD)
        assert done.returncode == 0, done.stderr
    manifest = load_manifest(directory)
    assert manifest.files[:-1] == before.files and manifest.model == before.model
    plan = manifest.files[-1]
    assert (plan.path, plan.role, plan.runtime, plan.precision) == ("model.plan", "filtered", "tensorrt", "fp16")
    assert (plan.budget, plan.batch_range, plan.budget_range) == (8, (1, 2, 4), None)
    assert plan.target == {"version": "8.5.2", "plugin": None, "version_compatible": False}
    assert plan.verified is False and plan.unverified == "it was built by trtexec"
    assert checked_bytes(directory, plan) == b"a plan"


def test_a_plan_with_the_plugin(directory):
    done = run(
        directory, "model.plan", "--graph", "model.plugin.trt85.onnx", "--precision", "fp32", "--batch", "1:1:1",
        "--budget", "1:8:16", "--tensorrt", "8.5.2", "--plugin", "libplugin.so",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *_, plan, library = load_manifest(directory).files
    assert (plan.budget, plan.budget_range, plan.target["plugin"]) == (None, (1, 8, 16), "libplugin.so")
    assert library.role == "plugin" and library.path == "libplugin.so"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"plan": "none.plan"}, "expected a file in"),
        ({"plan": "../out/model.plan"}, "without a folder in its name"),
        ({"--graph": "other.onnx"}, "--graph must be one of full.onnx, model.k8.onnx, model.k8.trt85.onnx"),
        ({"--graph": "model.plugin.trt85.onnx"}, "--budget is for graphs with the input slots: give one for"),
        ({"--budget": "1:8:16"}, "--budget is for graphs with the input slots: give none for"),
        ({"--plugin": "libplugin.so"}, "--plugin is for graphs with .plugin. in their name"),
        ({"--batch": "4:2:1"}, "--batch must be 1 <= min <= opt <= max, got 4:2:1"),
        ({"--batch": "many"}, "--batch must be min:opt:max, got many"),
        ({"directory": "elsewhere"}, "manifest.json cannot be read"),
    ],
)
def test_mistakes_are_named_and_change_nothing(directory, changes, words):
    options = {"plan": GOOD[0], **dict(zip(GOOD[1::2], GOOD[2::2], strict=True)), **changes}
    folder, plan = options.pop("directory", directory), options.pop("plan")
    before = (directory / "manifest.json").read_bytes()
    done = run(folder, plan, *(part for pair in options.items() for part in pair))
    assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr
    assert (directory / "manifest.json").read_bytes() == before
    assert not (directory / "manifest.json.part").exists()
