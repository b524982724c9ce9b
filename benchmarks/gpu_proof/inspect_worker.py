"""Layers and kernels of one engine, in TensorRT's Python: the engine inspector, and the nodes of a captured graph.

TensorRT 8.6 runs a transformer as one layer of its compiler (Myelin), whose kernels the inspector does not list; a CUDA
graph of the same call has every kernel with its name.
"""

import ctypes
import json
from pathlib import Path
from typing import Any, Final

from tokfilter.artifacts.manifest import load_manifest
from tokfilter.benchmarks.gpu_proof.worker import answer
from tokfilter.errors import EngineError
from tokfilter.runtime.cuda_bindings import cuda_driver
from tokfilter.runtime.model_files import ModelFile
from tokfilter.runtime.tensorrt_session import TensorRTSession

__all__ = ["KernelNode", "inspect", "kernel_names", "layer_names"]

_THREAD_LOCAL: Final = 1
_KERNEL_NODE: Final = 0
_NAME_KEYS: Final = ("Name", "TacticName")


class KernelNode(ctypes.Structure):
    """CUDA_KERNEL_NODE_PARAMS_v2 of cuda.h (CUDA 12)."""

    _fields_ = (
        ("function", ctypes.c_void_p),
        ("sizes", ctypes.c_uint * 7),
        ("parameters", ctypes.c_void_p),
        ("extra", ctypes.c_void_p),
        ("kernel", ctypes.c_void_p),
        ("context", ctypes.c_void_p),
    )


def inspect(request: dict[str, Any]) -> dict[str, Any]:
    """Names of layers and kernels of the engine in a directory, at one batch and budget.

    Returns layers, kernels (in the order of the graph's nodes) and nodes, the number of nodes of the graph.
    """
    directory = Path(request["directory"])
    manifest = load_manifest(directory)
    entry = next(entry for entry in manifest.files if entry.runtime == "tensorrt" and entry.role != "plugin")
    with TensorRTSession(ModelFile(directory, manifest, entry)) as session:
        engine: Any = session._engine
        text = engine.create_engine_inspector().get_engine_information(session._module.LayerInformationFormat.JSON)
        with session._cuda.current():  # type: ignore[union-attr]
            prepared = session._prepare(request["batch"], request["tokens"])
            kernels, nodes = kernel_names(cuda_driver(), session._stream, lambda: session._enqueue(prepared.context))
    return {"layers": layer_names(text), "kernels": kernels, "nodes": nodes}


def layer_names(text: str) -> list[str]:
    """Names of layers and tactics from the engine inspector's JSON."""
    try:
        layers = json.loads(text)["Layers"]
    except (ValueError, KeyError, TypeError):
        return []
    found = []
    for layer in layers:
        names = [layer] if isinstance(layer, str) else [str(layer[key]) for key in _NAME_KEYS if layer.get(key)]
        found.append(": ".join(names))
    return found


def kernel_names(driver: Any, stream: int, enqueue: Any) -> tuple[list[str], int]:
    """Names of the kernels that ``enqueue`` puts on the stream, and the number of nodes; nothing is run.

    driver: the CUDA driver's library, 12.3 or later. Raises EngineError.
    """
    graph, count = ctypes.c_void_p(), ctypes.c_size_t()
    _call(driver, "cuStreamBeginCapture_v2", ctypes.c_void_p(stream), ctypes.c_int(_THREAD_LOCAL))
    try:
        enqueue()
    finally:
        _call(driver, "cuStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(graph))
    try:
        _call(driver, "cuGraphGetNodes", graph, None, ctypes.byref(count))
        nodes = (ctypes.c_void_p * count.value)()
        _call(driver, "cuGraphGetNodes", graph, nodes, ctypes.byref(count))
        found = [_kernel_name(driver, ctypes.c_void_p(node)) for node in nodes]
    finally:
        _call(driver, "cuGraphDestroy", graph)
    return [name for name in found if name is not None], count.value


def _kernel_name(driver: Any, node: ctypes.c_void_p) -> str | None:
    kind, parameters, name = ctypes.c_int(), KernelNode(), ctypes.c_char_p()
    _call(driver, "cuGraphNodeGetType", node, ctypes.byref(kind))
    if kind.value != _KERNEL_NODE:
        return None
    _call(driver, "cuGraphKernelNodeGetParams_v2", node, ctypes.byref(parameters))
    if parameters.function:
        _call(driver, "cuFuncGetName", ctypes.byref(name), ctypes.c_void_p(parameters.function))
    else:
        _call(driver, "cuKernelGetName", ctypes.byref(name), ctypes.c_void_p(parameters.kernel))
    return (name.value or b"").decode(errors="replace")


def _call(driver: Any, function: str, *arguments: Any) -> None:
    try:
        status = getattr(driver, function)(*arguments)
    except AttributeError:
        raise EngineError(f"the driver has no {function}: names of kernels need CUDA 12.3 or later.") from None
    if status != 0:
        raise EngineError(f"{function} failed with CUDA error {status}.")


if __name__ == "__main__":
    answer(inspect)
