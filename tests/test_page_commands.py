"""Commands and links of README and the pages in docs: they parse, their targets exist, their extras are named."""

import re
import shutil
from importlib.util import find_spec

import click
import pytest
from page_commands import Line, lines_of, spans_of
from paths import ROOT

import tokfilter
from tokfilter import cli as module
from tokfilter.artifacts.extras import extras

PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "kernels" / "csrc" / "plugin" / "README.md",
    ROOT / "runtime" / "cpp" / "README.md",
]
NAMING = [ROOT / "README.md", ROOT / "docs" / "serving.md", ROOT / "docs" / "service.md"]
"""Pages that name the extra of each command that they show."""


def tokfilter_arguments(line: Line) -> list[str] | None:
    """The arguments of a command of tokfilter; None for another program."""
    words = line.words
    if words[0].removeprefix(".venv/bin/") == "tokfilter":
        return words[1:]
    return words[3:] if words[1:3] == ["-m", "tokfilter.cli"] else None


def parse(group: click.Group, arguments: list[str]) -> None:
    """Parse as the program does, without running anything. Raises click.UsageError."""
    with group.make_context("tokfilter", list(arguments)) as context:
        name, command, rest = group.resolve_command(context, [*context._protected_args, *context.args])
        assert command is not None
        if isinstance(command, click.Group):
            parse(command, rest)
        else:
            command.make_context(name, rest, parent=context)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_a_page_parses_and_names_what_exists(page):
    from tokfilter.benchmarks.__main__ import cli as benchmarks

    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in lines_of(page):
        words = line.words
        try:
            if (arguments := tokfilter_arguments(line)) is not None:
                parse(module.cli, arguments)
            elif words[0] == "make":
                assert words[1] in targets
            elif words[1:3] == ["-m", "tokfilter.benchmarks"]:
                parse(benchmarks, words[3:])
            elif words[1] == "-m":
                assert find_spec(words[2]) is not None
        except (click.ClickException, click.exceptions.Exit, AssertionError) as error:
            if isinstance(error, click.exceptions.Exit) and error.exit_code == 0:
                continue  # --help and --version
            reason = error.format_message() if isinstance(error, click.ClickException) else str(error)
            pytest.fail(f"{page.name}: `{line.text}` does not run as it is written: {reason}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_inside_sentences_name_verbs_and_options_that_exist(page):
    for words in spans_of(page):
        command = module.cli.get_command(click.Context(module.cli), words[0])
        assert command is not None, f"{page.name} names `tokfilter {words[0]}`"
        if isinstance(command, click.Group) and len(words) > 1:
            command = command.commands[words[1]]
        options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        named = {word.split("=")[0] for word in words if word.startswith("--")} - {"--help"}
        assert named <= options, f"{page.name}: `tokfilter {' '.join(words)}` has options that do not exist"


@pytest.mark.parametrize(
    "line", ["eval", "eval a b --kep 0.5", "exprot a -o b", "plugin bild", "tune out --latency-ms x"]
)
def test_a_command_that_does_not_run_is_found(line):
    with pytest.raises(click.UsageError):
        parse(module.cli, line.split())


def test_the_pages_show_commands():
    shown = [arguments[0] for line in lines_of(ROOT / "README.md") if (arguments := tokfilter_arguments(line))]
    assert {"train", "eval", "predict", "export", "bench", "tune", "pack", "serve", "doctor"} <= set(shown)
    assert len(lines_of(ROOT / "docs" / "serving.md")) >= 6 and len(lines_of(ROOT / "docs" / "service.md")) >= 2


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_a_file(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links {target}, which does not exist"
    for name in re.findall(r"python3? -m (examples[\w.]*)", text):
        pytest.fail(f"{page.name} names {name}, which is in no wheel")


def needed(arguments: list[str]) -> set[str]:
    """Extras that a command needs."""
    found = (
        {module._EXTRAS.get(arguments[0], "runtime")} if arguments[0] not in ("doctor", "plugin", "inspect") else set()
    )
    if "openvino" in arguments:
        found.add("openvino")
    return {extra for item in found for extra in item.split(",")} | ({"--trt", "--rtx"} & set(arguments))


@pytest.mark.parametrize("page", NAMING, ids=lambda page: page.name)
def test_a_page_names_the_extras_before_the_command_that_needs_them(page):
    for line in lines_of(page):
        if (arguments := tokfilter_arguments(line)) is None:
            continue
        named = {name for text in re.findall(r"\[([a-z,-]+)\]", line.before) for name in text.split(",")} & set(
            extras()
        )
        installed = set().union(*(extras()[name] for name in named))
        for extra in {option.removeprefix("--") for option in needed(arguments)}:
            assert extras()[extra] <= installed, (
                f"{page.name}: `{line.text}` needs tokfilter[{extra}], not named before"
            )


def test_the_names_in_readme_python_are_public():
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    used = {name for block in blocks for name in re.findall(r"tokfilter\.(\w+)\(", block)}
    used |= {name for block in blocks for name in re.findall(r"^from tokfilter import (\w+)$", block, re.MULTILINE)}
    assert {"patch", "fit", "export_model", "open_session"} <= used <= set(tokfilter.__all__)


@pytest.mark.slow
def test_quick_commands_of_readme_run_as_they_are_written(tmp_path, monkeypatch, bundle_file, export_directory):
    """In a folder with the files that README names: model.pt, out/, images/test and photo.jpg."""
    import numpy as np
    from click.testing import CliRunner
    from PIL import Image

    shutil.copy(bundle_file, tmp_path / "model.pt")
    shutil.copytree(export_directory, tmp_path / "out")
    generator = np.random.default_rng(0)
    for name in ("ant", "bee", "cat", "dog", "eel"):
        folder = tmp_path / "images" / "test" / name
        folder.mkdir(parents=True)
        Image.fromarray(generator.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / "0.png")
    shutil.copy(tmp_path / "images" / "test" / "ant" / "0.png", tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    quick, done = ("doctor", "eval", "predict", "pack", "triton-repo", "deepstream"), []
    for line in lines_of(ROOT / "README.md"):
        arguments = tokfilter_arguments(line)
        if arguments and arguments[0] in quick:
            result = CliRunner().invoke(module.cli, arguments)
            assert result.exit_code == 0, f"{line.text}: {result.output}{result.exception!r}"
            done.append(arguments[0])
    assert set(quick) <= set(done)
    assert {"kept.png", "edge.tar", "repository", "nvinfer"} <= {path.name for path in tmp_path.iterdir()}
