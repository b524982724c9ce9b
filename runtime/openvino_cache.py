"""Cache of models that OpenVINO compiled, in the user's cache folder. Several processes may use it at the same time.

OpenVINO's own CACHE_DIR writes files in place, so another process may read half of one. Here a file is written under
a temporary name and renamed, and it starts with the SHA-256 of what follows: a damaged one counts as absent.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tokfilter.artifacts.files import atomic_path, existing_file
from tokfilter.artifacts.limits import MAX_FILE
from tokfilter.errors import DataError

__all__ = ["ModelCache", "cache_folder", "cache_key", "model_cache"]

_MOST_BYTES: Final = 1 << 30
"""Size of all files together; the least recently used go first. One is about as large as the model's weights."""

_DIGEST: Final = 32
_SUFFIX: Final = ".blob"


@dataclass(frozen=True)
class ModelCache:
    """The cache, or the reason why there is none.

    folder: None where it is off
    off: why; empty where it is on
    """

    folder: Path | None
    off: str = ""

    def read(self, key: str) -> bytes | None:
        """The compiled model; None where there is none or its file is damaged."""
        if self.folder is None:
            return None
        path = self.folder / f"{key}{_SUFFIX}"
        try:
            if not path.exists():
                return None
            content = existing_file(path, "a compiled model").read_bytes() if path.stat().st_size <= MAX_FILE else b""
            digest, blob = content[:_DIGEST], content[_DIGEST:]
            if hashlib.sha256(blob).digest() != digest:
                path.unlink(missing_ok=True)
                return None
            os.utime(path)
        except (DataError, OSError):  # a pipe, a folder, a file of holes
            return None
        return blob

    def write(self, key: str, blob: bytes) -> bool:
        """Keep a compiled model, and remove the least recently used above the limit. Returns whether it was written."""
        if self.folder is None:
            return False
        try:
            with atomic_path(self.folder / f"{key}{_SUFFIX}") as part, part.open("wb") as file:
                file.write(hashlib.sha256(blob).digest())
                file.write(blob)
            self._remove_oldest()
        except (DataError, OSError):  # a full disk, a pipe of that name: the model runs all the same
            return False
        return True

    def forget(self, key: str) -> None:
        """Remove a compiled model that OpenVINO does not import."""
        if self.folder is not None:
            with suppress(OSError):
                (self.folder / f"{key}{_SUFFIX}").unlink(missing_ok=True)

    def _remove_oldest(self) -> None:
        assert self.folder is not None
        found = []
        for path in self.folder.glob(f"*{_SUFFIX}"):
            with suppress(OSError):  # another process removed it
                state = path.stat()
                found.append((state.st_mtime, state.st_size, path))
        total = 0
        for place, (_, size, path) in enumerate(sorted(found, reverse=True)):
            total += size
            if place and total > _MOST_BYTES:
                with suppress(OSError):
                    path.unlink(missing_ok=True)


def cache_folder() -> Path:
    """``tokfilter/openvino`` in the user's cache folder ($XDG_CACHE_HOME, else ~/.cache). Raises RuntimeError."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(base) if Path(base).is_absolute() else Path.home() / ".cache"
    return root / "tokfilter" / "openvino"


def model_cache(wanted: bool = True) -> ModelCache:
    """The cache; off where it is not wanted or its folder cannot be written."""
    if not wanted:
        return ModelCache(None, "it was not asked for")
    try:
        folder = cache_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home folder
        return ModelCache(None, f"its folder cannot be made: {error}")
    if not os.access(folder, os.W_OK | os.X_OK):
        return ModelCache(None, f"{folder} is not writable")
    return ModelCache(folder)


def cache_key(content: Any, properties: Mapping[str, Any], engine: str, device: str) -> str:
    """Name of a compiled model: digest of these, of the options, of OpenVINO's version and of the CPU.

    content: digests of the graph and of its external weights
    """
    text = json.dumps(
        [content, {name: str(value) for name, value in properties.items()}, engine, device], sort_keys=True
    )
    return hashlib.sha256(text.encode()).hexdigest()
