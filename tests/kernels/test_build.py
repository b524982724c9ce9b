"""Building the plugin: search for tools and headers, error messages. test_plugin.py runs the real build."""

import re
import shutil
import sys
from pathlib import Path

import pytest
from paths import ROOT

from tokfilter.errors import EngineError, MissingDependencyError
from tokfilter.kernels import build


def header_folder(folder: Path, version: str = "10.14") -> Path:
    """Headers that contain only a version."""
    folder.mkdir(parents=True)
    major, minor = version.split(".")
    (folder / "NvInferRuntime.h").touch()
    (folder / "NvInferVersion.h").write_text(
        f"#define NV_TENSORRT_MAJOR {major} //!< major\n#define NV_TENSORRT_MINOR {minor} //!< minor\n"
    )
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokfilter"


@pytest.fixture
def bare(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without TensorRT and without the header wheel."""
    monkeypatch.setattr(build, "_SYSTEM_HEADERS", ())
    monkeypatch.setattr(build, "_wheel_headers", lambda: [cache / "wheel"])


def test_the_cache_is_in_the_users_folder(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert build.cache_directory() == cache
    assert build.plugin_directory().parent == cache
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert build.cache_directory() == Path.home() / ".cache" / "tokfilter"


def test_headers_in_an_sdk_or_in_the_folder_itself(tmp_path: Path) -> None:
    headers = header_folder(tmp_path / "sdk" / "include")
    assert build.find_headers(tmp_path / "sdk") == headers
    assert build.find_headers(headers) == headers


def test_headers_of_the_system_come_before_the_wheel(
    bare: None, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = header_folder(cache / "wheel")
    assert build.find_headers() == wheel
    system = header_folder(tmp_path / "system")
    monkeypatch.setattr(build, "_SYSTEM_HEADERS", (system,))
    assert build.find_headers() == system


def test_the_error_for_missing_headers_lists_folders_and_a_remedy(bare: None, tmp_path: Path) -> None:
    with pytest.raises(MissingDependencyError, match=r"NvInferRuntime\.h.*wheel.*--fetch-headers"):
        build.find_headers()
    with pytest.raises(MissingDependencyError, match=r"nowhere, .*nowhere/include"):
        build.find_headers(tmp_path / "nowhere")


def test_headers_that_pip_cannot_fetch(bare: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(MissingDependencyError, match=r"pip could not fetch kernel-lens==2\.0\.1"):
        build.fetch_headers()


def test_fetched_headers_are_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # pip would fail if it were called
    kept = header_folder(cache / "kernel-lens-2.0.1" / "kernel_lens" / "include" / "tensorrt")
    assert build.fetch_headers() == kept


def test_headers_are_fetched_only_on_demand_and_where_there_are_none(
    bare: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "fetch_headers", lambda: tmp_path / "fetched")
    assert build.find_headers(fetch=True) == tmp_path / "fetched"
    own = header_folder(tmp_path / "own")
    assert build.find_headers(own, fetch=True) == own
    with pytest.raises(MissingDependencyError, match="nowhere"):
        build.find_headers(tmp_path / "nowhere", fetch=True)


def test_path_of_a_plugin_that_is_not_built(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingDependencyError, match=r"libtokfilter_plugin\.so.*tokfilter plugin build"):
        build.plugin_path()
    (tmp_path / "libtokfilter_plugin.so").touch()
    assert build.plugin_path(tmp_path) == tmp_path / "libtokfilter_plugin.so"


def test_path_of_the_library_that_registers_itself(cache: Path, tmp_path: Path) -> None:
    wanted = r"No self-registering plugin library at .*plugin_static\.so\. Build it where TensorRT is: tokfilter plugin"
    with pytest.raises(MissingDependencyError, match=wanted):
        build.self_registering_path()
    (tmp_path / "libtokfilter_plugin.so").touch()  # the other library is not returned instead
    with pytest.raises(MissingDependencyError, match=wanted):
        build.self_registering_path(tmp_path)
    (tmp_path / "libtokfilter_plugin_static.so").touch()
    assert build.self_registering_path(tmp_path) == tmp_path / "libtokfilter_plugin_static.so"


def test_a_library_built_from_other_sources_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "kernels"
    shutil.copytree(ROOT / "kernels" / "csrc", copy / "csrc")
    shutil.copy(ROOT / "kernels" / "CMakeLists.txt", copy)
    here = build.plugin_directory()
    monkeypatch.setattr(build, "_SOURCE", copy)
    assert build.plugin_directory() == here
    with (copy / "csrc" / "plugin" / "README.md").open("a") as readme:
        readme.write("more words\n")
    assert build.plugin_directory() == here
    with (copy / "csrc" / "token_select.h").open("a") as source:
        source.write("// a change\n")
    assert build.plugin_directory() != here


def test_tools_are_found_beside_python_on_path_or_in_given_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "there" / "wanted-tool"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    assert build.find_tool("wanted-tool", str(tool), hint="") == str(tool)
    with pytest.raises(MissingDependencyError, match=r"needs wanted-tool, .*PATH\. Install it so\."):
        build.find_tool("wanted-tool", hint="Install it so.")
    monkeypatch.setenv("PATH", str(tool.parent))
    assert build.find_tool("wanted-tool", hint="") == str(tool)


def test_headers_without_plugin_version_3_are_refused(tmp_path: Path) -> None:
    headers = header_folder(tmp_path / "old", "8.6")
    directory = tmp_path / "build"
    with pytest.raises(EngineError, match=r"(?s)build\.log.*TensorRT 8\.6.*10\.3 or\s+later\s+is\s+required"):
        build.build_plugin(directory, headers, options=["-DTOKFILTER_PLUGIN=OFF"])
    assert "TensorRT headers 8.6" in (directory / "build.log").read_text()


@pytest.mark.parametrize(
    ("output", "shown"),
    [
        ("[1/9] x.o\nx.h:1: error: broken\n" + "x.cpp: follows\n" * 99, "x.h:1: error: broken\nx.cpp: follows"),
        ("quiet\n" * 99 + "Killed", "quiet\nKilled"),
    ],
)
def test_a_failed_step_shows_its_first_error_or_its_end(output: str, shown: str, tmp_path: Path) -> None:
    program = f"import sys; print({output!r}); sys.exit(2)"
    with pytest.raises(EngineError, match=re.escape(shown)) as raised:
        build._run([sys.executable, "-c", program], tmp_path / "build.log")
    assert len(str(raised.value).splitlines()) < 20
    assert output in (tmp_path / "build.log").read_text()
