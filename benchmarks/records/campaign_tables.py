"""Tables of docs/reliability.md: what was tried in the campaign, and what did not hold."""

from typing import Final

from tokfilter.benchmarks.records.markdown import Document, line, provenance, rule

__all__ = ["campaign_table", "kills_table", "load_table"]

_FAULTS: Final = {
    "crash": "crash",
    "hang": "hang",
    "memory": "> 1 GB",
    "traceback": "traceback",
    "unexpected": "unforeseen",
    "outside": "outside",
    "executed": "code run",
    "escape": "escape",
    "leftover": "left over",
    "altered": "altered",
}


_LEFT_OUT: Final = "No part of the last run; `make campaign` runs every part."


def campaign_table(document: Document) -> str:
    """One line for each class of input: outcomes and faults."""
    heads = ["input", "tried", "refused", "as before", "other", *_FAULTS.values()]
    lines = [line(*heads), rule(len(heads))]
    for row in document["classes"]:
        lines.append(_row(row["name"], row, row["faults"]))
    total = {
        name: sum(row[name] for row in document["classes"]) for name in ("inputs", "refused", "equal", "different")
    }
    lines.append(_row("**all**", total, document["faults"]))
    limits, packages = document["limits"], ("torch", "onnxruntime", "onnx_ir", "pillow")
    what = (
        f"Seed {document['seed']}, revision {document['revision']}, {document['minutes']:.0f} minutes; a hang is more "
        f"than {limits['cpu_s']:.0f} s of processor time or {limits['wall_s']:.0f} s in all; memory beyond the "
        f"{document['baseline']['bytes'] / 1e6:.0f} MB of the imports."
    )
    return "\n".join([*lines, "", f"{what} {provenance(document, packages)}"])


def kills_table(document: Document) -> str:
    """One line for each command that was killed."""
    if not document["kills"]:
        return _LEFT_OUT
    lines = [line("command", "killed", "finished before", "old result", "new result", "faults"), rule(6)]
    for row in document["kills"]:
        counts = (row["kills"], row["finished"], row["old"], row["new"], len(row["faults"]))
        lines.append(line(f"`{row['name']}`", *map(str, counts)))
    return "\n".join(lines)


def load_table(document: Document) -> str:
    """One line for each attack on the service."""
    if not document["service"]:
        return _LEFT_OUT
    lines = [line("attack", "held", "found"), rule(3)]
    for name, goal in document["service"].items():
        lines.append(line(name, "yes" if goal["reached"] else "**no**", goal["found"].replace("|", "/")))
    return "\n".join(lines)


def _row(name: str, counts: Document, faults: Document) -> str:
    outcomes = (counts[key] for key in ("inputs", "refused", "equal", "different"))
    return line(name, *map(str, outcomes), *(str(faults[key]) for key in _FAULTS))
