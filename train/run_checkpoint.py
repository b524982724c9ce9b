"""Checkpoints of a stage: weights, optimiser and losses in one file, written whole or not at all, with a checksum."""

from pathlib import Path
from typing import Any

from tokfilter.artifacts.torch_file import read_torch_file, save_torch_file
from tokfilter.errors import DataError
from tokfilter.train.checksums import content_sum

__all__ = ["load_plain", "restored", "save_run"]


def save_run(path: Path, identity: str, losses: list[float], parts: dict[str, Any]) -> None:
    """Write a checkpoint. parts: what has ``state_dict``, by its name in the file. Raises OSError."""
    content = {"identity": identity, "losses": losses, **{name: part.state_dict() for name, part in parts.items()}}
    save_torch_file({**content, "sha256": content_sum(content)}, path)


def restored(path: Path, identity: str, parts: dict[str, Any]) -> list[float]:
    """Load a checkpoint into ``parts``. Returns the losses of the steps that are done; none without a checkpoint.

    Raises DataError for a checkpoint of another identity, and for a damaged one.
    """
    if not path.is_file():
        return []
    content = load_plain(path)
    if str(content.get("identity")) != identity:
        raise DataError(
            f"{path} belongs to a run with other data, settings or start weights, of another model or version. Run "
            "without --resume to start again, or give another run directory."
        )
    expected = content.pop("sha256", None)  # older versions wrote none
    if expected is not None:
        try:
            found = content_sum(content)
        except ValueError as error:
            raise DataError(f"{path} is damaged: {error}. Delete it, and run again.") from error
        if str(expected) != found:
            raise DataError(f"{path} is damaged: its content has another checksum. Delete it, and run again.")
    try:
        for name, part in parts.items():
            part.load_state_dict(content[name])
        losses: list[float] = content["losses"]
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} does not fit this run: {str(error)[:200]}. Delete it, and run again.") from error
    return losses


def load_plain(path: Path) -> dict[str, Any]:
    """Read a dict of tensors and plain values that torch.save wrote, without unpickling. Raises DataError."""
    try:
        content = read_torch_file(path)
    except ValueError as error:
        raise DataError(
            f"{path} is damaged, or holds more than tensors and plain values ({error}); tokfilter never unpickles."
        ) from error
    if not isinstance(content, dict):
        raise DataError(f"{path} must hold a dict of named tensors, got {type(content).__name__}.")
    return content
