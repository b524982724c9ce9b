"""Images that lie on the GPU already: tensors of PyTorch, CuPy or JAX, through DLPack and without a copy."""

from typing import Any, Final

from tokfilter.errors import DataError
from tokfilter.runtime.session import TensorSpec

__all__ = ["is_device_array", "ortvalue_from_images"]

_KINDS: Final = {1: "cpu", 2: "cuda", 3: "page-locked host memory", 13: "CUDA managed memory"}
"""DLDeviceType of DLPack's header."""

_DTYPES: Final = {"float32": "tensor(float)", "float16": "tensor(float16)", "uint8": "tensor(uint8)"}


def is_device_array(images: Any) -> bool:
    """Whether ``images`` speaks DLPack and is no numpy array."""
    return hasattr(images, "__dlpack_device__") and not type(images).__module__.startswith("numpy")


def ortvalue_from_images(onnxruntime: Any, images: Any, spec: TensorSpec, device: tuple[str, int], stream: int) -> Any:
    """An OrtValue over the memory of ``images`` [B, 3, H, W], which must live on until the run is done.

    device: kind and number of the device that the session runs on
    stream: of the session; it waits for what the tensor's owner has put on its own
    Raises DataError for another device, shape, type, or a tensor that is not contiguous.
    """
    kind, number = images.__dlpack_device__()
    found = (_KINDS.get(int(kind), f"device type {int(kind)}"), int(number))
    if found != device:
        raise DataError(
            f"images must be on {_text(device)}, where this session runs, but they are on {_text(found)}: move them "
            f"there, or open the session with device={found[1]}."
        )
    try:
        capsule = images.__dlpack__() if device[0] == "cpu" else images.__dlpack__(stream=stream)
        value = onnxruntime.OrtValue.from_dlpack(capsule)
    except Exception as error:  # each library has its own types
        contiguous = "contiguous" in str(error)
        raise DataError(
            f"images must be {spec}, contiguous and without gradient, got a tensor that "
            + ("is not contiguous: call images.contiguous()." if contiguous else f"DLPack refuses: {_line(error)}.")
        ) from error
    shape, kind_of_value = tuple(value.shape()), value.data_type()
    if not _fits(shape, spec):
        raise DataError(f"images must be {spec}, got {list(shape)} {kind_of_value}.")
    if kind_of_value != _DTYPES.get(spec.dtype.name):
        raise DataError(f"images must be {spec}, got {kind_of_value}: convert them on the device.")
    return value


def _fits(shape: tuple[int, ...], spec: TensorSpec) -> bool:
    same = len(shape) == len(spec.shape) and 0 not in shape
    return same and all(got == want for got, want in zip(shape, spec.shape, strict=True) if isinstance(want, int))


def _text(device: tuple[str, int]) -> str:
    return f"{device[0]}:{device[1]}" if device[0] != "cpu" else "the CPU"


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
