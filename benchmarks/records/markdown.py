"""What Markdown tables of measurements share."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["Document", "line", "provenance", "rule"]

Document = Mapping[str, Any]


def line(*cells: str) -> str:
    """One row."""
    return "| " + " | ".join(cells) + " |"


def rule(columns: int) -> str:
    """What stands under the heading."""
    return "|" + "---|" * columns


def provenance(document: Document, packages: Sequence[str]) -> str:
    """Where a document was measured (the GPU, where there is one), with which versions, when, and by which command."""
    machine, found = document["machine"], document["versions"]
    where = ", ".join(gpu["name"] for gpu in machine["gpus"]) or f"{machine['cpu']}, {machine['cores']} cores"
    versions = ", ".join(f"{name} {found[name]}" for name in packages if name in found)
    return f"{where}, {versions}; {document['created'][:10]}; `{document['command']}`."
