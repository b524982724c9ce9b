"""The lock file: every package of the extras in the version of the constraints, each with hashes."""

import re
from pathlib import Path

import pytest
from paths import ROOT

from tokfilter.artifacts.extras import extras

PIN = re.compile(r"^([\w.-]+)==([^\s;]+)(?: *;.*?)?(?: \\)?$", re.MULTILINE)


LOCK = ROOT / ".ci" / "requirements.txt"
EDGE = ROOT / "export" / "serving" / "edge_bundle" / "requirements"


def pins(file: Path) -> dict[str, set[str]]:
    """Package -> its versions; the last one for Python 3.10 stands beside the newest."""
    found: dict[str, set[str]] = {}
    for package, version in PIN.findall(file.read_text()):
        found.setdefault(package.lower().replace("_", "-"), set()).add(version)
    return found


@pytest.mark.parametrize(
    ("file", "least"),
    [(LOCK, 150), (EDGE / "runtime.txt", 10), (EDGE / "openvino.txt", 12), (EDGE / "tensorrt.txt", 5)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_every_line_of_a_lock_file_has_hashes(file, least):
    lines = file.read_text().split("\n")
    packages = [number for number, line in enumerate(lines) if line and not line.startswith((" ", "#"))]
    assert len(packages) > least
    for number in packages:
        assert PIN.match(lines[number]) and lines[number].endswith("\\"), lines[number]
        assert re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", lines[number + 1]), lines[number]


def test_the_lock_file_has_the_versions_of_the_constraints():
    constrained, locked = pins(ROOT / ".ci" / "constraints.txt"), pins(LOCK)
    assert {name: locked.get(name) for name in constrained} == constrained, "run `make lock`"


def test_the_lock_file_has_what_every_extra_of_make_install_needs():
    assert extras()["dev"] <= set(pins(LOCK)), "run `make lock`"
    assert "setuptools" in pins(LOCK), "the build back end of `make install LOCKED=1`"


@pytest.mark.parametrize(
    ("name", "extra"), [("runtime", ("runtime",)), ("openvino", ("runtime", "openvino")), ("tensorrt", ())]
)
def test_an_edge_bundle_installs_what_its_steps_need_in_the_same_versions(name, extra):
    found, locked = pins(EDGE / f"{name}.txt"), pins(LOCK)
    wanted = {package for part in extra for package in extras()[part]}
    wanted |= {"pycuda", "cmake", "ninja"} if name == "tensorrt" else {"numpy", "click", "rich"}
    assert wanted <= set(found) and "torch" not in found, "run `make lock`"
    shared = found.keys() & locked.keys()
    assert {package: found[package] for package in shared} == {package: locked[package] for package in shared}
