"""SIGKILL at random moments of commands that write: the old result or the complete new one, and nothing left over."""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from random import Random

from hostile.fuzz import CASE, HOME
from hostile.material import TRAIN
from hostile.reader import LABEL, MODEL, TARGET


@dataclass(frozen=True)
class Writer:
    """A command that is killed.

    files: material; argv: the command; result: what it writes; old: material that is there before
    again: options of the run after the kill
    check: a command that reads the result; None: the result has the same bytes whenever it is written
    """

    name: str
    files: tuple[str, ...]
    argv: tuple[str, ...]
    result: str
    old: str = ""
    again: tuple[str, ...] = ()
    check: tuple[str, ...] | None = None


NEW = f"{TARGET}/new"
WRITERS = (
    Writer("export", ("model.pt",), ("export", "model.pt", "-o", NEW), NEW, "out", check=("verify", NEW)),
    Writer(
        "label",
        ("data", "weights.pth"),
        ("label", "data", "weights.pth", *MODEL, *LABEL),
        f"{TARGET}/labels",
        check=("label", "data", "weights.pth", *MODEL, *LABEL),
    ),
    Writer(
        "train",
        ("data", "weights.pth", "labels"),
        (
            "train",
            "data",
            "-o",
            f"{NEW}.pt",
            "--checkpoint",
            "weights.pth",
            *MODEL,
            *TRAIN,
            "--labels",
            "labels",
            "--run-dir",
            f"{TARGET}/work",
            "--overwrite",
        ),
        f"{NEW}.pt",
        "trained.pt",
        ("--resume",),
        ("inspect", f"{NEW}.pt"),
    ),
    Writer("pack", ("out",), ("pack", "out", "-o", f"{NEW}.tar"), f"{NEW}.tar"),
    Writer("triton-repo", ("out",), ("triton-repo", "out", NEW), NEW),
    Writer(
        "tune", ("out",), ("tune", "out", "--latency-ms", "1000", "--model-batches", ""), "out", check=("verify", "out")
    ),
)


@dataclass
class Killed:
    """Figures of one command: kills, how often the old and the new result were there, and faults in sentences."""

    name: str
    kills: int = 0
    finished: int = 0
    old: int = 0
    new: int = 0
    faults: list[str] | None = None


class Killer:
    """Runs one command, kills it, looks at the result, and runs it again."""

    def __init__(self, server, material: Path, folder: Path, seed: int):
        self.server, self.material, self.folder, self.seed = server, material, folder, seed
        self.results = {writer.name: Killed(writer.name, faults=[]) for writer in WRITERS}
        self.seconds: dict[str, float] = {}
        self.complete: dict[str, str] = {}

    def run(self, writer: Writer, number: int) -> None:
        """One kill."""
        found = self.results[writer.name]
        if writer.name not in self.seconds:
            self._prepare(writer)
            self.seconds[writer.name] = self._command(writer.argv).wall_s
            self.complete[writer.name] = state(self.case / writer.result)
        before = self._prepare(writer)
        moment = Random(f"{self.seed}/{writer.name}/{number}").uniform(0.05, 1.1) * self.seconds[writer.name]
        done = self._command(writer.argv, moment)
        found.kills += done.code == -9
        found.finished += done.code == 0
        self._judge(writer, before, f"kill {number} after {moment:.2f} s", found)

    @property
    def case(self) -> Path:
        return self.folder / CASE

    def _prepare(self, writer):
        if self.folder.exists():
            shutil.rmtree(self.folder)
        for name in (f"{HOME}/tmp", f"{HOME}/cache", f"{CASE}/{TARGET}"):
            (self.folder / name).mkdir(parents=True)
        for name in writer.files:
            source = self.material / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, self.case / name)
        if writer.old:
            source = self.material / writer.old
            (shutil.copytree if source.is_dir() else shutil.copy)(source, self.case / writer.result)
        return state(self.case / writer.result)

    def _command(self, argv, kill_after=None):
        return self.server.run("command", argv, self.folder / HOME, self.case, self.folder / "log", 300, kill_after)

    def _judge(self, writer, before, what, found):
        after = state(self.case / writer.result)
        if after == before:
            found.old += 1
        elif after == self.complete[writer.name] or (writer.check and self._command(writer.check).code == 0):
            found.new += 1
        else:
            found.faults.append(f"{what}: the result is neither the old one nor complete")
        again = self._command((*writer.argv, *writer.again))
        exists = writer.check is None and after == self.complete[writer.name]  # they replace nothing
        if again.code != 0 and not exists:
            found.faults.append(f"{what}: the next run ends with {again.code}")
        left = sorted(str(path.relative_to(self.case)) for path in self.case.rglob("*.part"))
        left += sorted(path.name for path in (self.case / TARGET).iterdir() if path.name.startswith("."))
        if left and not exists:
            found.faults.append(f"{what}: {left[:3]} left over after the next run")


def state(path: Path) -> str:
    """A digest of a file, or of all files of a folder but those with temporary names."""
    digest = hashlib.sha256()
    files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path] * path.is_file()
    for file in files:
        if not file.name.endswith(".part"):
            digest.update(f"{file.relative_to(path)}\0".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()
