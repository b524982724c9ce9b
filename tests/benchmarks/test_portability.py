"""The probes are scripts of their own: here the crash of one, and the table. test_plain_files.py runs real runtimes."""

import json
import sys

import numpy as np
import pytest

from tokfilter.benchmarks.documents import document_from_file
from tokfilter.benchmarks.portability import environments, probing
from tokfilter.benchmarks.portability.cases import FILES, Case
from tokfilter.benchmarks.portability.runtimes import RUNTIMES, Runtime
from tokfilter.benchmarks.records.portability_tables import portability_table, reads_as_written

EXPECTED = np.array([[1.0, -2.0, 4.0]], np.float32)

PROBE = """
import json, os, sys
import numpy as np
for number, case in enumerate(json.loads(open(sys.argv[2]).read())):
    if case["tokens"] == 2:
        os._exit(7)  # as a runtime that is killed
    if case["tokens"] == 3:
        print("PROBE " + json.dumps({"case": number, "error": "no kernel | for <this>"}), flush=True)
        continue
    logits = np.array([[1.0, -2.0, 4.0]], np.float32) + (1 if case["tokens"] == 4 else 1e-6)
    logits.tofile(case["output"])
    print("a line of the library PROBE " + json.dumps({"case": number, "shape": [1, 3]}), flush=True)
"""


@pytest.fixture
def runtime(tmp_path, monkeypatch):
    monkeypatch.setattr(environments, "PROBES", tmp_path)
    (tmp_path / "some_probe.py").write_text(PROBE)
    (tmp_path / "env/bin").mkdir(parents=True)
    (tmp_path / "env/bin/python").symlink_to(sys.executable)
    return Runtime("Some Runtime, new", "some_probe.py", ("some==1.2",))


@pytest.fixture
def cases(tmp_path):
    np.zeros((1, 3, 224, 224), np.float32).tofile(tmp_path / "images.bin")

    def case(file, tokens):
        return Case(file, 1, tokens, file == FILES[0], tmp_path / "images.bin", EXPECTED)

    return [*(case(FILES[0], tokens) for tokens in (1, 2, 3, 4, 5)), case(FILES[1], 5), case(FILES[2], 5)]


def test_a_process_that_dies_loses_one_case(runtime, cases, tmp_path):
    found = probing.results_of_runtime(runtime, tmp_path / "env", tmp_path / "out", cases)
    first, dead, refused, wrong, last = found[FILES[0]]
    assert first["passed"] and last["passed"] and first["difference"] < 1e-5
    assert dead["error"].startswith("the process ended with code 7")
    assert refused["error"] == "no kernel | for <this>"
    assert not wrong["passed"] and wrong["difference"] == pytest.approx(0.25)
    assert [found[file][0]["passed"] for file in FILES[1:]] == [True, True]


def test_the_table_counts_what_reads_model_onnx_as_it_is(runtime, cases, tmp_path):
    found = probing.results_of_runtime(runtime, tmp_path / "env", tmp_path / "out", cases)
    good = [{"batch": 1, "tokens": 49, "difference": 1e-6, "cosine": 1.0, "passed": True}]
    rows = [
        {"name": "good", "packages": ["good==3"], "note": "", "files": dict.fromkeys(FILES, good)},
        {"name": runtime.name, "packages": list(runtime.packages), "note": "shapes fixed", "files": found},
        {"name": "absent", "packages": ["absent@4"], "note": "", "reason": "absent was not installed: no network"},
    ]
    document = {
        "schema": "tokfilter/portability",
        "version": 1,
        "created": "2026-11-26T00:00:00+00:00",
        "command": "python -m tokfilter.benchmarks portability",
        "machine": {"cpu": "a CPU", "cores": 2, "gpus": []},
        "versions": {"torch": "2", "timm": "1"},
        "model": "deit_tiny_patch16_224",
        "runtimes": rows,
    }
    (tmp_path / "portability.json").write_text(json.dumps(document))
    assert document_from_file(tmp_path / "portability.json", "tokfilter/portability") == document
    assert [reads_as_written(row) for row in rows] == [True, False, False]
    lines = portability_table(document).splitlines()
    assert lines[2] == "| good | 3 | ✓ | ✓ | ✓ | 1e-06 |  |"
    assert "2 of 5 | ✓ | ✓ |" in lines[3] and "shapes fixed; batch 1, 2 tokens: the process ended" in lines[3]
    assert "not installed" in lines[4]
    assert "1 of 3 read `model.onnx`" in lines[-1]


def test_names_and_environments_are_distinct():
    assert len({runtime.folder for runtime in RUNTIMES}) == len(RUNTIMES) == 17
    assert all((environments.PROBES / runtime.probe).is_file() for runtime in RUNTIMES)
    assert all("==" in package or "@" in package for r in RUNTIMES for package in r.packages if package not in _FREE)
    assert {runtime.folder for runtime in RUNTIMES} & {"pnnx-ncnn", "onnx-runtime"} == {"pnnx-ncnn", "onnx-runtime"}


_FREE = ("numpy", "sympy")


def test_an_environment_is_made_once(tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(environments, "_run", lambda command, runtime: commands.append(command))
    runtime = Runtime("one", "tract_probe.py", ("one==1", "numpy"), alone=True)
    assert environments.install(runtime, tmp_path) == environments.install(runtime, tmp_path) == tmp_path / "one"
    assert [command[1:3] for command in commands] == [["-m", "venv"], ["-m", "pip"]]
    assert commands[1][-3:] == ["--no-deps", "one==1", "numpy"]
    environments.install(Runtime("one", "tract_probe.py", ("one==2",)), tmp_path)
    assert len(commands) == 4
