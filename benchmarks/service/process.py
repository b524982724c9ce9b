"""The service in a process of its own, for tests and measurements."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, sleep
from typing import IO, Final
from urllib.request import urlopen

from tokfilter.errors import EngineError

__all__ = ["Running", "cpu_seconds", "resident_bytes", "serving"]

_TIMEOUT_S: Final = 120.0


@dataclass(frozen=True)
class Running:
    """A service in its own process; ``log`` is its standard error."""

    url: str
    process: "subprocess.Popen[bytes]"
    log: IO[bytes]

    def stop(self) -> int:
        """Send SIGTERM and wait. Returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_TIMEOUT_S)

    def log_text(self) -> str:
        """The log so far."""
        self.log.seek(0)
        return self.log.read().decode()


@contextmanager
def serving(directory: Path, *options: object, open_files: int | None = None) -> Iterator[Running]:
    """Start the service on a free port and wait until it is ready. It is killed at the end if it still runs.

    open_files: limit of its open files; None: this process's
    Raises EngineError with the last line of its log if it does not start.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tokfilter.cli", "serve", str(directory), "--port", str(port), *map(str, options)]
    if open_files is not None:
        command = ["sh", "-c", f'ulimit -n {open_files} && exec "$@"', "sh", *command]
    with tempfile.TemporaryFile() as log, subprocess.Popen(command, stderr=log) as process:
        running = Running(f"http://127.0.0.1:{port}", process, log)
        try:
            _wait_until_ready(running)
            yield running
        finally:
            if process.poll() is None:
                process.kill()


def _wait_until_ready(running: Running) -> None:
    deadline = perf_counter() + _TIMEOUT_S
    while perf_counter() < deadline and running.process.poll() is None:
        try:
            with urlopen(f"{running.url}/health/ready"):
                return
        except OSError:
            sleep(0.1)
    lines = running.log_text().strip().splitlines() or ["its log is empty"]
    raise EngineError(f"the service did not start: {lines[-1]}")


def resident_bytes(pid: int) -> int:
    """Resident memory of a process. Raises EngineError when it has ended."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise EngineError(f"process {pid} ended: the service crashed under load.")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its threads so far, in seconds (proc(5), fields 14 and 15 of stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
