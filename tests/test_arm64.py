"""make arm64: what is missing is said before anything is done, and what the emulated bench is held to."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT, TESTS

SCRIPT = ROOT / ".ci" / "arm64"
CHECK = TESTS / "tools" / "arm64" / "check_bench.py"


def test_missing_packages_are_named_with_the_command_that_installs_them(tmp_path: Path) -> None:
    for tool in ("bash", "dirname"):
        (tmp_path / tool).symlink_to(shutil.which(tool) or pytest.fail(f"no {tool}"))
    result = subprocess.run([SCRIPT], capture_output=True, text=True, check=False, env={"PATH": str(tmp_path)})
    assert result.returncode == 1
    packages = "qemu-user-static proot mmdebstrap g++-aarch64-linux-gnu"
    assert f"sudo apt-get install --no-install-recommends {packages}" in result.stderr


def test_an_unknown_step_is_refused() -> None:
    result = subprocess.run([SCRIPT, "bundle", "everything"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (2, "there is no step everything: bundle, cpp, plugin\n")


def record(**check: Any) -> dict[str, Any]:
    rows = [
        {"path": path, "role": role, "tokens": tokens, "batch": 1, "latency_ms": {"count": 3, "median": 123.456}}
        for path, role, tokens in (("full.onnx", "full", 16), ("model.k8.onnx", "filtered", 8))
    ]
    equal = {
        "compared": "logits",
        "largest_difference": 2e-7,
        "tolerance": 1e-4,
        "same_top1": 1.0,
        "same_indices": None,
    }
    verification = [{"path": row["path"], **equal, **check} for row in rows]
    return {"machine": {"system": "Linux 6.1 aarch64"}, "rows": rows, "verification": verification}


def checked(content: dict[str, Any], folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "bench.json").write_text(json.dumps(content))
    return subprocess.run(
        [sys.executable, CHECK, folder / "bench.json"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONOPTIMIZE": ""},
    )


def test_a_bench_under_emulation_is_compared_and_its_times_are_not_printed(tmp_path: Path) -> None:
    result = checked(record(), tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("differ by 2.0e-07 at most, tolerance 0.0001") == 2
    assert "123" not in result.stdout


@pytest.mark.parametrize(
    "content",
    [
        record(largest_difference=1e-3),
        record(same_top1=0.5),
        record(same_indices=0.9),
        {**record(), "rows": record()["rows"][:1]},
        {**record(), "machine": {"system": "Linux 6.1 x86_64"}},
    ],
)
def test_a_bench_that_differs_or_is_of_another_processor_fails(content: dict[str, Any], tmp_path: Path) -> None:
    result = checked(content, tmp_path)
    assert result.returncode == 1 and "AssertionError" in result.stderr
