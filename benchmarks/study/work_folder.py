"""What a program keeps in its work folder belongs to the settings that the folder names."""

import json
from pathlib import Path
from typing import Any

from tokfilter.errors import DataError
from tokfilter.runtime.measure.record import write_json

__all__ = ["check_work_folder"]


def check_work_folder(folder: Path, settings: Any, name: str = "setting.json") -> None:
    """Record the settings in a new folder; raise DataError for a folder of others.

    settings: what JSON can hold
    """
    path, expected = folder / name, json.loads(json.dumps({"setting": settings}))
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, expected)
    elif json.loads(path.read_text(encoding="utf-8")) != expected:
        raise DataError(f"{folder} holds results of other settings or of another version: give another folder.")
