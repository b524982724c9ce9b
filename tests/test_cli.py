import json
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from tokfilter import cli as module
from tokfilter.cli import cli
from tokfilter.commands.group import LazyGroup
from tokfilter.errors import MissingDependencyError, TokfilterError


def run(*arguments):
    return CliRunner().invoke(cli, arguments)


def test_help_names_every_verb_and_loads_nothing_heavy():
    program = (
        "import sys; sys.argv = ['tokfilter', '--help']\n"
        "import atexit; atexit.register(lambda: print(sorted({'torch', 'onnx', 'numpy', 'rich'} & set(sys.modules))))\n"
        "from tokfilter.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
    for verb in module._VERBS:
        assert f"\n  {verb} " in done.stdout


def test_help_loads_no_module_of_a_verb():
    """The promise is help in 0.3 s on an idle machine; what costs time is imports, so they are what is tested."""
    program = (
        "import sys; sys.argv = ['tokfilter', '--help']\n"
        "import atexit; atexit.register(lambda: print(*sorted(n for n in sys.modules if n.startswith('tokfilter'))))\n"
        "from tokfilter.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert loaded == {
        "tokfilter",
        "tokfilter.cli",
        "tokfilter.commands",
        "tokfilter.commands.group",
        "tokfilter.errors",
    }


@pytest.mark.parametrize("verb", module._VERBS)
def test_every_verb_has_its_help(verb):
    result = run(verb, "--help")
    assert result.exit_code == 0, result.output
    assert "Usage: " in result.output


def test_version_and_unknown_verb():
    assert "tokfilter, version 0.1.0" in run("--version").output
    result = run("exprot")
    assert result.exit_code == 2
    assert "No such command 'exprot'" in result.output


def raising(error):
    @click.command()
    def verb():
        raise error

    return verb


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (TokfilterError("wanted a, got b"), 1, "Error: wanted a, got b"),
        (MissingDependencyError("no GPU"), 4, "Error: no GPU"),
        (OSError(28, "No space left on device"), 1, "Operating-system error: .*No space left"),
        (ModuleNotFoundError("No module named 'timm'", name="timm.models"), 4, r"pip install 'tokfilter\[train\]'"),
        (ModuleNotFoundError("No module named 'x'", name="x.y"), 4, "package x, .*none of tokfilter's extras"),
        (MemoryError(), 1, "Error: not enough memory: choose smaller batches"),
        (KeyboardInterrupt(), 1, "Aborted"),
    ],
)
def test_errors_become_messages_and_exit_codes(monkeypatch, error, code, words):
    import re

    monkeypatch.setattr(LazyGroup, "get_command", lambda *_: raising(error))
    result = run("doctor")
    assert result.exit_code == code
    assert re.search(words, result.output), result.output
    assert "Traceback" not in result.output


ANY = [
    (
        ZeroDivisionError("integer modulo by zero"),
        "unexpected ZeroDivisionError: integer modulo by zero. This is a defect",
    ),
    (RecursionError(), "unexpected RecursionError. This is a defect if your input is sound; `"),
    (BufferError("x" * 5000), f"unexpected BufferError: {'x' * 300}. This"),
    (RuntimeError("\x1b[2J\nmore"), r"unexpected RuntimeError: \x1b[2J. This"),
    (
        ModuleNotFoundError("No module named 'tokfilter.x'", name="tokfilter.x"),
        "unexpected ModuleNotFoundError: No mod",
    ),
]


@pytest.mark.parametrize(("error", "words"), ANY)
def test_any_other_exception_becomes_one_sentence(monkeypatch, error, words):
    monkeypatch.setattr(LazyGroup, "get_command", lambda *_: raising(error))
    result = run("doctor")
    assert result.exit_code == 1 and words in result.output
    assert "--traceback doctor ...` shows where." in result.output
    assert "Traceback (most" not in result.output and result.output.count("\n") == 1


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), TokfilterError("wanted a, got b"), OSError(28, "full")])
def test_traceback_shows_where(monkeypatch, error):
    monkeypatch.setattr(LazyGroup, "get_command", lambda *_: raising(error))
    plain, whole = run("doctor"), run("--traceback", "doctor")
    assert "Traceback (most recent call last)" in whole.output and "raise error" in whole.output
    assert whole.exit_code == plain.exit_code and whole.output.endswith(plain.output)
    asked = CliRunner().invoke(cli, ["doctor"], env={"TOKFILTER_TRACEBACK": "1"})
    assert "Traceback" in asked.output


def test_doctor_prints_text_and_json():
    found = json.loads(run("doctor", "--json").output)
    names = {item["name"] for group in found["findings"].values() for item in group}
    assert {"torch", "onnxruntime", "tensorrt", "NVIDIA GPU", "C++ compiler"} <= names
    text = run("doctor").output
    for ability in found["abilities"]:
        assert ability["name"][:8] in text
