"""A build folder that CMake configured for other sources is configured anew; another project's is left alone."""

import re
import subprocess
from pathlib import Path

import pytest

from tokfilter.errors import EngineError
from tokfilter.kernels.build import find_tool
from tokfilter.kernels.cmake_cache import configure_anew


def project(folder: Path, name: str = "tokfilter") -> Path:
    folder.mkdir()
    (folder / "CMakeLists.txt").write_text(f"cmake_minimum_required(VERSION 3.22)\nproject({name} LANGUAGES NONE)\n")
    return folder


def configure(source: Path, build: Path, generator: str) -> subprocess.CompletedProcess[str]:
    cmake = find_tool("cmake", hint="pip install cmake")
    command = [cmake, "-S", source, "-B", build, "-G", generator]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A folder that was configured for the project in tmp_path/first with Unix Makefiles."""
    assert configure(project(tmp_path / "first"), tmp_path / "build", "Unix Makefiles").returncode == 0
    (tmp_path / "build" / "kept.txt").touch()
    return tmp_path / "build"


def test_a_cache_that_fits_is_kept(built: Path, tmp_path: Path) -> None:
    before = (built / "CMakeCache.txt").read_bytes()
    for generator in ("Unix Makefiles", None):
        configure_anew(built, tmp_path / "first", generator)
    assert (built / "CMakeCache.txt").read_bytes() == before


@pytest.mark.parametrize("change", ["source", "generator", "moved"])
def test_what_cmake_refuses_is_configured_anew(change: str, built: Path, tmp_path: Path) -> None:
    source = project(tmp_path / "second") if change == "source" else tmp_path / "first"
    generator = "Ninja" if change == "generator" else "Unix Makefiles"
    if change == "moved":
        built = built.rename(tmp_path / "moved")
    refused = configure(source, built, generator)
    assert refused.returncode != 0 and re.search("cache|generator", refused.stderr, re.IGNORECASE)
    configure_anew(built, source, generator)
    assert configure(source, built, generator).returncode == 0
    assert (built / "kept.txt").is_file()


@pytest.mark.parametrize("text", ["", "cut off: CMAKE_HOME_DIREC", "\0\xff" * 50])
def test_a_damaged_cache_is_removed(text: str, built: Path, tmp_path: Path) -> None:
    (built / "CMakeCache.txt").write_text(text, encoding="latin-1")
    configure_anew(built, tmp_path / "first", None)
    assert not (built / "CMakeCache.txt").exists() and not (built / "CMakeFiles").exists()


def test_the_folder_of_another_project_is_refused_and_left_as_it_is(built: Path, tmp_path: Path) -> None:
    other = project(tmp_path / "other", "theirs")
    assert configure(other, tmp_path / "theirs", "Unix Makefiles").returncode == 0
    with pytest.raises(EngineError, match=rf"of another CMake project, theirs in {other}\. Name another folder\."):
        configure_anew(tmp_path / "theirs", tmp_path / "first", None)
    assert (tmp_path / "theirs" / "CMakeCache.txt").is_file()


def test_a_folder_without_a_cache_needs_nothing(tmp_path: Path) -> None:
    configure_anew(tmp_path / "none", tmp_path, None)
    assert not (tmp_path / "none").exists()
