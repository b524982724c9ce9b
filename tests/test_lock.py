"""The lock file: every package of the extras in the version of the constraints, each with hashes."""

import re

from paths import ROOT

from tokfilter.artifacts.extras import extras

PIN = re.compile(r"^([\w.-]+)==([^\s;]+)(?: *;.*?)?(?: \\)?$", re.MULTILINE)


def pins(name: str) -> dict[str, set[str]]:
    """Package -> its versions; the last one for Python 3.10 stands beside the newest."""
    found: dict[str, set[str]] = {}
    for package, version in PIN.findall((ROOT / ".ci" / name).read_text()):
        found.setdefault(package.lower().replace("_", "-"), set()).add(version)
    return found


def test_every_line_of_the_lock_file_has_hashes():
    lines = (ROOT / ".ci" / "requirements.txt").read_text().split("\n")
    packages = [number for number, line in enumerate(lines) if line and not line.startswith((" ", "#"))]
    assert len(packages) > 150
    for number in packages:
        assert PIN.match(lines[number]) and lines[number].endswith("\\"), lines[number]
        assert re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", lines[number + 1]), lines[number]


def test_the_lock_file_has_the_versions_of_the_constraints():
    constrained, locked = pins("constraints.txt"), pins("requirements.txt")
    assert {name: locked.get(name) for name in constrained} == constrained, "run `make lock`"


def test_the_lock_file_has_what_every_extra_of_make_install_needs():
    assert extras()["dev"] <= set(pins("requirements.txt")), "run `make lock`"
    assert "setuptools" in pins("requirements.txt"), "the build back end of `make install LOCKED=1`"
