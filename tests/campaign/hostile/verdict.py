"""What became of an input: how the command ended, what it said, and what it left."""

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from hostile.actions import MARK
from hostile.server import CPU_S, Done

FAULTS = ("crash", "hang", "memory", "traceback", "unexpected", "outside", "executed", "escape", "leftover", "altered")
"""crash: ended by a signal; hang: more than 10 s of processor time beyond what the same command takes with the
unchanged files, or 60 s of wall time; memory:
more than 1 GB beyond the baseline; unexpected: the sentence for exceptions that nobody foresaw; outside: a change
outside the target; executed: a payload's file or a program; escape: a control character of a terminal; leftover: a file
under a temporary name; altered: damage that a sum should show, taken as something else."""
MEMORY = 1 << 30
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\xc2[\x80-\x9f]")
_TAIL = 600


@dataclass(frozen=True)
class Verdict:
    """refused: exit code other than 0; faults: of FAULTS; tail: the last of the output."""

    refused: bool
    faults: tuple[str, ...]
    tail: str


def verdict(
    done: Done, baseline: Done, output: bytes, changes: list[str], canary: bool, leftovers: list[str]
) -> Verdict:
    """Judge a run.

    changes: paths outside the target that were changed; canary: whether a payload ran; leftovers: temporary names
    """
    text = output.decode("utf-8", "replace")
    audit = [line for line in text.splitlines() if line.startswith(MARK)]
    tests = {
        "crash": done.code < 0 and not done.timed_out and -done.code not in (24, 9),
        "hang": done.timed_out or done.code in (-24, -9) or done.cpu_s - baseline.cpu_s > CPU_S,
        "memory": done.peak - baseline.peak > MEMORY,
        "traceback": "Traceback (most recent call last)" in text,
        "unexpected": "Error: unexpected " in text,
        "outside": bool(changes) or any("wrote" in line for line in audit),
        "executed": canary or any("started" in line for line in audit),
        "escape": bool(_CONTROL.search(output)),
        "leftover": bool(leftovers),
    }
    faults = tuple(name for name, found in tests.items() if found)
    details = "".join(f" [{path}]" for path in [*audit, *changes, *leftovers][:5])
    return Verdict(done.code != 0, faults, printable(text[-_TAIL:] + details))


def printable(text: str) -> str:
    """Text for a JSON document and a page: control characters as escapes, no folder of this machine."""
    found = "".join(one if one.isprintable() or one == "\n" else repr(one)[1:-1] for one in text)
    return re.sub(r"(/[\w.+-]+)+/(?=(site-packages|tokfilter|camp-[a-z0-9_]+|case)/)", "", found)


def tree(folder: Path) -> dict[str, tuple]:
    """Every path below a folder with type, size, inode and time of its last change; links are not followed."""
    found = {}
    stack = [os.fspath(folder)]
    while stack:
        for entry in os.scandir(stack.pop()):
            status = entry.stat(follow_symlinks=False)
            whole = None if stat.S_ISDIR(status.st_mode) else (status.st_size, status.st_mtime_ns)
            found[os.path.relpath(entry.path, folder)] = (stat.S_IFMT(status.st_mode), status.st_ino, whole)
            if entry.is_dir(follow_symlinks=False):
                stack.append(entry.path)
    return found


def changed_paths(before: dict, after: dict, allowed: tuple[str, ...]) -> list[str]:
    """Paths that are new, gone or different, and not below the names in ``allowed``."""
    names = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    return sorted(name for name in names if not any(name == one or name.startswith(f"{one}/") for one in allowed))
