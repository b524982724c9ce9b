"""The campaign's JSON document (schema: ``benchmarks/schemas/campaign.json``)."""

from collections import Counter
from dataclasses import dataclass, field

from hostile.server import CPU_S, WALL_S
from hostile.verdict import FAULTS, MEMORY

MOST_FINDINGS = 60
_TEXT = 700


@dataclass
class Figures:
    """Counts of one class. outcomes: refused, equal, different; largest_bytes: beyond the baseline"""

    name: str
    inputs: int = 0
    outcomes: Counter = field(default_factory=Counter)
    faults: Counter = field(default_factory=Counter)
    largest_bytes: int = 0
    largest_cpu_s: float = 0.0

    def add(self, done, judged, taken, baseline):
        self.inputs += 1
        self.outcomes["refused" if judged.refused else taken] += 1
        self.faults.update(judged.faults)
        self.largest_bytes = max(self.largest_bytes, done.peak - baseline.peak)
        self.largest_cpu_s = max(self.largest_cpu_s, round(done.cpu_s - baseline.cpu_s, 3))

    def as_dict(self):
        outcomes = {name: self.outcomes[name] for name in ("refused", "equal", "different")}
        faults = {name: self.faults[name] for name in FAULTS}
        largest = {"largest_bytes": self.largest_bytes, "largest_cpu_s": self.largest_cpu_s}
        return {"name": self.name, "inputs": self.inputs, **outcomes, "faults": faults, **largest}


class Findings:
    """The first inputs with a fault; all are counted."""

    def __init__(self):
        self.count, self.kept = 0, []

    def add(self, name, number, argv, what, done, judged):
        if not judged.faults:
            return
        self.count += 1
        if len(self.kept) < MOST_FINDINGS:
            self.kept.append(
                {
                    "class": name,
                    "case": number,
                    "faults": list(judged.faults),
                    "command": " ".join(argv)[:_TEXT],
                    "change": printable_change(what),
                    "exit_code": done.code,
                    "cpu_s": round(done.cpu_s, 2),
                    "output": judged.tail[-_TEXT:],
                }
            )


def printable_change(what):
    """What was changed, without control characters, bounded."""
    from hostile.verdict import printable

    return printable(str(what))[:300]


def document(seed, minutes, classes, killed, service, findings, baseline, revision):
    """classes: Figures; killed: Killed; service: goals of the abuse by name"""
    inputs = sum(one.inputs for one in classes)
    faults = Counter()
    for one in classes:
        faults.update(one.faults)
    return {
        "seed": seed,
        "revision": revision,
        "minutes": round(minutes, 1),
        "limits": {"cpu_s": CPU_S, "wall_s": WALL_S, "bytes": MEMORY},
        "baseline": {"cpu_s": round(baseline.cpu_s, 3), "bytes": baseline.peak},
        "inputs": inputs,
        "faults": {name: faults[name] for name in FAULTS},
        "classes": [one.as_dict() for one in classes],
        "kills": [vars(one) for one in killed],
        "service": service,
        "findings": {"count": findings.count, "kept": findings.kept},
    }
