"""NVIDIA GPUs of this machine as NVML reports them, through nvidia-ml-py (``pynvml``), which is optional.

Without the package, a driver or permission there is nothing to report and no error. NVML lists every GPU of the
machine, whatever CUDA_VISIBLE_DEVICES is. Source: NVIDIA's NVML API reference.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

__all__ = ["Gpu", "driver_version", "gpus", "handles", "nvml", "query", "start_nvml"]


@dataclass(frozen=True)
class Gpu:
    """One GPU; a value that NVML does not report is None (a Jetson reports few).

    compute_capability: such as "9.0"
    max_sm_mhz: highest clock of the multiprocessors
    power_limit_w: enforced limit in watts
    """

    name: str
    uuid: str | None
    compute_capability: str | None
    memory_bytes: int | None
    max_sm_mhz: int | None
    power_limit_w: float | None


@contextmanager
def nvml() -> Iterator[Any]:
    """NVML's Python module, initialised for a block; None where the package or the driver is missing."""
    library = start_nvml()
    try:
        yield library
    finally:
        if library is not None:
            library.nvmlShutdown()


def start_nvml() -> Any | None:
    """NVML's Python module, initialised: the caller shuts it down. None where it does not start."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no package, no driver or no permission: there is no NVML to use
        return None
    return pynvml


def handles(library: Any) -> list[tuple[str, Any]]:
    """(name such as "gpu0", NVML handle) of each GPU that can be used. library: from ``nvml``, or None."""
    if library is None:
        return []
    # A GPU that a container may not use, or that is lost, has an index but no handle.
    found = [(f"gpu{i}", query(library.nvmlDeviceGetHandleByIndex, i)) for i in range(library.nvmlDeviceGetCount())]
    return [(name, handle) for name, handle in found if handle is not None]


def query(function: Callable[..., Any], *arguments: Any) -> Any:
    """The value of an NVML call, or None where this GPU does not support it."""
    try:
        return function(*arguments)
    except Exception:
        return None


def gpus() -> list[Gpu]:
    """The GPUs that can be used, in NVML's order (PCI bus)."""
    with nvml() as library:
        return [_gpu(library, handle) for _, handle in handles(library)]


def driver_version() -> str | None:
    """Version of the NVIDIA driver, such as "580.159.04"."""
    with nvml() as library:
        return None if library is None else str(library.nvmlSystemGetDriverVersion())


def _gpu(library: Any, handle: Any) -> Gpu:
    capability = query(library.nvmlDeviceGetCudaComputeCapability, handle)
    memory = query(library.nvmlDeviceGetMemoryInfo, handle)
    limit = query(library.nvmlDeviceGetPowerManagementLimit, handle)
    return Gpu(
        name=str(library.nvmlDeviceGetName(handle)),
        uuid=query(library.nvmlDeviceGetUUID, handle),
        compute_capability=None if capability is None else ".".join(map(str, capability)),
        memory_bytes=None if memory is None else int(memory.total),
        max_sm_mhz=query(library.nvmlDeviceGetMaxClockInfo, handle, library.NVML_CLOCK_SM),
        power_limit_w=None if limit is None else limit / 1000,
    )
