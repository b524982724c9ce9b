"""What machine a number was measured on, and in what state it was: read from Linux and NVML, nothing guessed.

Everything that this machine does not tell is None or empty. ``root`` lets tests read a recorded tree instead of "/".
"""

import os
import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from tokfilter.runtime.measure.sensors import nvml

__all__ = ["conditions", "machine", "versions"]

_PACKAGES: Final = (
    "tokfilter",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "torch",
    "timm",
    "tensorrt",
    "tensorrt-rtx-cu13",
    "pycuda",
    "cuda-python",
    "cuda-bindings",
    "mlcommons-loadgen",
)

# nvml.h, nvmlClocksEventReasons: what slows a GPU down against its will.
_THROTTLE: Final = {
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}


def machine(root: Path = Path("/")) -> dict[str, Any]:
    """System, board, CPU, cores, governor, memory, and every NVIDIA GPU."""
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "board": _text(root / "proc/device-tree/model"),
        "power_mode": _text(root / "var/lib/nvpmodel/status"),
        "cpu": _cpu(root) or platform.processor() or platform.machine(),
        "cores": _cores(),
        "governor": _governor(root),
        "memory_bytes": _memory(root),
        "gpus": _gpus(),
    }


def versions() -> dict[str, str]:
    """Python and the installed packages that decide about speed; the NVIDIA driver where there is one."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    with nvml() as library:
        if library is not None:
            found["nvidia-driver"] = str(library.nvmlSystemGetDriverVersion())
    return found


def conditions(root: Path = Path("/")) -> dict[str, Any]:
    """Temperatures, clocks, throttling and load at this moment."""
    temperatures = _temperatures(root)
    clocks = _cpu_clocks(root)
    throttled: bool | None = None
    reasons: list[str] = []
    with nvml() as library:
        for name, handle in _handles(library):
            readings = _state(library, handle)
            if readings["temperature"] is not None:
                temperatures[name] = readings["temperature"]
            clocks |= {f"{name} {kind}": mhz for kind in ("sm", "memory") if (mhz := readings[kind]) is not None}
            if readings["throttle"] is not None:
                reasons += [f"{name}: {why}" for bit, why in _THROTTLE.items() if int(readings["throttle"]) & bit]
                throttled = bool(reasons)
    return {
        "temperatures_c": temperatures,
        "throttled": throttled,
        "throttle_reasons": reasons,
        "clocks_mhz": clocks,
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip().strip("\x00") or None
    except OSError:
        return None


def _cpu(root: Path) -> str | None:
    for line in (_text(root / "proc/cpuinfo") or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model", "Hardware"):
            return value.strip()
    return None


def _cores() -> int:
    """Cores that this process may use, fewer than the machine has in a container or under taskset."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _governor(root: Path) -> str | None:
    paths = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor"))
    names = sorted({text for path in paths if (text := _text(path))})
    return ", ".join(names) or None


def _memory(root: Path) -> int:
    for line in (_text(root / "proc/meminfo") or "").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return 0


def _temperatures(root: Path) -> dict[str, float]:
    found = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        value = _text(zone / "temp")
        if value is not None and value.lstrip("-").isdigit():
            found[_text(zone / "type") or zone.name] = int(value) / 1000
    return found


def _cpu_clocks(root: Path) -> dict[str, float]:
    found = {}
    for path in sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")):
        value = _text(path)
        if value is not None and value.isdigit():
            found[path.parent.parent.name] = int(value) / 1000
    return found


def _handles(library: Any) -> list[tuple[str, Any]]:
    if library is None:
        return []
    # A GPU that a container may not use, or that is lost, has a number and gives no handle.
    handles = [(f"gpu{i}", _told(library.nvmlDeviceGetHandleByIndex, i)) for i in range(library.nvmlDeviceGetCount())]
    return [(name, handle) for name, handle in handles if handle is not None]


def _gpus() -> list[dict[str, Any]]:
    with nvml() as library:
        return [_gpu(library, handle) for _, handle in _handles(library)]


def _gpu(library: Any, handle: Any) -> dict[str, Any]:
    capability = _told(library.nvmlDeviceGetCudaComputeCapability, handle)
    memory = _told(library.nvmlDeviceGetMemoryInfo, handle)
    limit = _told(library.nvmlDeviceGetPowerManagementLimit, handle)
    return {
        "name": str(library.nvmlDeviceGetName(handle)),
        "uuid": _told(library.nvmlDeviceGetUUID, handle),
        "compute_capability": None if capability is None else ".".join(map(str, capability)),
        "memory_bytes": None if memory is None else int(memory.total),
        "max_sm_mhz": _told(library.nvmlDeviceGetMaxClockInfo, handle, library.NVML_CLOCK_SM),
        "power_limit_w": None if limit is None else limit / 1000,
    }


def _state(library: Any, handle: Any) -> dict[str, float | None]:
    return {
        "temperature": _told(library.nvmlDeviceGetTemperature, handle, library.NVML_TEMPERATURE_GPU),
        "sm": _told(library.nvmlDeviceGetClockInfo, handle, library.NVML_CLOCK_SM),
        "memory": _told(library.nvmlDeviceGetClockInfo, handle, library.NVML_CLOCK_MEM),
        "throttle": _told(library.nvmlDeviceGetCurrentClocksThrottleReasons, handle),
    }


def _told(question: Callable[..., Any], *arguments: Any) -> Any:
    """The answer, or None: which questions NVML answers differs from GPU to GPU, and a Jetson answers few."""
    try:
        return question(*arguments)
    except Exception:
        return None
