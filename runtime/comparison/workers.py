"""Engines as child processes that wait in silence until it is their turn."""

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

__all__ = ["Block", "Engine", "EngineSpec", "engines_open", "specs_for"]

_PATIENCE_S: Final = 600.0
"""How long an engine may take beyond what was asked of it, before it counts as hung."""


@dataclass(frozen=True)
class EngineSpec:
    """One engine to start.

    path: model file of the export directory, or of the bundle when torch runs it
    bundle: model.pt when torch runs it
    """

    directory: Path
    role: Role
    path: str
    options: SessionOptions
    bundle: Path | None = None


@dataclass(frozen=True)
class Block:
    """One turn of an engine.

    samples_ms: per query, end to end on the host
    timings: per query (host to device, compute, device to host, enqueue) in milliseconds; None on a CPU
    """

    samples_ms: list[float]
    timings: list[tuple[float, float, float, float]] | None


class Engine:
    """A child process that runs one engine (``benchmarks.worker``). Use in a ``with`` block."""

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
            self.pid = self._ask(
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
        return self._ask("verify", batch=batch, tokens=tokens)

    def block(self, batch: int, tokens: int, seconds: float) -> Block:
        """Query for some seconds."""
        reply = self._ask("block", seconds, batch=batch, tokens=tokens, seconds=seconds)
        return Block(reply["samples_ms"], reply["timings"])

    def memory(self) -> dict[str, int | None]:
        """Peak host memory, and device memory now, in bytes."""
        return self._ask("memory")

    def _ask(self, do: str, patience: float = 0.0, **fields: Any) -> dict[str, Any]:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise EngineError("this engine is closed: use it inside its `with` block.")
        try:
            process.stdin.write(json.dumps({"do": do, **fields}).encode() + b"\n")
            process.stdin.flush()
        except OSError:
            raise self._died() from None
        if not select.select([process.stdout], [], [], _PATIENCE_S + 20 * patience)[0]:
            raise EngineError(f"{self.spec.path} gave no answer to {do} within {_PATIENCE_S:.0f} s: it hangs.")
        line = process.stdout.readline()
        if not line:
            raise self._died()
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            kind: type[TokfilterError] = getattr(errors, reply["error"])
            raise kind(reply["message"])
        return reply

    def _died(self) -> EngineError:
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
            f"the process that ran {self.spec.path} ended with status {status}; its last words: "
            f"{' | '.join(tail) or 'none'}. Is memory short (dmesg), or a library damaged (`tokfilter doctor`)?"
        )


@contextmanager
def engines_open(specs: Sequence[EngineSpec]) -> Iterator[dict[str, Engine]]:
    """Start one process per distinct model file; the engines by their path."""
    with ExitStack() as stack:
        engines: dict[str, Engine] = {}
        for spec in specs:
            if spec.path not in engines:
                engines[spec.path] = stack.enter_context(Engine(spec))
        yield engines


def specs_for(
    directory: Path, manifest: Manifest, keeps: Sequence[Keep], options: SessionOptions, bundle: Path | None = None
) -> dict[int, EngineSpec]:
    """Budget in tokens -> the engine that serves it; the full model, the measure of all others, is always there.

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
