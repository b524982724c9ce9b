"""Time limits, order, failures and interruptions of the steps, with real child processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from paths import ROOT

from tokfilter.benchmarks.documents import document_from_file
from tokfilter.benchmarks.gpu_proof import runner
from tokfilter.benchmarks.gpu_proof.document import Document
from tokfilter.benchmarks.gpu_proof.runner import run_steps
from tokfilter.benchmarks.gpu_proof.settings import Settings
from tokfilter.benchmarks.gpu_proof.steps import Step

TOOLS = ROOT / "tests" / "tools"


def step(name, *arguments):
    return Step(name, name.title(), f"proof_steps:{name}", 600, arguments)


@pytest.fixture
def proof(tmp_path, monkeypatch):
    """Runs steps of ``proof_steps`` without the preparation; returns the document that was written."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TOOLS), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr(runner, "PREPARATION", ())
    document = Document(tmp_path / "proof.json", Settings(tmp_path), "gpu-proof")

    def run(*steps, **settings):
        run_steps(steps, Settings(tmp_path, **settings), document, said.append)
        return document_from_file(tmp_path / "proof.json", "tokfilter/gpu-proof")

    said = []
    run.said, run.document, run.work = said, document, tmp_path
    return run


def ended(pid):
    """Whether a process is gone, or a zombie that its parent has not waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until(condition):
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it did not happen within two minutes")


def test_steps_run_in_their_order_and_a_failing_one_stops_none(proof):
    found = proof(step("failing"), step("raising"), step("crashing"), step("missing"), step("good", "last"))
    assert [(s["name"], s["state"]) for s in found["steps"]] == [
        ("failing", "failed"),
        ("raising", "failed"),
        ("crashing", "failed"),
        ("missing", "cannot run"),
        ("good", "done"),
    ]
    reasons = {s["name"]: s["reason"] for s in found["steps"]}
    assert reasons["failing"] == "the engine is of another model"
    assert reasons["raising"] == "ValueError: a list index"
    assert "status 134: terminate called after throwing an instance of 'std::bad_alloc'" in reasons["crashing"]
    assert "no nvcc" in reasons["missing"] and "no nvcc" in found["found"]["nvcc"]["missing"]
    assert [(b["step"], b["engine"]) for b in found["builds"]] == [
        ("failing", "e"),
        ("crashing", "e"),
        ("good", "last"),
    ]
    assert found["verdicts"][0]["passed"] and len(proof.document.wrong) == 3
    assert proof.said[0].startswith("failing: failed after ")


def test_a_comparison_that_fails_makes_the_run_fail(proof):
    found = proof(step("wrong"))
    assert found["steps"][0]["state"] == "done"
    assert proof.document.wrong == ["e differs by 0.5"]


def test_a_step_is_killed_at_its_limit_with_its_workers_and_its_results_stay(proof, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(runner, "monotonic", lambda: clock[0])
    add = Document.add

    def add_and_wait(document, step, result):
        add(document, step, result)
        if step.name == "endless":
            clock[0] += 601.0

    monkeypatch.setattr(Document, "add", add_and_wait)
    found = proof(step("endless"), step("good"), minutes=30)
    assert [s["state"] for s in found["steps"]] == ["stopped", "done"]
    assert found["steps"][0]["reason"].startswith("its limit of 600 s was over")
    assert [b["step"] for b in found["builds"]] == ["endless", "good"]
    pid = int((proof.work / "worker.pid").read_text())
    wait_until(lambda: ended(pid))


def test_steps_beyond_the_minutes_are_listed_as_not_reached(proof, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(runner, "monotonic", lambda: clock[0])
    add = Document.add
    monkeypatch.setattr(Document, "add", lambda self, *a: (add(self, *a), clock.__setitem__(0, clock[0] + 50.0))[0])
    found = proof(step("good"), step("failing"), minutes=1)
    assert found["steps"][0]["limit_s"] == 60.0
    assert [s["state"] for s in found["steps"]] == ["stopped", "not reached"]
    assert found["steps"][1]["reason"] == "1 minutes were used up."


def test_an_interruption_ends_the_child_and_leaves_a_whole_document(proof, monkeypatch):
    def interrupted(document, step, result):
        raise KeyboardInterrupt

    monkeypatch.setattr(Document, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        proof(step("endless"))
    found = document_from_file(proof.work / "proof.json", "tokfilter/gpu-proof")
    assert found["steps"][0]["state"] == "interrupted"
    wait_until(lambda: ended(int((proof.work / "worker.pid").read_text())))


def test_a_kill_leaves_a_whole_document_and_no_step_behind(proof):
    program = (
        "import sys, pathlib; from tokfilter.benchmarks.gpu_proof import runner\n"
        "from tokfilter.benchmarks.gpu_proof.runner import *; from tokfilter.benchmarks.gpu_proof.settings import *\n"
        "from tokfilter.benchmarks.gpu_proof.steps import *; from tokfilter.benchmarks.gpu_proof.document import *\n"
        "runner.PREPARATION = (); work = pathlib.Path(sys.argv[1]); settings = Settings(work)\n"
        "step = Step('endless', '', 'proof_steps:endless', 600)\n"
        "run_steps([step], settings, Document(work / 'killed.json', settings, 'gpu-proof'))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(proof.work)], start_new_session=True)
    path = proof.work / "killed.json"

    def built():
        return path.exists() and document_from_file(path, "tokfilter/gpu-proof")["builds"]

    wait_until(built)
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    worker = int((proof.work / "worker.pid").read_text())
    parent.kill()
    parent.wait()
    found = document_from_file(path, "tokfilter/gpu-proof")
    assert found["steps"][0]["state"] == "running" and len(found["builds"]) == 1
    wait_until(lambda: all(ended(int(pid)) for pid in children))
    os.kill(worker, signal.SIGKILL)  # it reads no pipe, as the real workers do


def test_a_dry_run_names_the_first_use_of_the_device(proof):
    found = proof(step("device"), dry_run=True)
    assert found["steps"][0]["state"] == "device first needed"
    assert found["steps"][0]["reason"] == "TensorRT's builder selects kernels."
    assert len(found["builds"]) == 1 and proof.document.wrong == []


def test_without_a_driver_the_reason_is_the_driver_s(proof):
    proof.document.found["gpu"] = {"missing": "no NVIDIA driver: install it."}
    found = proof(step("device"))
    assert (found["steps"][0]["state"], found["steps"][0]["reason"]) == ("cannot run", "no NVIDIA driver: install it.")


def test_the_document_is_json_after_every_result(proof, monkeypatch):
    seen = []
    write = Document.write

    def writing(document):
        write(document)
        seen.append(len(json.loads(document.path.read_text())["builds"]))

    monkeypatch.setattr(Document, "write", writing)
    proof(step("good"), step("crashing"))
    assert seen == sorted(seen) and {0, 1, 2} == set(seen)
