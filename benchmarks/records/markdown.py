"""Lines and provenance of Markdown tables."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

__all__ = ["Document", "current_command", "line", "provenance", "rule"]

Document = Mapping[str, Any]

_FORMER_MODULES: Final = {
    "tokfilter.benchmarks.accuracy": "tokfilter.benchmarks study",
    "tokfilter.benchmarks.figures": "tokfilter.benchmarks runtime-figures",
    "tokfilter.benchmarks.label_methods": "tokfilter.benchmarks label-methods",
    "tokfilter.benchmarks.label_speed": "tokfilter.benchmarks label-speed",
    "tokfilter.benchmarks.micro": "tokfilter.benchmarks micro",
    "tokfilter.benchmarks.trained_vit": "tokfilter.benchmarks trained-vit",
}
"""Module of a recorded command -> the program that does the same measurement today."""


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
    return f"{where}, {versions}; {document['created'][:10]}; `{current_command(document['command'])}`."


def current_command(recorded: str) -> str:
    """A recorded command as it is typed today: programs have new names, and a bare 1 is no ratio any more."""
    command = re.sub(r"tokfilter\.benchmarks\.\w+", lambda found: _FORMER_MODULES.get(found[0], found[0]), recorded)
    return re.sub(r"(--keep[ =](?:\S*,)?)1(?=,|\s|$)", r"\g<1>1.0", command)
