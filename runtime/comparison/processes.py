"""One subprocess per engine; JSON lines over a pipe (``comparison.worker`` is the other end)."""

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from tokfilter import errors
from tokfilter.artifacts.budget import Keep, tokens_from_keep
from tokfilter.artifacts.manifest import Manifest
from tokfilter.errors import EngineError, TokfilterError
from tokfilter.runtime.model_files import Role, find_entry
from tokfilter.runtime.sessions import SessionOptions

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Block", "EngineProcess", "EngineSpec", "Interpreter", "engines_open", "specs_for"]

_TIMEOUT_S: Final = 600.0
"""Time limit of a request, beyond the duration that the request itself takes."""


@dataclass(frozen=True)
class Interpreter:
    """A Python that can import tokfilter: an engine's package may exist for another version than this one only.

    environment: variables that are set in addition, such as LD_LIBRARY_PATH
    """

    python: str = sys.executable
    environment: tuple[tuple[str, str], ...] = ()

    def command(self, module: str, *arguments: str) -> list[str]:
        """The command line that runs a module."""
        return [self.python, "-m", module, *arguments]

    def variables(self) -> dict[str, str]:
        """The environment of a process."""
        return {**os.environ, **dict(self.environment)}


@dataclass(frozen=True)
class EngineSpec:
    """An engine to be started.

    path: model file of the export directory, or a name for the bundle when PyTorch runs it
    interpreter: the Python that runs it
    graphs: folder of onnx-naive's graph, which is outside of the export directory; None for every other engine
    name: key of the engine among those that are open; empty means its path
    """

    directory: Path
    role: Role
    path: str
    options: SessionOptions
    interpreter: Interpreter = Interpreter()
    name: str = ""
    graphs: Path | None = None

    @property
    def key(self) -> str:
        """Key of the engine among those that are open."""
        return self.name or self.path


@dataclass(frozen=True)
class Block:
    """Latencies of one uninterrupted run of queries.

    samples_ms: per query, end to end on the host
    timings: per query (host to device, compute, device to host, enqueue) in milliseconds; None on a CPU
    """

    samples_ms: list[float]
    timings: list[tuple[float, float, float, float]] | None


class EngineProcess:
    """A subprocess that runs one engine. Use in a ``with`` block."""

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec
        self.pid = 0
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (closed by __exit__)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Self":
        try:
            self.start()
            self.wait_until_open()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self) -> None:
        """Start the process, which begins to open the engine. ``__exit__`` ends it. Raises EngineError."""
        spec = self.spec
        try:
            self._process = subprocess.Popen(
                spec.interpreter.command("tokfilter.runtime.comparison.worker"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=spec.interpreter.variables(),
            )
        except OSError as error:
            raise EngineError(f"{spec.interpreter.python} cannot be started: {error}.") from error
        self._send(
            "open",
            directory=str(spec.directory),
            path=spec.path,
            role=spec.role,
            options=asdict(spec.options),
            graphs=None if spec.graphs is None else str(spec.graphs),
        )

    def wait_until_open(self) -> None:
        """Wait until the engine is open. Raises its error."""
        self.pid = self._reply("open")["pid"]

    def __exit__(self, *_: object) -> None:
        process, self._process = self._process, None
        if process is None:
            self._log.close()
            return
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.close()
            process.wait(timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            process.kill()
            process.wait()
        process.stdout.close()
        self._log.close()

    def verify(self, batch: int, tokens: int) -> dict[str, Any]:
        """Compare with the golden tensors. Raises VerificationError."""
        return self._request("verify", batch=batch, tokens=tokens)

    def block(self, batch: int, tokens: int, seconds: float) -> Block:
        """Run queries for ``seconds``."""
        reply = self._request("block", seconds, batch=batch, tokens=tokens, seconds=seconds)
        return Block(reply["samples_ms"], reply["timings"])

    def compute(self, batch: int, tokens: int, seconds: float) -> Block:
        """Repeat the computation alone. Raises EngineError where the session measures calls with transfers only."""
        reply = self._request("compute", seconds, batch=batch, tokens=tokens, seconds=seconds)
        return Block(reply["samples_ms"], reply["timings"])

    def memory(self) -> dict[str, int | None]:
        """Peak host memory, and device memory now, in bytes."""
        return self._request("memory")

    def _request(self, do: str, expected_s: float = 0.0, **fields: Any) -> dict[str, Any]:
        self._send(do, **fields)
        return self._reply(do, expected_s)

    def _send(self, do: str, **fields: Any) -> None:
        process = self._running()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps({"do": do, **fields}).encode() + b"\n")
            process.stdin.flush()
        except OSError:
            raise self._exit_error() from None

    def _reply(self, do: str, expected_s: float = 0.0) -> dict[str, Any]:
        process = self._running()
        assert process.stdout is not None
        if not select.select([process.stdout], [], [], _TIMEOUT_S + 20 * expected_s)[0]:
            raise EngineError(
                f"{self.spec.key}: no reply to {do!r} within {_TIMEOUT_S:.0f} s; the process was stopped."
            )
        line = process.stdout.readline()
        if not line:
            raise self._exit_error()
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            kind: type[TokfilterError] = getattr(errors, reply["error"])
            raise kind(reply["message"])
        return reply

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            raise EngineError("this engine process is closed: use it inside its `with` block.")
        return self._process

    def _exit_error(self) -> EngineError:
        process = self._process
        status: int | str | None = None
        if process is not None:
            try:
                status = process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                status = "unknown"
        self._log.seek(0)
        tail = self._log.read().decode(errors="replace").strip().splitlines()[-3:]
        return EngineError(
            f"the process that ran {self.spec.key} ended with status {status}; its last output: "
            f"{' | '.join(tail) or 'none'}. Check free memory (dmesg) and the installed libraries (`tokfilter doctor`)."
        )


@contextmanager
def engines_open(specs: Sequence[EngineSpec]) -> Iterator[dict[str, EngineProcess]]:
    """Start one process per distinct engine, which open at the same time. Yields ``EngineSpec.key`` -> process."""
    with ExitStack() as stack:
        engines: dict[str, EngineProcess] = {}
        for spec in specs:
            if spec.key not in engines:
                engines[spec.key] = stack.push(EngineProcess(spec))
                engines[spec.key].start()
        for engine in engines.values():
            engine.wait_until_open()
        yield engines


def specs_for(
    directory: Path, manifest: Manifest, keeps: Sequence[Keep], options: SessionOptions
) -> dict[int, EngineSpec]:
    """Budget in tokens -> the engine for it. The full model, the baseline of every ratio, is always included.

    Raises BudgetError, EngineError.
    """
    patches = manifest.model.num_patches
    budgets = sorted({tokens_from_keep(keep, patches) for keep in keeps} | {patches}, reverse=True)
    specs = {}
    for tokens in budgets:
        role: Role = "full" if tokens == patches else "filtered"
        path = find_entry(manifest, role, options.runtime, options.precision, tokens, options.provider).path
        specs[tokens] = EngineSpec(directory, role, path, options)
    return specs
