"""Common header of every measurement's JSON document, and its writer."""

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tokfilter.artifacts.files import atomic_path
from tokfilter.runtime.measure.machine import machine, versions

__all__ = ["header", "write_json"]


def header(schema: str, command: str) -> dict[str, Any]:
    """Schema, version, time, command line, machine and package versions."""
    return {
        "schema": f"tokfilter/{schema}",
        "version": 1,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "machine": machine(),
        "versions": versions(),
    }


def write_json(path: str | Path, document: Mapping[str, Any]) -> None:
    """Write a document atomically. Raises OSError, and ValueError for NaN or infinity, which JSON does not have."""
    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    with atomic_path(Path(path)) as part:
        part.write_text(text, encoding="utf-8")
