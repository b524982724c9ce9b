"""Names of kernels from a captured graph, on a fake driver; names of layers from the engine inspector's JSON."""

import ctypes

import pytest

from tokfilter.benchmarks.gpu_proof.inspect_worker import KernelNode, kernel_names, layer_names
from tokfilter.errors import EngineError


class FakeGraphs:
    """libcuda: the graph of a capture with kernels and one copy between them.

    Written from cuda.h of CUDA 12.4; no real driver confirmed it.
    """

    KERNELS = (b"_gemm_mha_v2_0x1", None, b"gemm_fp16")

    def __init__(self, broken=""):
        self.calls, self.broken = [], broken

    def __getattr__(self, name):
        if not name.startswith("cu"):
            raise AttributeError(name)
        if name == self.broken:
            return lambda *arguments: 801
        self.calls.append(name)
        return lambda *arguments: self.answer(name, *arguments)

    def answer(self, name, *arguments):
        if name == "cuStreamEndCapture":
            arguments[1]._obj.value = 99
        elif name == "cuGraphGetNodes":
            arguments[2]._obj.value = len(self.KERNELS)
            for index in range(len(self.KERNELS) if arguments[1] is not None else 0):
                arguments[1][index] = index + 1
        elif name == "cuGraphNodeGetType":
            arguments[1]._obj.value = 0 if self.KERNELS[arguments[0].value - 1] else 1
        elif name == "cuGraphKernelNodeGetParams_v2":
            field = "function" if arguments[0].value == 1 else "kernel"
            setattr(arguments[1]._obj, field, arguments[0].value)
        elif name in ("cuFuncGetName", "cuKernelGetName"):
            arguments[0]._obj.value = self.KERNELS[arguments[1].value - 1]
        return 0


def test_kernels_are_named_whether_they_are_functions_or_of_a_library():
    driver, enqueued = FakeGraphs(), []
    names, nodes = kernel_names(driver, 7, lambda: enqueued.append(1))
    assert (names, nodes, enqueued) == (["_gemm_mha_v2_0x1", "gemm_fp16"], 3, [1])
    assert driver.calls[:2] == ["cuStreamBeginCapture_v2", "cuStreamEndCapture"]
    assert {"cuFuncGetName", "cuKernelGetName"} <= set(driver.calls) and driver.calls[-1] == "cuGraphDestroy"


def test_the_capture_ends_and_the_graph_is_destroyed_after_an_error():
    driver = FakeGraphs()

    def fail():
        raise EngineError("TensorRT could not enqueue")

    with pytest.raises(EngineError, match="could not enqueue"):
        kernel_names(driver, 7, fail)
    assert driver.calls[-1] == "cuStreamEndCapture"
    driver = FakeGraphs(broken="cuFuncGetName")
    with pytest.raises(EngineError, match="cuFuncGetName failed with CUDA error 801"):
        kernel_names(driver, 7, lambda: None)
    assert driver.calls[-1] == "cuGraphDestroy"


def test_a_driver_without_names_says_which_it_needs():
    class Old(FakeGraphs):
        def __getattr__(self, name):
            if name.endswith("GetName"):
                raise AttributeError(name)
            return super().__getattr__(name)

    with pytest.raises(EngineError, match=r"no cuFuncGetName: names of kernels need CUDA 12\.3"):
        kernel_names(Old(), 7, lambda: None)


def test_the_layout_is_that_of_cuda_h():
    """CUDA_KERNEL_NODE_PARAMS_v2: a function, seven unsigned integers, four pointers, on a 64-bit machine."""
    assert ctypes.sizeof(KernelNode) == 72
    assert [getattr(KernelNode, name).offset for name in ("function", "sizes", "parameters", "kernel")] == [
        0,
        8,
        40,
        56,
    ]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('{"Layers": ["a", "b"]}', ["a", "b"]),
        ('{"Layers": [{"Name": "n", "TacticName": "fmha_v2"}, {"Name": "m", "TacticName": ""}]}', ["n: fmha_v2", "m"]),
        ('{"Layers": 3', []),
        ('{"Bindings": []}', []),
    ],
)
def test_layers_are_named_with_their_tactics(text, names):
    assert layer_names(text) == names
