"""TensorRT's headers: where they are looked for, their version, and the plugin class of each version."""

from pathlib import Path

import pytest

from tokfilter.errors import EngineError, MissingDependencyError
from tokfilter.kernels import tensorrt_headers
from tokfilter.kernels.tensorrt_headers import find_headers, plugin_class, series, version_of_headers

PLAIN = "#define NV_TENSORRT_MAJOR 8 //!< TensorRT major version.\n#define NV_TENSORRT_MINOR 6 //!< minor\n"
LATER = (
    "#define TRT_MAJOR_ENTERPRISE 10\n#define TRT_MINOR_ENTERPRISE 16\n"
    "#define NV_TENSORRT_MAJOR TRT_MAJOR_ENTERPRISE //!< TensorRT major version.\n"
    "#define NV_TENSORRT_LWS_MAJOR 0\n#define NV_TENSORRT_LWS_MINOR 0\n"
)


def header_folder(folder: Path, text: str = PLAIN) -> Path:
    folder.mkdir(parents=True)
    (folder / "NvInferRuntime.h").touch()
    (folder / "NvInferVersion.h").write_text(text)
    return folder


@pytest.mark.parametrize(("text", "version"), [(PLAIN, "8.6"), (LATER, "10.16")])
def test_the_version_is_read_as_nvidia_writes_it(text: str, version: str, tmp_path: Path) -> None:
    assert version_of_headers(header_folder(tmp_path / "headers", text)) == version


@pytest.mark.parametrize("text", ["", "#define NV_TENSORRT_MAJOR 8\n", "#define NV_TENSORRT_MINOR 6\n", "\xff\xfe"])
def test_a_version_that_is_not_there_is_an_error(text: str, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"headers/NvInferVersion\.h names no TensorRT version"):
        version_of_headers(header_folder(tmp_path / "headers", text))


@pytest.mark.parametrize(
    ("version", "interface"),
    [
        ("8.5", "IPluginV2DynamicExt"),
        ("8.5.2.2", "IPluginV2DynamicExt"),
        ("8.6.0", "IPluginV2DynamicExt"),
        ("10.3", "IPluginV3"),
        ("10.16.1.11", "IPluginV3"),
        ("11.4.0", "IPluginV3"),
    ],
)
def test_the_version_chooses_the_class(version: str, interface: str) -> None:
    assert plugin_class(version) == interface


@pytest.mark.parametrize("version", ["7.2.3", "8.4.3", "9.0", "9.3.0", "10.0.1", "10.2.0"])
def test_versions_without_a_plugin_are_refused_with_the_remedy(version: str) -> None:
    with pytest.raises(
        EngineError, match=rf"8\.5, 8\.6 or 10\.3 and later for the plugin, got {version}\..*--no-plugin"
    ):
        plugin_class(version)


@pytest.mark.parametrize("version", ["", "8", "ten", "../8.6"])
def test_what_is_no_version_is_refused(version: str) -> None:
    with pytest.raises(EngineError, match=r"expected a TensorRT version such as 8\.6 or 10\.16"):
        series(version)


def test_versions_that_share_a_library() -> None:
    names = {
        version: series(version) for version in ("8.5.1", "8.5.3", "8.6.0", "8.6.2", "10.3", "10.16", "11.0", "11.4")
    }
    assert list(names.values()) == ["8.5", "8.5", "8.6", "8.6", "10", "10", "11", "11"]


def test_the_environment_variable_names_the_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named, own = header_folder(tmp_path / "named"), header_folder(tmp_path / "own" / "include")
    monkeypatch.setenv("TENSORRT_INCLUDE_DIR", str(named))
    assert find_headers() == named
    assert find_headers(tmp_path / "own") == own, "an argument comes before the variable"
    monkeypatch.setenv("TENSORRT_INCLUDE_DIR", str(tmp_path / "empty"))
    with pytest.raises(MissingDependencyError, match=r"looked in .*empty \(TENSORRT_INCLUDE_DIR\)"):
        find_headers(fetch=True)  # nothing else is taken instead, nor fetched


def test_the_installed_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_headers, "_DISTRIBUTIONS", ("no-such-distribution-here", "pytest"))
    assert tensorrt_headers.installed_version() == pytest.__version__
    monkeypatch.setattr(tensorrt_headers, "_DISTRIBUTIONS", ())
    monkeypatch.setattr(tensorrt_headers, "_SYSTEM_HEADERS", (tmp_path / "none", header_folder(tmp_path / "system")))
    assert tensorrt_headers.installed_version() == "8.6", "JetPack's headers, where Python has no package"
    monkeypatch.setattr(tensorrt_headers, "_SYSTEM_HEADERS", (tmp_path / "none",))
    assert tensorrt_headers.installed_version() is None
