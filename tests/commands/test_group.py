"""Each verb in installations that lack packages: the smallest extra that has all that it needs, and no traceback."""

import json
import os
import re
import subprocess
import sys

import pytest
from missing_packages import hiding_folder, packages_of
from paths import ROOT
from PIL import Image

from tokfilter import cli as module
from tokfilter.artifacts.extras import extras

NONE = ""
"""Needs no extra."""

ONE_PACKAGE = ""
"""Needs one package, which several extras have or which is named itself."""

VERBS = {
    "demo": ("demo --output {tmp}/demo", "export,report"),
    "train": ("train {images} -o {tmp}/new.pt", "train"),
    "label": ("label {images} {bundle} -o {tmp}/labels", "train"),
    "eval": ("eval {bundle} {images}", "train"),
    "predict": ("predict {out} {image}", "runtime"),
    "predict bundle": ("predict {bundle} {image}", "train"),
    "predict openvino": ("predict {out} {image} --runtime openvino", "openvino"),
    "export": ("export {bundle} -o {tmp}/out", "export"),
    "fuse": ("fuse {out}/model.onnx -o {tmp}/fused.onnx", "export"),
    "inline": ("inline {out}/model.onnx -o {tmp}/plain.onnx", "export"),
    "inspect": ("inspect {out}", NONE),
    "inspect bundle": ("inspect {bundle}", "train"),
    "inspect graph": ("inspect {out}/model.onnx", ONE_PACKAGE),
    "verify": ("verify {out}", "runtime"),
    "engine": ("engine {out} --rtx", "rtx"),
    "bench": ("bench {out} --quick --batch 1", "runtime"),
    "bench html": ("bench {out} --quick --batch 1 --html {tmp}/page.html", "report"),
    "tune": ("tune {out} --latency-ms 9", "runtime"),
    "tune images": ("tune {out} --max-drop 1 --images {images}", "runtime"),
    "tune accuracy": ("tune {out} --max-drop 1 --accuracy {tmp}/accuracy.json", "report"),
    "triton-repo": ("triton-repo {out} {tmp}/triton", "triton"),
    "deepstream": ("deepstream {out} {tmp}/deepstream", "export"),
    "pack": ("pack {out} -o {tmp}/edge.tar", NONE),
    "serve": ("serve {out} --port 1", "service"),
    "page": ("page {out} -o {tmp}/page --onnxruntime-web {tmp}/none.tgz", ONE_PACKAGE),
    "report": ("report --accuracy {tmp}/accuracy.json -o {tmp}/report.html", "report"),
    "plugin": ("plugin path --for 8.5", NONE),
    "doctor": ("doctor", NONE),
}
"""Name -> arguments, and the extra that has all that they need."""

HELP = {f"help {verb}": f"{verb} --help" for verb in module._VERBS}


@pytest.fixture(scope="module")
def run(tmp_path_factory, export_directory):
    """``run(extra, {name: command line})`` -> {name: (exit code, output)}, where only that extra is installed."""
    tmp = tmp_path_factory.mktemp("missing")
    for name in ("ant", "bee"):  # classes of the model
        (tmp / "images" / name).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp / "images" / name / "0.png")
    places = {"tmp": tmp, "out": export_directory, "images": tmp / "images", "image": tmp / "images" / "ant" / "0.png"}
    places["bundle"] = tmp / "model.pt"
    places["bundle"].write_bytes(b"PK\x03\x04 not read here")

    def started(extra: str, lines: dict[str, str]) -> dict[str, tuple[int, str]]:
        commands = {name: [word.format(**places) for word in line.split()] for name, line in lines.items()}
        hiding = hiding_folder(tmp / f"only-{extra}-{len(lines)}", extra)
        paths = [str(hiding), *filter(None, [os.environ.get("PYTHONPATH")])]
        done = subprocess.run(
            [sys.executable, ROOT / "tests" / "tools" / "missing_packages.py"],
            input=json.dumps(commands),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return started


def lacking(extra: str) -> dict[str, str]:
    """Verbs that need more than this extra has -> the extra that they are to name."""
    installed = packages_of(extra)
    wanted = {name: needed for name, (_, needed) in VERBS.items() if needed}
    return {name: needed for name, needed in wanted.items() if not packages_of(needed) <= installed}


def test_every_verb_is_here():
    assert {name.split()[0] for name in VERBS} == set(module._VERBS)
    assert set(module._EXTRAS) <= set(module._VERBS)
    assert {name for _, extra in VERBS.values() for name in extra.split(",") if name} <= set(extras())


@pytest.mark.parametrize("extra", [NONE, "runtime", "train"])
def test_a_verb_that_lacks_a_package_names_the_smallest_extra_for_all_that_it_needs(extra, run):
    pytest.importorskip("torch", reason="of packages that are absent here there is nothing to hide")
    expected = lacking(extra)
    if extra == "train":
        del expected["demo"]  # imports all of torch and scikit-learn first
    assert expected
    for name, (code, output) in run(extra, {name: VERBS[name][0] for name in expected}).items():
        named = re.findall(r"tokfilter\[([\w,-]+)\]", output)
        assert code == 4 and named[:1] == [expected[name]], f"{name}: {code} {output}"
        assert "Traceback" not in output and "ModuleNotFoundError" not in output


def test_without_extras_every_help_is_shown_and_what_needs_none_runs(run):
    quick = {name: line for name, (line, needed) in VERBS.items() if needed in (NONE, ONE_PACKAGE)}
    results = run(NONE, {**HELP, **quick})
    assert [name for name in HELP if results[name][0] != 0] == []
    codes = {name: results[name][0] for name in quick}
    assert codes == {"inspect": 0, "inspect graph": 4, "pack": 4, "page": 4, "plugin": 4, "doctor": 0}, results
    assert "tokfilter plugin build" in results["plugin"][1]
    assert "'tokfilter[runtime]'" in results["page"][1]
    assert results["inspect graph"][1].rstrip().endswith("with the package onnx-ir: pip install onnx-ir")
    assert "pip install onnx onnx-ir" in results["pack"][1], "two packages, without the torch of the extra `export`"


def test_with_runtime_its_verbs_run(run):
    quick = ("predict", "verify", "inspect")
    results = run("runtime", {name: VERBS[name][0] for name in quick})
    assert [(name, text) for name, (code, text) in results.items() if code != 0] == []


def test_fuse_offers_the_forms_that_it_writes():
    from tokfilter.commands.fuse import fuse
    from tokfilter.export.fuse import FORMS

    (option,) = (option for option in fuse.params if option.name == "to")
    assert tuple(option.type.choices) == FORMS
