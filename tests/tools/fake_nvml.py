"""Fake NVML (``pynvml`` of nvidia-ml-py): a machine with two GPUs, of which this process may use the first.

Confirmed with the real library: nvidia-ml-py on an NVIDIA H200 (driver 580.159.04, 2026-11-26) gave energy, clocks and
throttle reasons through the calls below. A GPU that refuses its handle was confirmed by no real library.
"""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

__all__ = ["install_fake_nvml"]


def install_fake_nvml(monkeypatch: Any) -> Any:
    """Put the fake into ``sys.modules`` as ``pynvml`` and return it.

    millijoules: value of the energy counter
    started: nvmlInit minus nvmlShutdown; starts: how often NVML went from stopped to started
    names: of the GPUs, by index; denied: indices whose handle is refused
    """

    def handle(index: int) -> int:
        if index in module.denied:
            raise RuntimeError("Insufficient Permissions")
        return index

    def start() -> None:
        module.started += 1
        module.starts += module.started == 1

    def stop() -> None:
        module.started -= 1

    module: Any = ModuleType("pynvml")
    module.started = module.starts = module.millijoules = 0
    module.names, module.denied, module.capabilities = ["Fake GPU", "Fake GPU"], {1}, [(9, 0), (9, 0)]
    module.nvmlInit, module.nvmlShutdown = start, stop
    module.nvmlSystemGetDriverVersion = lambda: "580.0"
    module.nvmlDeviceGetCount = lambda: len(module.names)
    module.nvmlDeviceGetHandleByIndex = handle
    module.nvmlDeviceGetTotalEnergyConsumption = lambda handle: module.millijoules
    module.nvmlDeviceGetName = lambda handle: module.names[handle]
    module.nvmlDeviceGetTemperature = lambda handle, sensor: 50
    module.nvmlDeviceGetClockInfo = lambda handle, clock: 1000
    module.nvmlDeviceGetCurrentClocksThrottleReasons = lambda handle: 0x4
    module.nvmlDeviceGetPowerManagementLimit = lambda handle: 300_000
    module.nvmlDeviceGetMaxClockInfo = lambda handle, clock: 1980
    module.nvmlDeviceGetMemoryInfo = lambda handle: SimpleNamespace(total=2**30)
    module.nvmlDeviceGetCudaComputeCapability = lambda handle: module.capabilities[handle]
    module.nvmlDeviceGetUUID = lambda handle: f"GPU-{handle}"
    module.NVML_CLOCK_SM = module.NVML_CLOCK_MEM = module.NVML_TEMPERATURE_GPU = 0
    monkeypatch.setitem(sys.modules, "pynvml", module)
    return module
