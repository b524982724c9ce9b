"""Every command that prints a result has --json, with a schema and a version."""

import json
import math
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tokfilter.cli import cli
from tokfilter.commands.json_output import print_json

NO_RESULT = {"serve"}
"""serve answers requests until it is stopped."""


def leaves(group=cli, words=()):
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        if isinstance(command, click.Group):
            yield from leaves(command, (*words, name))
        else:
            yield " ".join((*words, name)), command


@pytest.mark.parametrize(("name", "command"), [pytest.param(*leaf, id=leaf[0]) for leaf in leaves()])
def test_every_command_with_a_result_has_the_option(name, command):
    options = {option for parameter in command.params for option in parameter.opts}
    assert ("--json" in options) == (name not in NO_RESULT)


def run(*arguments):
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)  # one object, and nothing else


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_does_not_have_become_null(capsys, number):
    print_json("x", {"a": [1.5, (number, {"b": number})], "path": Path("a/b"), "none": None, "yes": True})
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert found == {
        "schema": "tokfilter/x",
        "version": 1,
        "a": [1.5, [None, {"b": None}]],
        "path": "a/b",
        "none": None,
        "yes": True,
    }


@pytest.mark.parametrize(
    ("schema", "arguments"),
    [
        ("inspection", ("inspect", "BUNDLE")),
        ("inspection", ("inspect", "EXPORT")),
        ("inspection", ("inspect", "EXPORT/model.onnx")),
        ("verification", ("verify", "EXPORT")),
        ("doctor", ("doctor",)),
        ("prediction", ("predict", "EXPORT", "IMAGE")),
        ("pack", ("pack", "EXPORT", "-o", "NEW.tar")),
        ("triton-repo", ("triton-repo", "EXPORT", "NEW")),
        ("deepstream", ("deepstream", "EXPORT", "NEW")),
        ("report-files", ("report", "--bundle", "BUNDLE", "-o", "NEW.html")),
    ],
)
def test_the_object_has_schema_and_version(bundle_file, export_directory, tmp_path, schema, arguments):
    from PIL import Image

    Image.new("RGB", (40, 40), "red").save(tmp_path / "red.png")
    places = {"BUNDLE": bundle_file, "EXPORT": export_directory, "IMAGE": tmp_path / "red.png", "NEW": tmp_path / "new"}
    for word, place in places.items():
        arguments = [argument.replace(word, str(place)) for argument in arguments]
    found = run(*arguments, "--json")
    assert found["schema"] == f"tokfilter/{schema}" and isinstance(found["version"], int)
    assert len(found) > 2


def test_paths_are_text_and_other_objects_an_error(tmp_path, capsys):
    print_json("thing", {"path": tmp_path, "version": 2})
    assert json.loads(capsys.readouterr().out) == {"schema": "tokfilter/thing", "version": 2, "path": str(tmp_path)}
    with pytest.raises(TypeError, match="set is not JSON serializable"):
        print_json("thing", {"value": {1}})
