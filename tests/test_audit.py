"""`.ci/audit`: a vulnerability fails it, what it cannot find out does not, and it says which of the two it was."""

import json
import os
import shutil
import subprocess

import pytest
from paths import ROOT

FOUND = {"name": "jinja2", "version": "2.10", "vulns": [{"id": "X-1", "aliases": ["CVE-1"], "fix_versions": ["2.11"]}]}
CLEAN = {"name": "click", "version": "8.5.1", "vulns": []}
UNKNOWN = {"name": "click", "skip_reason": "not found"}
TOOL = """#!/bin/sh
while [ "$1" ]; do [ "$1" = --output ] && out=$2; shift; done
[ -z "$ANSWER" ] && { echo "ConnectionError: no route to host" >&2; exit 1; }
printf %s "$ANSWER" > "$out"
case "$ANSWER" in *fix_versions*) exit 1 ;; esac
"""


@pytest.fixture
def place(tmp_path):
    """The script and the lock file, with a tool that answers what it is told to."""
    (tmp_path / ".ci").mkdir()
    for name in ("audit", "requirements.txt"):
        shutil.copy(ROOT / ".ci" / name, tmp_path / ".ci")
    tool = tmp_path / "build" / "audit" / "bin" / "pip-audit"
    tool.parent.mkdir(parents=True)
    tool.write_text(TOOL)
    tool.chmod(0o755)
    return tmp_path


def audit(place, *packages, **environment):
    answer = json.dumps({"dependencies": packages, "fixes": []}) if packages else ""
    environment = {**os.environ, "AUDIT": "1", "ANSWER": answer, **environment}
    command = ["bash", ".ci/audit"]
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)


def test_a_vulnerability_fails_with_the_versions(place):
    done = audit(place, FOUND, CLEAN)
    assert done.returncode == 1
    assert "jinja2 2.10: X-1, mended in 2.11" in done.stdout and "1 vulnerabilities" in done.stdout
    assert "raise the versions in .ci/constraints.txt" in done.stderr


@pytest.mark.parametrize("name", ["X-1", "CVE-1"])
def test_one_that_is_accepted_does_not_fail(place, name):
    script = place / ".ci" / "audit"
    script.write_text(script.read_text().replace("accepted=()", f"accepted=({name})"))
    done = audit(place, FOUND)
    assert done.returncode == 0 and "1 packages looked up, 0 vulnerabilities" in done.stdout


def test_packages_without_any_are_looked_up_once_a_day(place):
    assert "1 packages looked up, 0 vulnerabilities, 0 unknown" in audit(place, CLEAN).stdout
    assert "passed less than a day ago" in audit(place, FOUND).stdout
    later = (place / "build" / "audit" / "passed").stat().st_mtime + 1
    os.utime(place / ".ci" / "requirements.txt", (later, later))
    assert audit(place, FOUND).returncode == 1


@pytest.mark.parametrize(
    ("packages", "environment", "words"),
    [
        ((), {}, "not done: ConnectionError: no route to host"),
        ((UNKNOWN,), {}, "this package index has no data"),
        ((FOUND,), {"AUDIT": "0"}, "left out"),
    ],
)
def test_what_cannot_be_looked_up_does_not_fail(place, packages, environment, words):
    done = audit(place, *packages, **environment)
    assert done.returncode == 0 and words in done.stdout
    assert not (place / "build" / "audit" / "passed").exists()
