"""gpu-proof.json: what was found, built, compared and measured; rewritten atomically after every result."""

import subprocess
from pathlib import Path
from typing import Any, Final

from tokfilter.benchmarks.gpu_proof.settings import Settings
from tokfilter.benchmarks.gpu_proof.steps import Step
from tokfilter.benchmarks.records.paths import ROOT
from tokfilter.runtime.measure.record import header, write_json

__all__ = ["Document"]

_LISTS: Final = {
    "build": "builds",
    "verdict": "verdicts",
    "row": "rows",
    "attention": "attention",
    "answers": "answers",
    "memcheck": "memcheck",
    "parsed": "parsed",
    "problem": "problems",
    "prepared": "prepared",
}
"""Kind of a result -> its list in the document."""


class Document:
    """The document of a run in progress; it is complete and readable after each change."""

    def __init__(self, path: Path, settings: Settings, command: str) -> None:
        self.path = path
        self.content: dict[str, Any] = {
            **header("gpu-proof", command),
            "commit": _commit(),
            "settings": {
                "minutes": settings.minutes,
                "dry_run": settings.dry_run,
                "builders": settings.builders,
                "duration_s": settings.duration_s,
                "batches": list(settings.batches),
                "models": [
                    {"name": m.name, "architecture": m.architecture, "patches": m.patches} for m in settings.models
                ],
                "order": "rounds of all engines of a batch in alternating order; one process per engine, one at a time",
            },
            "found": {},
            "steps": [],
            **{name: [] for name in _LISTS.values()},
        }
        self.write()

    @property
    def found(self) -> dict[str, Any]:
        """Part of the machine, or of the preparation -> {"found": text} or {"missing": reason}."""
        found: dict[str, Any] = self.content["found"]
        return found

    def begin(self, step: Step, limit_s: float) -> None:
        """A step starts."""
        entry = {"name": step.name, "title": step.title, "limit_s": round(limit_s, 1), "state": "running"}
        self.content["steps"].append({**entry, "reason": "", "seconds": None})
        self.write()

    def add(self, step: Step, result: dict[str, Any]) -> None:
        """A result of the running step."""
        kind = result.pop("kind")
        if kind == "found":
            self.found[result.pop("part")] = result
        else:
            self.content[_LISTS[kind]].append({"step": step.name, **result})
        if kind == "prepared":
            self._add_prepared(result)
        self.write()

    def end(self, state: str, reason: str, seconds: float) -> None:
        """The running step has ended."""
        self.content["steps"][-1].update(state=state, reason=reason, seconds=round(seconds, 1))
        self.write()

    def left_out(self, step: Step, reason: str) -> None:
        """A step that was not started."""
        entry = {"name": step.name, "title": step.title, "limit_s": 0.0, "state": "not reached", "reason": reason}
        self.content["steps"].append({**entry, "seconds": None})
        self.write()

    def write(self) -> None:
        """Write the file."""
        write_json(self.path, self.content)

    @property
    def wrong(self) -> list[str]:
        """Comparisons that failed, and steps that failed: any makes the run fail."""
        content = self.content
        return [
            *(v["error"] for v in content["verdicts"] if not v["passed"]),
            *(f"{a['engine']}: the C++ library answers otherwise" for a in content["answers"] if not a["equal"]),
            *(f"{m['engine']}: memcheck found {m['errors']} errors" for m in content["memcheck"] if m["errors"]),
            *(f"step {s['name']}: {s['reason']}" for s in content["steps"] if s["state"] == "failed"),
        ]

    def _add_prepared(self, result: dict[str, Any]) -> None:
        name = "prepared plugin" if result["part"] == "plugin" else f"prepared graphs of {result['part']}"
        found = {"found": result["path"]} if result["error"] is None else {"missing": result["error"]}
        self.found[name] = found


def _commit() -> str | None:
    """The commit of the checkout; None outside of one."""
    try:
        result = subprocess.run(
            ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None
