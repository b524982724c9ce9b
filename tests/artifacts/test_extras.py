"""The extras of the metadata are the only ones that code and pages name."""

import re

import pytest
from paths import ROOT

from tokfilter.artifacts import extras as module
from tokfilter.artifacts.extras import extra_of_module, extras, install_hint

FOLDERS = ("artifacts", "benchmarks", "commands", "export", "kernels", "runtime", "train", "trt", "vit", "docs")
TEXTS = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".md")]
TEXTS += [*ROOT.glob("*.py"), *ROOT.glob("*.md"), ROOT / "Makefile"]


def test_extras_are_read_with_those_that_they_include():
    assert {"train", "export", "runtime", "trt", "rtx", "report", "triton", "service", "dev"} <= set(extras())
    assert "torch" in extras()["train"] < extras()["export"] < extras()["dev"]
    assert extras()["runtime"] == {"onnxruntime", "pillow"}
    assert "onnxruntime-gpu" in extras()["runtime-gpu"]


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("torch", "train"),
        ("sklearn", "train"),
        ("onnx_ir", "export"),
        ("onnxruntime", "runtime"),
        ("PIL", "runtime"),
        ("matplotlib", "report"),
        ("pycuda", "trt"),
        ("tensorrt_rtx", "rtx"),
        ("google", "triton"),
        ("pynvml", "power"),
        ("mlperf_loadgen", "loadgen"),
        ("cv2", None),
    ],
)
def test_a_module_is_in_the_smallest_extra_that_has_it(name, extra):
    assert extra_of_module(name) == extra


def test_every_hint_in_the_code_names_an_extra():
    named = {
        extra
        for path in TEXTS
        for text in re.findall(
            r"install_hint\([\"']([\w-]+)[\"']\)|tokfilter\[([\w,-]+)\]", path.read_text(encoding="utf-8")
        )
        for extra in ",".join(text).strip(",").split(",")
    }
    assert {"export", "runtime", "trt", "rtx", "triton"} <= named <= set(extras())


def test_only_one_file_writes_the_command():
    code = [path for path in TEXTS if path.suffix == ".py" and path != ROOT / "artifacts" / "extras.py"]
    assert [path.name for path in code if "install 'tokfilter[" in path.read_text(encoding="utf-8")] == []


def test_without_metadata_there_are_no_extras_and_the_hint_stays(monkeypatch):
    def none(_):
        raise module.PackageNotFoundError

    monkeypatch.setattr(module, "requires", none)
    extras.cache_clear()
    try:
        assert extras() == {} and extra_of_module("torch") is None
        assert install_hint("train") == "pip install 'tokfilter[train]'"
    finally:
        extras.cache_clear()


def test_packages_that_the_edge_bundle_installs_are_in_the_extras():
    folder = ROOT / "export/serving/edge_bundle"
    steps = (folder / "steps.py").read_text(encoding="utf-8")
    named = {package for text in re.findall(r"pip install ([a-z][a-z -]*)", steps) for package in text.split()}
    known = set().union(*extras().values())
    assert {"tensorrt"} == named <= known
    locked = re.findall(r"^([a-z0-9-]+)==", (folder / "requirements/tensorrt.txt").read_text(encoding="utf-8"), re.M)
    assert {"cmake", "ninja", "pycuda"} <= set(locked) & known


@pytest.mark.parametrize(
    ("name", "needed", "extra"),
    [("PIL", "train", "train"), ("onnx_ir", "export,report", "export,report"), ("jinja2", "train", "report")],
)
def test_the_extra_of_the_whole_command_comes_first_where_it_has_the_module(name, needed, extra):
    assert extra_of_module(name, needed) == extra
