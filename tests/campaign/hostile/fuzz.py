"""Runs cases: writes the files of one, lets the command read them, judges, and removes them."""

import hashlib
import re
import shutil
import threading
from pathlib import Path

from hostile.cases import copy_material, make_case
from hostile.readers import TARGET
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


class Fuzzer:
    """Cases in a folder of their own, one after the other.

    originals: class and command -> digest of what the unchanged files give, shared by all threads
    lock: held while a case is written
    """

    def __init__(self, server, material: Path, folder: Path, seed: int, originals=None, lock=None):
        self.server, self.material, self.folder, self.seed = server, material, folder, seed
        self.originals: dict[tuple, str] = {} if originals is None else originals
        self.lock = lock or threading.Lock()

    def run(self, reader, number):
        """Returns the case, how its command ended, the verdict, and what was taken: '', 'equal' or 'different'."""
        self._clean()
        case_folder = self.folder / CASE
        canary = self.folder / "victim" / "executed"
        with self.lock:  # a change may set the working directory and filters of warnings
            case = make_case(reader, number, self.seed, self.material, case_folder, str(canary))
        done, judged, digest = self._read(reader, case.argv, canary)
        taken = ""
        if not judged.refused:
            noticed = NOTICED in (self.folder / "log").read_bytes()
            taken = "equal" if digest == self._original(reader, case.argv) else "different"
            if reader.sums and case.damage and taken == "different" and not noticed:
                judged = Verdict(judged.refused, (*judged.faults, "altered"), judged.tail)
        return case, done, judged, taken

    def _read(self, reader, argv, canary):
        home, case = self.folder / HOME, self.folder / CASE
        before, log = tree(self.folder), self.folder / "log"
        done = self.server.run("command", argv, self.folder / HOME, case, log)
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
            _, judged, digest = self._read(reader, argv, self.folder / "victim" / "executed")
            if judged.refused or judged.faults:
                raise RuntimeError(f"{reader.name}: {argv} does not read the unchanged files: {judged}")
            self.originals[key] = digest
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
