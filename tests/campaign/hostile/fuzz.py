"""Runs cases: writes the files of one, lets the command read them, judges, and removes them."""

import hashlib
import re
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path

from hostile.cases import copy_material, make_case
from hostile.reader import TARGET
from hostile.server import CPU_S, Done
from hostile.verdict import Verdict, changed_paths, tree, verdict

HOME = "home"
NOTICED = b"its bytes have changed"
"""`inspect` lists an export's files and marks those that are damaged."""
ONNXRUNTIME = ".ses"
"""Of ONNX Runtime, in the folder for temporary files."""
CASE = "a/b/c/case"
"""Deep, so that a path of several '..' ends in the watched folder."""
_VARYING = re.compile(
    rb"\d+(\.\d+)? ?(ms|s|MB|images/s)\b|\d{4}-\d\d-\d\d[T ][\d:+.]*|[0-9a-f]{12,64}|\"bytes\": \d+|"
    rb"\"(path|created|[a-z_]*(ms|seconds|per_s))\": [^\n]*"
)
"""Times, dates, sums and sizes of files: two runs on equal files differ in them."""


@dataclass(frozen=True)
class Original:
    """A command on the unchanged files: how it ended, what was said of it, and the digest of what it wrote."""

    done: Done
    judged: Verdict
    digest: str


class Fuzzer:
    """Cases in a folder of their own, one after the other.

    originals: class and command -> what the unchanged files give, shared by all threads
    lock: held while a case is written
    """

    def __init__(self, server, material: Path, folder: Path, seed: int, originals=None, lock=None):
        self.server, self.material, self.folder, self.seed = server, material, folder, seed
        self.originals: dict[tuple, Original] = {} if originals is None else originals
        self.lock = lock or threading.Lock()

    def run(self, reader, number):
        """Returns the case, how its command ended, the verdict, and what was taken: '', 'equal' or 'different'."""
        self._clean()
        case_folder = self.folder / CASE
        canary = self.folder / "victim" / "executed"
        with self.lock:  # a change may set the working directory and filters of warnings
            case = make_case(reader, number, self.seed, self.material, case_folder, str(canary))
        done, judged, digest = self._read(reader, case.argv, canary)
        noticed, taken = NOTICED in (self.folder / "log").read_bytes(), ""
        if "hang" in judged.faults and not done.timed_out and done.code >= 0:
            judged = self._without_asked_time(judged, done, self._original(reader, case.argv))
        if not judged.refused:
            original = self._original(reader, case.argv)
            if original.judged.refused:
                raise RuntimeError(f"{reader.name}: {case.argv} does not read the unchanged files: {original.judged}")
            taken = "equal" if digest == original.digest else "different"
            if reader.sums and case.damage and taken == "different" and not noticed:
                judged = Verdict(judged.refused, (*judged.faults, "altered"), judged.tail)
        return case, done, judged, taken

    def _without_asked_time(self, judged, done, original):
        """No hang where the unchanged files take as long: a measurement has its own duration."""
        if done.cpu_s - max(original.done.cpu_s, self.server.baseline.cpu_s) > CPU_S:
            return judged
        return Verdict(judged.refused, tuple(name for name in judged.faults if name != "hang"), judged.tail)

    def _read(self, reader, argv, canary):
        home, case = self.folder / HOME, self.folder / CASE
        before, log = tree(self.folder), self.folder / "log"
        done = self.server.run(reader.action, argv, self.folder / HOME, case, log)
        allowed = (
            f"{HOME}/tmp",
            f"{HOME}/cache",
            "log",
            f"{CASE}/{TARGET}",
            *(f"{CASE}/{name}" for name in reader.writes),
        )
        changes = changed_paths(before, tree(self.folder), allowed)
        left = [str(path.relative_to(self.folder)) for path in self.folder.rglob("*.part")]
        left += [str(path.relative_to(self.folder)) for path in (home / "tmp").iterdir() if path.name != ONNXRUNTIME]
        judged = verdict(done, self.server.baseline, log.read_bytes(), changes, canary.exists(), left)
        return done, judged, self._digest(case, log)

    def _original(self, reader, argv):
        key = (reader.name, tuple(argv))
        if key not in self.originals:
            self._clean()
            copy_material(reader, self.material, self.folder / CASE)
            found = Original(*self._read(reader, argv, self.folder / "victim" / "executed"))
            if set(found.judged.faults) - {"hang"} or found.done.timed_out:
                raise RuntimeError(f"{reader.name}: {argv} on the unchanged files: {found.judged}")
            self.originals[key] = found
        return self.originals[key]

    def _clean(self):
        if self.folder.exists():
            shutil.rmtree(self.folder)
        for name in (f"{HOME}/tmp", f"{HOME}/cache", CASE, "victim/models"):
            (self.folder / name).mkdir(parents=True)

    @staticmethod
    def _digest(case, log):
        """Of what a command printed and wrote, without its times and sums of files that hold times."""
        from hostile.results import content_of

        digest = hashlib.sha256(_VARYING.sub(b"#", log.read_bytes().replace(b"\r", b"\n")))
        for path in sorted((case / TARGET).rglob("*")):
            digest.update(str(path.relative_to(case)).encode("utf-8", "surrogateescape"))
            if path.is_file() and not path.is_symlink():
                digest.update(content_of(path))
        return digest.hexdigest()
