"""One subprocess per engine; JSON lines over a pipe (``comparison.worker`` is the other end)."""

import json
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

__all__ = ["Block", "EngineProcess", "EngineSpec", "engines_open", "specs_for"]

_TIMEOUT_S: Final = 600.0
"""Time limit of a request, beyond the duration that the request itself takes."""


@dataclass(frozen=True)
class EngineSpec:
    """An engine to be started.

    path: model file of the export directory, or a name for the bundle when PyTorch runs it
    bundle: model.pt when PyTorch runs it, else None
    """

    directory: Path
    role: Role
    path: str
    options: SessionOptions
    bundle: Path | None = None


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
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tokfilter.runtime.comparison.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        try:
            spec = self.spec
            self.pid = self._request(
                "open",
                directory=str(spec.directory),
                path=spec.path,
                role=spec.role,
                options=asdict(spec.options),
                bundle=None if spec.bundle is None else str(spec.bundle),
            )["pid"]
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        process, self._process = self._process, None
        if process is None:
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

    def memory(self) -> dict[str, int | None]:
        """Peak host memory, and device memory now, in bytes."""
        return self._request("memory")

    def _request(self, do: str, expected_s: float = 0.0, **fields: Any) -> dict[str, Any]:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise EngineError("this engine process is closed: use it inside its `with` block.")
        try:
            process.stdin.write(json.dumps({"do": do, **fields}).encode() + b"\n")
            process.stdin.flush()
        except OSError:
            raise self._exit_error() from None
        if not select.select([process.stdout], [], [], _TIMEOUT_S + 20 * expected_s)[0]:
            raise EngineError(
                f"{self.spec.path}: no reply to {do!r} within {_TIMEOUT_S:.0f} s; the process was stopped."
            )
        line = process.stdout.readline()
        if not line:
            raise self._exit_error()
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            kind: type[TokfilterError] = getattr(errors, reply["error"])
            raise kind(reply["message"])
        return reply

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
            f"the process that ran {self.spec.path} ended with status {status}; its last output: "
            f"{' | '.join(tail) or 'none'}. Check free memory (dmesg) and the installed libraries (`tokfilter doctor`)."
        )


@contextmanager
def engines_open(specs: Sequence[EngineSpec]) -> Iterator[dict[str, EngineProcess]]:
    """Start one process per distinct model file. Yields path -> process."""
    with ExitStack() as stack:
        engines: dict[str, EngineProcess] = {}
        for spec in specs:
            if spec.path not in engines:
                engines[spec.path] = stack.enter_context(EngineProcess(spec))
        yield engines


def specs_for(
    directory: Path, manifest: Manifest, keeps: Sequence[Keep], options: SessionOptions, bundle: Path | None = None
) -> dict[int, EngineSpec]:
    """Budget in tokens -> the engine for it. The full model, the baseline of every ratio, is always included.

    Raises BudgetError, EngineError.
    """
    patches = manifest.model.num_patches
    budgets = sorted({tokens_from_keep(keep, patches) for keep in keeps} | {patches}, reverse=True)
    specs = {}
    for tokens in budgets:
        role: Role = "full" if tokens == patches else "filtered"
        if bundle is not None:
            path = f"{bundle.name} ({role})"
        else:
            path = find_entry(manifest, role, options.runtime, options.precision, tokens).path
        specs[tokens] = EngineSpec(directory, role, path, options, bundle)
    return specs
