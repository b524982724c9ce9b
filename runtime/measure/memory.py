"""Peak memory of a process on the host, and what it holds on NVIDIA devices."""

import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from tokfilter.trt.gpus import handles, nvml

__all__ = ["device_bytes", "host_peak_bytes"]


_STATUS: Final = Path("/proc/self/status")


def host_peak_bytes() -> int:
    """High-water mark of this process's resident memory since it started.

    VmHWM starts at zero in a new program; getrusage would include the parent's mark.
    """
    with suppress(OSError):
        for line in _STATUS.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def device_bytes(pid: int) -> int | None:
    """Device memory that a process holds on all NVIDIA GPUs, None where NVML does not report it (no GPU, a Jetson)."""
    found: int | None = None
    with nvml() as library:
        for _, handle in handles(library):
            with suppress(Exception):  # Jetsons and some drivers do not list processes
                for process in library.nvmlDeviceGetComputeRunningProcesses(handle):
                    if process.pid == pid and process.usedGpuMemory is not None:
                        found = (found or 0) + int(process.usedGpuMemory)
    return found
