"""Lines and provenance of Markdown tables."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["Document", "line", "provenance", "rule"]

Document = Mapping[str, Any]


def line(*cells: str) -> str:
    """One row."""
    return "| " + " | ".join(cells) + " |"


def rule(columns: int) -> str:
    """The line below the heading."""
    return "|" + "---|" * columns


def provenance(document: Document, packages: Sequence[str]) -> str:
    """Machine (the GPU, where there is one), versions, date and command of a measurement."""
    machine, found = document["machine"], document["versions"]
    where = ", ".join(gpu["name"] for gpu in machine["gpus"]) or f"{machine['cpu']}, {machine['cores']} cores"
    versions = ", ".join(f"{name} {found[name]}" for name in packages if name in found)
    return f"{where}, {versions}; {document['created'][:10]}; `{document['command']}`."
