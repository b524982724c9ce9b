"""Changes of a manifest by several commands at once: `engine` and `tune` read it minutes before they write."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from tokfilter.artifacts.locks import only_writer
from tokfilter.artifacts.manifest import Manifest, load_manifest, save_manifest
from tokfilter.errors import DataError

__all__ = ["change_manifest"]

_WAIT_S: Final = 10.0
"""A change takes milliseconds."""


def change_manifest(directory: str | Path, known: Manifest, change: Callable[[Manifest], Manifest]) -> None:
    """Change the manifest as it is now: another command may have changed it since ``known`` was read.

    change: called while no other process changes it
    Raises DataError where the directory was exported again since, or another process does not finish.
    """
    directory = Path(directory)
    with only_writer(directory, "run this command again when it has finished.", DataError, wait_s=_WAIT_S):
        present = load_manifest(directory)
        if (present.created, present.source, present.model) != (known.created, known.source, known.model):
            raise DataError(f"{directory} was exported again while this command ran: run it again for the new export.")
        save_manifest(directory, change(present))
