"""Programs of another processor, for tests that would build their own: wrappers that start them in an emulator."""

from pathlib import Path

import pytest


def emulated(config: pytest.Config, name: str) -> Path | None:
    """The folder ``name`` of wrappers of ``--emulated`` (.ci/arm64 writes them), or None without this option.

    Raises no skip: a folder that is missing is an error of the caller.
    """
    root: Path | None = config.getoption("--emulated")
    if root is None:
        return None
    assert (root / name).is_dir(), f"--emulated {root} has no folder {name}: make arm64"
    return root / name
