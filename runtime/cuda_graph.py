"""CUDA graphs through the driver's C interface, which works with either CUDA binding.

pycuda 2026.1 has no graphs. cuda-python has them, in the same five calls, but the extra trt installs pycuda: two
implementations would be needed in place of one.
"""

import ctypes
from typing import Any, Final

from tokfilter.errors import EngineError
from tokfilter.runtime.cuda_bindings import cuda_driver

__all__ = ["Graphs"]

_THREAD_LOCAL: Final = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL, the mode that trtexec captures in: other threads may go on allocating."""


class Graphs:
    """Captures a stream into CUDA graphs and replays them."""

    def __init__(self) -> None:
        self._driver = cuda_driver()
        self._instances: set[int] = set()

    def begin(self, stream: int) -> None:
        """Start to capture the work that is put on the stream."""
        self._call("cuStreamBeginCapture_v2", ctypes.c_void_p(stream), ctypes.c_int(_THREAD_LOCAL))

    def end(self, stream: int) -> int:
        """End the capture. Returns a graph to launch; raises EngineError when nothing was captured."""
        graph, instance, nodes = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_size_t(0)
        self._call("cuStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(graph))
        if graph.value is None:
            raise EngineError("CUDA graph capture failed: run with cuda_graph=False.")
        try:
            self._call("cuGraphGetNodes", graph, None, ctypes.byref(nodes))
            if nodes.value == 0:
                raise EngineError("CUDA graph capture is empty: run with cuda_graph=False.")
            self._call("cuGraphInstantiateWithFlags", ctypes.byref(instance), graph, ctypes.c_ulonglong(0))
        finally:
            self._call("cuGraphDestroy", graph)
        self._instances.add(instance.value or 0)
        return instance.value or 0

    def launch(self, graph: int, stream: int) -> None:
        """Replay a graph."""
        self._call("cuGraphLaunch", ctypes.c_void_p(graph), ctypes.c_void_p(stream))

    def drop(self, graph: int) -> None:
        """Destroy a graph and free its device memory."""
        self._instances.remove(graph)
        self._call("cuGraphExecDestroy", ctypes.c_void_p(graph))

    def close(self) -> None:
        """Destroy all graphs."""
        for graph in tuple(self._instances):
            self.drop(graph)

    def _call(self, function: str, *arguments: Any) -> None:
        status = getattr(self._driver, function)(*arguments)
        if status != 0:
            raise EngineError(f"{function} failed with CUDA error {status}: run with cuda_graph=False.")
