"""The cache of a CMake build folder: what it was configured for, and its removal where CMake would refuse it."""

import re
import shutil
from pathlib import Path
from typing import Final

from tokfilter.errors import EngineError

__all__ = ["configure_anew"]

_PROJECT: Final = "tokfilter"
_ENTRY: Final = re.compile(r"^(CMAKE_(?:HOME_DIRECTORY|CACHEFILE_DIR|GENERATOR|PROJECT_NAME)):\w+=(.*)$", re.MULTILINE)


def configure_anew(directory: Path, source: Path, generator: str | None) -> None:
    """Remove CMake's cache from a build folder, where it is of sources, a folder or a generator that CMake refuses.

    source: folder of the CMakeLists.txt that will be configured
    generator: CMake's name for it, such as "Ninja"; None keeps the one of the cache
    Raises EngineError where the folder belongs to another project.
    """
    cache = directory / "CMakeCache.txt"
    if not cache.is_file():
        return
    found = dict(_ENTRY.findall(cache.read_text(encoding="utf-8", errors="replace")))
    home, project = found.get("CMAKE_HOME_DIRECTORY", ""), found.get("CMAKE_PROJECT_NAME", _PROJECT)
    if project != _PROJECT:
        raise EngineError(
            f"{directory} is the build folder of another CMake project, {project} in {home}. Name another folder."
        )
    fits = _same(home, source) and _same(found.get("CMAKE_CACHEFILE_DIR", ""), directory)
    if not fits or generator not in (None, found.get("CMAKE_GENERATOR")):
        cache.unlink()
        shutil.rmtree(directory / "CMakeFiles", ignore_errors=True)


def _same(recorded: str, folder: Path) -> bool:
    return bool(recorded) and Path(recorded).resolve() == folder.resolve()
