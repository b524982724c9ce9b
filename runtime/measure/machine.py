"""Description and state of the machine, read from Linux and NVML.

A value that cannot be read is None or empty. ``root`` replaces "/" in tests.
"""

import os
import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from tokfilter.runtime.measure.cpu_features import cpu_features
from tokfilter.runtime.measure.sysfs import number_from_file, text_from_file
from tokfilter.trt.gpus import driver_version, gpus, handles, nvml, query

__all__ = ["conditions", "machine", "usable_cores", "versions"]

_PACKAGES: Final = (
    "tokfilter",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "torch",
    "timm",
    "tensorrt",
    "tensorrt-rtx-cu13",
    "pycuda",
    "cuda-python",
    "cuda-bindings",
    "mlcommons-loadgen",
)

# nvml.h, nvmlClocksEventReasons: reasons for reduced clocks, other than idle and user settings.
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
        "board": text_from_file(root / "proc/device-tree/model"),
        "power_mode": text_from_file(root / "var/lib/nvpmodel/status"),
        "cpu": _cpu(root) or platform.processor() or platform.machine(),
        "cpu_features": cpu_features(root),
        "cores": usable_cores(),
        "governor": _governor(root),
        "memory_bytes": _memory(root),
        "gpus": [asdict(gpu) for gpu in gpus()],
    }


def versions() -> dict[str, str]:
    """Versions of Python, of the installed packages that affect speed, and of the NVIDIA driver."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    driver = driver_version()
    if driver is not None:
        found["nvidia-driver"] = driver
    return found


def conditions(root: Path = Path("/")) -> dict[str, Any]:
    """Temperatures, clocks, throttling and load at this moment."""
    temperatures = _temperatures(root)
    clocks = _cpu_clocks(root)
    throttled: bool | None = None
    reasons: list[str] = []
    with nvml() as library:
        for name, handle in handles(library):
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


def _cpu(root: Path) -> str | None:
    for line in (text_from_file(root / "proc/cpuinfo") or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model", "Hardware"):
            return value.strip()
    return None


def usable_cores() -> int:
    """Cores that this process may use, fewer than the machine has in a container or under taskset."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _governor(root: Path) -> str | None:
    paths = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor"))
    names = sorted({text for path in paths if (text := text_from_file(path))})
    return ", ".join(names) or None


def _memory(root: Path) -> int:
    for line in (text_from_file(root / "proc/meminfo") or "").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return 0


def _temperatures(root: Path) -> dict[str, float]:
    found = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        value = number_from_file(zone / "temp")
        if value is not None:
            found[text_from_file(zone / "type") or zone.name] = value / 1000
    return found


def _cpu_clocks(root: Path) -> dict[str, float]:
    found = {}
    for path in sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")):
        value = number_from_file(path)
        if value is not None:
            found[path.parent.parent.name] = value / 1000
    return found


def _state(library: Any, handle: Any) -> dict[str, float | None]:
    return {
        "temperature": query(library.nvmlDeviceGetTemperature, handle, library.NVML_TEMPERATURE_GPU),
        "sm": query(library.nvmlDeviceGetClockInfo, handle, library.NVML_CLOCK_SM),
        "memory": query(library.nvmlDeviceGetClockInfo, handle, library.NVML_CLOCK_MEM),
        "throttle": query(library.nvmlDeviceGetCurrentClocksThrottleReasons, handle),
    }
