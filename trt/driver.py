"""Whether an NVIDIA driver starts here, asked of its C library: no package is needed."""

import ctypes

__all__ = ["driver_failure"]


def driver_failure() -> str | None:
    """Why CUDA's driver does not start, with its error number; None where it does."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return str(error)
    code = driver.cuInit(0)
    return None if code == 0 else f"cuInit failed with error {code}"
