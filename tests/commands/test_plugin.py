"""tokfilter plugin: which class was built for which TensorRT, and the library of a version."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from tokfilter.cli import cli
from tokfilter.kernels import build
from tokfilter.kernels.build import PluginBuild

DYNAMIC, STATIC = Path("/b/libtokfilter_plugin.so"), Path("/b/libtokfilter_plugin_static.so")


@pytest.mark.parametrize(
    ("built", "paths", "notes"),
    [
        (
            PluginBuild(Path("/b"), "8.6", "IPluginV2DynamicExt", DYNAMIC, STATIC),
            [DYNAMIC, STATIC],
            ["TensorRT 8.6: plugin class IPluginV2DynamicExt"],
        ),
        (
            PluginBuild(Path("/b"), "10.14", "IPluginV3", DYNAMIC, None),
            [DYNAMIC],
            ["TensorRT 10.14: plugin class IPluginV3", "self-registering library was not built"],
        ),
        (
            PluginBuild(Path("/b"), "8.5", "IPluginV2DynamicExt", None, STATIC),
            [STATIC],
            ["TensorRT 8.5: plugin class IPluginV2DynamicExt"],
        ),
    ],
    ids=lambda value: value.version if isinstance(value, PluginBuild) else "",
)
def test_build_prints_the_libraries_and_the_class(
    built: PluginBuild, paths: list[Path], notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "build_plugin", lambda *_, **__: built)
    result = CliRunner().invoke(cli, ["plugin", "build"])
    assert result.exit_code == 0, result.output
    assert [line.split("  ")[0] for line in result.stdout.splitlines()] == [str(path) for path in paths]
    assert all(note in result.stderr for note in notes)


def test_path_is_that_of_the_version_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for version in ("8.6", "10.3"):
        build.plugin_directory(version).mkdir(parents=True)
        (build.plugin_directory(version) / "libtokfilter_plugin.so").touch()
    for asked, found in [("8.6.2", "8.6"), ("10.16", "10"), ("11.0", "10")]:
        result = CliRunner().invoke(cli, ["plugin", "path", "--for", asked])
        assert result.exit_code == 0, result.output
        assert Path(result.stdout.strip()).parent.name.endswith(f"-trt{found}")


@pytest.mark.parametrize(
    ("asked", "reason"),
    [("8.5", "No plugin library for TensorRT 8.5"), ("9.1", "got 9.1"), ("../..", "such as 8.6 or 10.16")],
)
def test_path_for_a_version_without_a_library_is_an_error(
    asked: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    result = CliRunner().invoke(cli, ["plugin", "path", "--for", asked])
    assert result.exit_code != 0 and reason in result.stderr
    assert "Traceback" not in result.stderr


def test_headers_prints_the_folder_that_cmake_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "NvInferRuntime.h").touch()
    monkeypatch.setenv("TENSORRT_INCLUDE_DIR", str(tmp_path))
    assert CliRunner().invoke(cli, ["plugin", "headers"]).stdout.strip() == str(tmp_path)
    monkeypatch.setenv("TENSORRT_INCLUDE_DIR", str(tmp_path / "none"))
    result = CliRunner().invoke(cli, ["plugin", "headers"])
    assert result.exit_code == 4 and "NvInferRuntime.h" in result.stderr
