"""``python -m tokfilter.benchmarks``: names, options, errors and the recorded command line."""

import json
import subprocess
import sys
from importlib import import_module

import click
import pytest
from click.testing import CliRunner

from tokfilter.benchmarks.__main__ import PROGRAMS, cli
from tokfilter.benchmarks.options import command_line, json_option, numbers_from_text, output_option, publish
from tokfilter.commands.group import LazyGroup
from tokfilter.errors import MissingDependencyError, VerificationError


def run(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def test_help_lists_every_program_and_imports_none():
    program = (
        "import sys, runpy, atexit; sys.argv = ['benchmarks', '--help']\n"
        "atexit.register(lambda: print(sorted({'torch', 'onnx', 'scipy'} & set(sys.modules))))\n"
        "runpy.run_module('tokfilter.benchmarks', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
    for name, entry in PROGRAMS.items():
        assert f"\n  {name} " in done.stdout
        assert len(entry.help) < 60


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_has_its_help(name):
    result = run(name, "--help")
    assert result.exit_code == 0, result.output
    assert "Usage: " in result.output


def test_an_unknown_program_is_refused_with_the_list():
    result = run("studdy")
    assert result.exit_code == 2
    assert "No such command 'studdy'" in result.output and "label-methods" in result.output


@pytest.mark.parametrize(("error", "code"), [(VerificationError("off by 2"), 3), (MissingDependencyError("no GPU"), 4)])
def test_errors_become_messages_and_exit_codes(monkeypatch, error, code):
    @click.command()
    def program():
        raise error

    monkeypatch.setattr(LazyGroup, "get_command", lambda *_: program)
    result = run("study")
    assert (result.exit_code, result.output) == (code, f"Error: {error}\n")


def test_a_program_of_the_checkout_is_refused_in_an_installed_package(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name="tokfilter.benchmarks.micro")

    monkeypatch.setattr("tokfilter.commands.group.import_module", missing)
    result = run("micro")
    assert result.exit_code == 4
    assert "micro is in the source checkout" in result.output and "make install" in result.output


def test_what_is_not_in_the_wheel_is_marked():
    from tokfilter.export.serving.edge_bundle.source import own_package

    shipped = set(own_package().files)
    for name, entry in PROGRAMS.items():
        module = entry.target.partition(":")[0]
        assert (f"{module.replace('.', '/')}.py" in shipped) is not entry.checkout, name
        assert import_module(module)


@click.command()
@click.argument("bundle")
@click.option("--seeds", callback=numbers_from_text, default="0")
@click.option("--model", multiple=True, default=("a",))
@click.option("--longer", is_flag=True)
@click.option("--batch", type=int, default=3)
@output_option("out.json")
@json_option
def program(bundle, seeds, model, longer, batch, output, as_json):
    """A program with an option of every kind."""
    publish({"command": command_line(), "seeds": seeds}, output, as_json, [f"{len(seeds)} seeds"])


def invoke(tmp_path, *arguments):
    group = click.Group(commands={"program": program})
    output = tmp_path / "out.json"
    result = CliRunner().invoke(group, ["program", "/home/x/model.pt", "-o", str(output), *arguments])
    return result, output


def test_the_recorded_command_has_no_path_and_no_default(tmp_path):
    result, output = invoke(tmp_path, "--seeds", "0,2", "--model", "b", "--model", "c d", "--longer")
    command = "python -m tokfilter.benchmarks program BUNDLE --seeds 0,2 --model b --model 'c d' --longer"
    assert json.loads(output.read_text()) == {"command": command, "seeds": [0, 2]}
    assert result.stdout == "2 seeds\n"


def test_json_prints_the_document_alone(tmp_path):
    result, output = invoke(tmp_path, "--json")
    assert json.loads(result.stdout) == json.loads(output.read_text())


@pytest.mark.parametrize(("text", "numbers"), [("0,1,2", [0, 1, 2]), ("", []), ("7", [7])])
def test_numbers(tmp_path, text, numbers):
    _, output = invoke(tmp_path, "--seeds", text)
    assert json.loads(output.read_text())["seeds"] == numbers


def test_numbers_that_are_none_are_refused(tmp_path):
    result, _ = invoke(tmp_path, "--seeds", "0,one")
    assert result.exit_code == 2
    assert "not a list of integers" in result.output
