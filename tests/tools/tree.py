"""Small trees of text files, such as a part of /sys."""

from collections.abc import Mapping
from pathlib import Path


def write_tree(root: Path, files: Mapping[str, object]) -> Path:
    """Write each value as one line to its path below ``root``, which is returned."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root
