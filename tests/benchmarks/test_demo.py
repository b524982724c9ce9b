"""The demo's page for the browser, which needs a package from npm, and what the command prints of it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from paths import TESTS

from tokfilter.benchmarks import demo
from tokfilter.cli import cli
from tokfilter.errors import DataError, MissingDependencyError


def failing(error):
    def write_page(*_):
        raise error

    return write_page


def test_the_page_is_made_of_the_export_with_pictures_of_the_test_set(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(demo, "write_page", lambda *arguments: calls.append(arguments))
    assert demo._write_page(tmp_path) is None
    assert calls == [(tmp_path / "export", tmp_path / "page", tmp_path / "data" / "test")]


def test_a_machine_without_a_network_gets_the_reason(monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "write_page", failing(MissingDependencyError("no network")))
    assert demo._write_page(tmp_path) == "no network"


def test_any_other_failure_is_not_hidden(monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "write_page", failing(DataError("damaged")))
    with pytest.raises(DataError, match="damaged"):
        demo._write_page(tmp_path)


@pytest.mark.parametrize(
    ("no_page", "expected"),
    [
        (None, "In the browser: python -m http.server --directory demo/page 8000 , then open http://localhost:8000"),
        ("no network", "No page for the browser: no network"),
    ],
)
def test_the_command_says_how_the_page_is_opened(monkeypatch, no_page, expected):
    accuracy, bench = (json.loads((TESTS / "data" / f"{name}.json").read_text()) for name in ("accuracy", "bench"))
    folder = Path("demo")
    done = demo.Demo(folder, folder / "report.html", {"report": 1.0}, accuracy, bench, bench, no_page)
    monkeypatch.setattr(demo, "run_demo", lambda *_: done)
    result = CliRunner().invoke(cli, ["demo"])
    assert result.exit_code == 0, result.output
    assert expected in result.output.splitlines()
