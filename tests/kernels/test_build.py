"""Building the plugin: search for tools and headers, error messages. test_plugin.py runs the real build."""

import hashlib
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from paths import ROOT

from tokfilter.errors import EngineError, MissingDependencyError
from tokfilter.kernels import build, tensorrt_headers


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
    monkeypatch.delenv("TENSORRT_INCLUDE_DIR", raising=False)
    monkeypatch.setattr(tensorrt_headers, "_SYSTEM_HEADERS", ())
    monkeypatch.setattr(tensorrt_headers, "_DISTRIBUTIONS", ())
    monkeypatch.setattr(tensorrt_headers, "_wheel_headers", lambda: [cache / "wheel"])


def test_the_cache_is_in_the_users_folder(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert build.cache_directory() == cache
    assert build.plugin_directory("10.14").parent == cache
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
    monkeypatch.setattr(tensorrt_headers, "_SYSTEM_HEADERS", (system,))
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


def wheel_of_headers(folder: Path) -> str:
    """A wheel with the name and the layout of the pinned one; returns its SHA-256 sum."""
    folder.mkdir()
    wheel, info = folder / "kernel_lens-2.0.1-py3-none-any.whl", "kernel_lens-2.0.1.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("kernel_lens/include/tensorrt/NvInferRuntime.h", "")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: kernel-lens\nVersion: 2.0.1\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


def test_headers_are_taken_from_the_wheel_with_the_pinned_sum_only(
    bare: None, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = wheel_of_headers(tmp_path / "index")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    (cache / "kernel-lens-2.0.1").mkdir(parents=True)  # left by a pip that was killed
    with pytest.raises(MissingDependencyError, match=rf"could not fetch.*HASH.*Got +{digest}.*--tensorrt DIR"):
        build.fetch_headers()
    assert [path.name for path in cache.iterdir()] == ["kernel-lens-2.0.1"], "nothing is left of the other wheel"
    monkeypatch.setattr(tensorrt_headers, "_HEADER_SHA256", digest)
    assert (build.fetch_headers() / "NvInferRuntime.h").is_file()
    assert [path.name for path in cache.iterdir()] == ["kernel-lens-2.0.1"]


def test_fetched_headers_are_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # pip would fail if it were called
    kept = header_folder(cache / "kernel-lens-2.0.1" / "kernel_lens" / "include" / "tensorrt")
    assert build.fetch_headers() == kept


def test_headers_are_fetched_only_on_demand_and_where_there_are_none(
    bare: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_headers, "fetch_headers", lambda: tmp_path / "fetched")
    assert build.find_headers(fetch=True) == tmp_path / "fetched"
    own = header_folder(tmp_path / "own")
    assert build.find_headers(own, fetch=True) == own
    with pytest.raises(MissingDependencyError, match="nowhere"):
        build.find_headers(tmp_path / "nowhere", fetch=True)


def built_for(version: str, name: str = "libtokfilter_plugin.so") -> Path:
    """An empty library in the build folder for this version."""
    path = build.plugin_directory(version) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_path_of_a_plugin_that_is_not_built(bare: None, tmp_path: Path) -> None:
    with pytest.raises(MissingDependencyError, match=r"libtokfilter_plugin\.so.*tokfilter plugin build"):
        build.plugin_path()
    with pytest.raises(MissingDependencyError, match=r"No plugin library for TensorRT 8\.6\.2 at .*-trt8\.6/lib"):
        build.plugin_path(version="8.6.2")
    (tmp_path / "libtokfilter_plugin.so").touch()
    assert build.plugin_path(tmp_path) == tmp_path / "libtokfilter_plugin.so"


def test_each_series_of_tensorrt_has_its_own_library(bare: None) -> None:
    paths = {version: built_for(version) for version in ("8.6", "10.16", "11.1")}
    assert len({path.parent for path in paths.values()}) == 3
    for loads, built in [("8.6.0", "8.6"), ("8.6.2.3", "8.6"), ("10.3.0", "10.16"), ("11.4.0.106", "11.1")]:
        assert build.plugin_path(version=loads) == paths[built]
    paths["11.1"].unlink()
    assert build.plugin_path(version="11.4") == paths["10.16"], "one library for the registries of 10.x and 11.x"
    paths["10.16"].unlink()
    with pytest.raises(MissingDependencyError, match=r"for TensorRT 11\.4 at"):
        build.plugin_path(version="11.4")  # the library for 8.6 is not returned instead


def test_the_installed_tensorrt_chooses_the_library(bare: None, monkeypatch: pytest.MonkeyPatch) -> None:
    old = built_for("8.6")
    assert build.plugin_path() == old, "the only one that is built"
    new = built_for("10.3")
    with pytest.raises(MissingDependencyError, match=r"for TensorRT 10, 8\.6 are built.*--for 8\.6"):
        build.plugin_path()
    monkeypatch.setattr(build, "installed_version", lambda: "10.16.1.11")
    assert build.plugin_path() == new
    monkeypatch.setattr(build, "installed_version", lambda: "8.6.2")
    assert build.plugin_path() == old


def test_path_of_the_library_that_registers_itself(bare: None, tmp_path: Path) -> None:
    wanted = (
        r"No self-registering plugin library.* at .*plugin_static\.so\. Build it where TensorRT is: tokfilter plugin"
    )
    with pytest.raises(MissingDependencyError, match=wanted):
        build.self_registering_path()
    (tmp_path / "libtokfilter_plugin.so").touch()  # the other library is not returned instead
    with pytest.raises(MissingDependencyError, match=wanted):
        build.self_registering_path(tmp_path)
    (tmp_path / "libtokfilter_plugin_static.so").touch()
    assert build.self_registering_path(tmp_path) == tmp_path / "libtokfilter_plugin_static.so"
    ten = built_for("10.3", "libtokfilter_plugin_static.so")
    assert build.self_registering_path(version="10.16") == ten
    for other in ("8.5", "8.6", "11.0"):  # it links libnvinfer of its version
        with pytest.raises(MissingDependencyError, match=wanted):
            build.self_registering_path(version=other)


def test_a_library_is_used_by_equal_sources_only(bare: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "kernels"
    shutil.copytree(ROOT / "kernels" / "csrc", copy / "csrc")
    shutil.copy(ROOT / "kernels" / "CMakeLists.txt", copy)
    here = build.plugin_directory("10.14")
    built = built_for("10.14")
    monkeypatch.setattr(build, "_SOURCE", copy)
    assert build.plugin_directory("10.14") != here, "CMake refuses a folder of sources in another place"
    assert build.plugin_path(version="10.14") == built, "equal sources in another place give the same library"
    with (copy / "csrc" / "plugin" / "README.md").open("a") as readme:
        readme.write("more words\n")
    assert build.plugin_path(version="10.14") == built
    own = built_for("10.14")
    assert own != built and build.plugin_path(version="10.14") == own
    with (copy / "csrc" / "token_select.h").open("a") as source:
        source.write("// a change\n")
    with pytest.raises(MissingDependencyError, match=r"No plugin library for TensorRT 10\.14"):
        build.plugin_path(version="10.14")


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


UNSUPPORTED = ["7.2", "8.4", "9.0", "9.3", "10.0", "10.2"]


@pytest.mark.parametrize("version", UNSUPPORTED)
def test_a_tensorrt_without_a_plugin_is_refused_before_anything_is_written(version: str, tmp_path: Path) -> None:
    headers = header_folder(tmp_path / "old", version)
    with pytest.raises(EngineError, match=rf"8\.5, 8\.6 or 10\.3 and later.*got {re.escape(version)}\..*--no-plugin"):
        build.build_plugin(tmp_path / "build", headers)
    assert not (tmp_path / "build").exists()


@pytest.mark.parametrize("version", UNSUPPORTED)
def test_cmake_refuses_the_same_versions(version: str, tmp_path: Path) -> None:
    headers = header_folder(tmp_path / "old", version)
    command = ["-S", str(ROOT / "kernels"), "-B", str(tmp_path / "build"), "-DTOKFILTER_PLUGIN=OFF"]
    cmake = build.find_tool("cmake", hint="pip install cmake")
    result = subprocess.run(
        [cmake, *command, f"-DTENSORRT_INCLUDE_DIR={headers}"], capture_output=True, text=True, check=False
    )
    assert result.returncode != 0
    assert f"TensorRT 8.5, 8.6 and 10.3 or later; the headers in {headers} are of {version}." in " ".join(
        result.stderr.split()
    )


def test_headers_without_a_version_are_refused(tmp_path: Path) -> None:
    headers = header_folder(tmp_path / "old")
    (headers / "NvInferVersion.h").write_text("#define NV_TENSORRT_MAJOR\n")
    with pytest.raises(EngineError, match=r"NvInferVersion\.h names no TensorRT version"):
        build.build_plugin(tmp_path / "build", headers)


def test_a_build_that_gives_no_library_for_8_5_names_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_run", lambda *_: None)  # as CMake does without libnvinfer: nothing to build
    monkeypatch.setattr(build, "_found", lambda *_: [])
    headers = header_folder(tmp_path / "headers", "8.5")
    for name in ("libtokfilter_plugin.so", "libtokfilter_plugin_static.so"):
        (tmp_path / name).touch()  # of an earlier build
    with pytest.raises(MissingDependencyError, match=r"TensorRT 8\.5 loads no plugin libraries.*links libnvinfer"):
        build.build_plugin(tmp_path, headers)


@pytest.mark.parametrize(("project", "refused"), [("tokfilter", False), ("theirs", True)])
def test_a_folder_of_another_checkout_is_built_in_and_one_of_another_project_is_not(
    project: str, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "build" / "CMakeCache.txt"
    cache.parent.mkdir()
    cache.write_text(f"CMAKE_HOME_DIRECTORY:INTERNAL=/first/kernels\nCMAKE_PROJECT_NAME:STATIC={project}\n")
    (cache.parent / "build.log").write_text("of the first")
    monkeypatch.setattr(build, "_run", lambda *_: (cache.parent / "libtokfilter_plugin.so").touch())
    monkeypatch.setattr(build, "_found", lambda *_: [])
    headers = header_folder(tmp_path / "headers")
    if refused:
        with pytest.raises(EngineError, match=r"another CMake project, theirs in /first/kernels"):
            build.build_plugin(cache.parent, headers)
        assert cache.is_file() and (cache.parent / "build.log").is_file()
    else:
        assert build.build_plugin(cache.parent, headers).dynamic is not None
        assert not cache.exists()


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
