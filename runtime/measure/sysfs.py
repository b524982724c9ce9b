"""Small text files of Linux (/proc, /sys)."""

from pathlib import Path

__all__ = ["number_from_file", "text_from_file"]


def text_from_file(path: Path) -> str | None:
    """The text without surrounding white space and zero bytes; None where it is empty or cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip().strip("\x00") or None
    except OSError:
        return None


def number_from_file(path: Path) -> float | None:
    """The number in a file; None where there is none."""
    text = text_from_file(path)
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
