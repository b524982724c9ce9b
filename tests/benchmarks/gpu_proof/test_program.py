"""Options, the exit code and the summary of ``python -m tokfilter.benchmarks gpu-proof``."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from paths import ROOT

from tokfilter.benchmarks.__main__ import cli
from tokfilter.benchmarks.gpu_proof import program, runner
from tokfilter.benchmarks.gpu_proof.settings import (
    BATCHES,
    MODELS,
    ModelSpec,
    Settings,
    batches_from_text,
    interpreter_from_tree,
    models_from_text,
)
from tokfilter.benchmarks.gpu_proof.steps import STEPS, Step, steps_from_text
from tokfilter.errors import DataError


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The program with steps of ``proof_steps``; returns its result and its document."""
    tools = str(ROOT / "tests" / "tools")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([tools, os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr(runner, "PREPARATION", ())

    def run_with(names, *options):
        steps = tuple(Step(name, "", f"proof_steps:{name}", 600) for name in names)
        monkeypatch.setattr(program, "steps_from_text", lambda text: steps)
        output = tmp_path / "proof.json"
        words = ["gpu-proof", "--work", tmp_path / "work", "-o", output, *options]
        result = CliRunner().invoke(cli, [str(word) for word in words])
        return result, json.loads(output.read_text()) if output.exists() else None

    return run_with


def test_a_run_without_a_wrong_result_ends_with_status_0(run):
    result, document = run(["good", "missing"], "--minutes", "5")
    assert result.exit_code == 0, result.output
    assert "| `missing` | cannot run |" in result.output and "`e` | 1 | 8 | 1 of 1" in result.output
    assert document["command"] == "python -m tokfilter.benchmarks gpu-proof --minutes 5.0 --work WORK"
    assert document["settings"]["minutes"] == 5.0


@pytest.mark.parametrize("step", ["wrong", "failing", "crashing"])
def test_a_failed_comparison_or_step_ends_with_status_1(run, step):
    result, document = run([step])
    assert result.exit_code == 1
    assert "wrong: " in result.output and document["steps"][0]["name"] == step


def test_the_list_shows_every_step_and_runs_none(tmp_path):
    output = tmp_path / "proof.json"
    result = CliRunner().invoke(cli, ["gpu-proof", "--list", "-o", str(output)])
    assert result.exit_code == 0 and not output.exists()
    assert [line.split()[0] for line in result.output.splitlines()] == [step.name for step in STEPS]


def test_steps_are_chosen_in_the_order_given():
    assert [s.name for s in steps_from_text("native, golden,native")] == ["native", "golden"]
    assert steps_from_text("") == STEPS
    with pytest.raises(DataError, match="a step must be one of golden, speed-deit_small.*got 'speed'"):
        steps_from_text("speed")


def test_a_wrong_folder_of_tensorrt_is_refused_before_anything_runs(run, tmp_path):
    (tmp_path / "tree" / "lib").mkdir(parents=True)
    result, document = run(["good"], "--tensorrt-python", tmp_path / "tree")
    assert result.exit_code != 0 and document is None
    assert "must have lib/, site/ and python/bin/python3.*" in result.output and "has lib" in result.output


def test_the_other_python_sees_its_own_packages_and_this_one(tmp_path, monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", "/driver")
    for folder in ("lib", "site", "python/bin"):
        (tmp_path / "tree" / folder).mkdir(parents=True)
    (tmp_path / "tree" / "python" / "bin" / "python3.10").write_text("")
    interpreter = interpreter_from_tree(tmp_path / "tree", tmp_path / "work")
    variables = interpreter.variables()
    site, package = variables["PYTHONPATH"].split(":")
    assert interpreter.command("m")[0].endswith("python3.10") and site.endswith("tree/site")
    assert (Path(package) / "tokfilter").samefile(ROOT)
    libraries = [str(tmp_path / "tree" / name) for name in ("lib", "python/lib")]
    assert variables["LD_LIBRARY_PATH"].split(":") == [*libraries, "/driver"]
    assert variables["PATH"] == os.environ["PATH"]
    assert interpreter_from_tree(tmp_path / "tree", tmp_path / "work") == interpreter  # the link is there already


@pytest.mark.parametrize(("own", "expected"), [(None, "LAZY"), ("EAGER", "EAGER")])
def test_tensorrt_loads_kernels_when_they_are_first_run_unless_the_user_says_otherwise(
    tmp_path, monkeypatch, own, expected
):
    monkeypatch.delenv("CUDA_MODULE_LOADING", raising=False)
    if own is not None:
        monkeypatch.setenv("CUDA_MODULE_LOADING", own)
    for folder in ("lib", "site", "python/bin"):
        (tmp_path / "tree" / folder).mkdir(parents=True)
    (tmp_path / "tree" / "python" / "bin" / "python3.10").write_text("")
    for settings in (Settings(tmp_path / "work"), Settings(tmp_path / "work", tensorrt8=tmp_path / "tree")):
        assert settings.tensorrt.variables()["CUDA_MODULE_LOADING"] == expected
    assert "site" in settings.tensorrt.variables()["PYTHONPATH"], "the tree's own variables are still there"


def test_settings_survive_the_way_to_a_step(tmp_path):
    settings = Settings(tmp_path, 3.0, True, plugin=tmp_path / "p.so", models=(ModelSpec("a", "b", 16, 2, {"c": 1}),))
    assert Settings.from_text(settings.text()) == settings
    assert settings.model("a").patches == 16
    with pytest.raises(DataError, match="a model must be one of a, got 'z'"):
        settings.model("z")


def test_budgets_are_those_of_the_claims():
    assert [model.compared for model in MODELS] == [[37, 98, 196]] * 2
    assert MODELS[0].timed == [137, 98, 68] and MODELS[0].golden == [37, 68, 98, 137]


def test_models_and_batches_are_chosen_by_name():
    assert models_from_text("") == MODELS and batches_from_text("") == BATCHES
    assert [model.name for model in models_from_text("vit_base, vit_base")] == ["vit_base"]
    assert batches_from_text("32, 1,32") == (32, 1)
    with pytest.raises(DataError, match="a model must be one of deit_small, vit_base, got 'vit'"):
        models_from_text("vit")
    for text in ("0", "-1", "1025", "a", "1.5", "²"):
        with pytest.raises(DataError, match="numbers from 1 to 1024 with commas between"):
            batches_from_text(text)
