"""Runs one engine through the C++ library (by its C interface) and through the Python session, in TensorRT's Python."""

import ctypes
from pathlib import Path
from typing import Any

import numpy as np

from tokfilter.artifacts.golden import golden_of
from tokfilter.artifacts.manifest import load_manifest
from tokfilter.benchmarks.gpu_proof.worker import answer
from tokfilter.errors import EngineError
from tokfilter.runtime.model_files import ModelFile, find_entry
from tokfilter.runtime.session import Array
from tokfilter.runtime.tensorrt_session import TensorRTSession

__all__ = ["Call", "Options", "call_of", "compare"]


class Options(ctypes.Structure):
    """tokfilter_options of tokfilter.h."""

    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("full", ctypes.c_int),
        ("precision", ctypes.c_char_p),
        ("tokens", ctypes.c_int64),
        ("device", ctypes.c_int),
    )


class Call(ctypes.Structure):
    """tokfilter_call of tokfilter.h."""

    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("images", ctypes.c_void_p),
        ("pixels", ctypes.c_void_p),
        ("shape", ctypes.c_int64 * 4),
        ("tokens", ctypes.c_int64),
        ("logits", ctypes.c_void_p),
        ("logits_room", ctypes.c_size_t),
        ("indices", ctypes.c_void_p),
        ("indices_room", ctypes.c_size_t),
        ("stream", ctypes.c_void_p),
    )


def compare(request: dict[str, Any]) -> dict[str, Any]:
    """Both answers to the golden images at each budget. Raises EngineError with the library's message."""
    directory, role = Path(request["directory"]), request["role"]
    manifest = load_manifest(directory)
    entry = find_entry(manifest, role, "tensorrt", request["precision"])
    images = golden_of(directory, manifest).tiled(request["batch"])
    library = ctypes.CDLL(request["library"])
    library.tokfilter_last_error.restype = ctypes.c_char_p
    engine = ctypes.c_void_p()
    options = Options(ctypes.sizeof(Options), int(role == "full"), request["precision"].encode(), 0, 0)
    _checked(
        library, library.tokfilter_engine_open(str(directory).encode(), ctypes.byref(options), ctypes.byref(engine))
    )
    answers = []
    with TensorRTSession(ModelFile(directory, manifest, entry)) as session:
        for tokens in request["budgets"]:
            expected = session.run(images, tokens)
            logits, indices = _library_answer(library, engine, images, tokens, expected.logits.shape[1], role)
            same = np.array_equal(logits, expected.logits)
            if expected.indices is not None:
                same = same and np.array_equal(indices, expected.indices)
            difference = float(np.abs(logits - expected.logits).max())
            answers.append({"tokens": tokens, "equal": bool(same), "largest_difference": difference})
    _checked(library, library.tokfilter_engine_close(ctypes.byref(engine)))
    return {"answers": answers}


def _library_answer(
    library: Any, engine: ctypes.c_void_p, images: Array, tokens: int, classes: int, role: str
) -> tuple[Array, Array]:
    """Logits [B, classes] and indices [B, k] from the C++ library."""
    logits = np.empty((len(images), classes), np.float32)
    indices = np.empty((len(images), tokens), np.int32)
    call = call_of(images, tokens=0 if role == "full" else tokens, logits=logits)
    if role != "full":
        call.indices, call.indices_room = indices.ctypes.data, indices.size
    _checked(library, library.tokfilter_engine_run(engine, ctypes.byref(call), None))
    return logits, indices


def call_of(images: Array, tokens: int, logits: Array) -> Call:
    """A call with images [B, 3, H, W] in fp32 that writes logits [B, classes]; the caller keeps both arrays alive."""
    return Call(
        struct_size=ctypes.sizeof(Call),
        images=images.ctypes.data,
        shape=(ctypes.c_int64 * 4)(*images.shape),
        tokens=tokens,
        logits=logits.ctypes.data,
        logits_room=logits.size,
    )


def _checked(library: Any, status: int) -> None:
    if status != 0:
        raise EngineError(f"the C++ library: {library.tokfilter_last_error().decode(errors='replace')}")


if __name__ == "__main__":
    answer(compare)
