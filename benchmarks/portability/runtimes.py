"""The runtimes and tools that read the exported files, each with what installs it."""

from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["RUNTIMES", "Runtime"]

Kind = Literal["python", "node"]


@dataclass(frozen=True)
class Runtime:
    """One runtime or tool.

    name: as in the table
    probe: file in ``probes/``; ``*_tool.py`` write another ONNX file, which ONNX Runtime then runs
    packages: of pip or npm, with versions
    note: what the probe fixes when it reads the graph
    kind: python has a virtual environment, node a folder of npm packages
    alone: install without dependencies: they are named here as far as the probe needs them
    with_torch: whether the environment also sees the packages of ours, torch among them
    quick: installs in seconds, and is checked in CI
    precise: whether the result is held to the tolerance of fp32; a quantised graph to a cosine of 0.99
    """

    name: str
    probe: str
    packages: tuple[str, ...]
    note: str = ""
    kind: Kind = "python"
    alone: bool = False
    with_torch: bool = False
    quick: bool = False
    precise: bool = True

    @property
    def folder(self) -> str:
        """Name of its environment's folder."""
        return self.name.replace(", ", "-").replace(" ", "-").lower()

    @property
    def is_tool(self) -> bool:
        """Whether it writes another ONNX file."""
        return self.probe.endswith("_tool.py")


_ONNX: Final = "onnx==1.23.2"
_ORT: Final = "onnxruntime==1.31.1"
_FIXED: Final = "shapes fixed when read"

RUNTIMES: Final[tuple[Runtime, ...]] = (
    Runtime("ONNX Runtime", "onnxruntime_probe.py", (_ORT,), quick=True),
    Runtime("ReferenceEvaluator", "reference_probe.py", (_ONNX,), quick=True),
    Runtime("OpenVINO", "openvino_probe.py", ("openvino==2026.4.1",), quick=True),
    Runtime("onnxruntime-node", "node_probe.mjs", ("onnxruntime-node@1.30.0",), kind="node"),
    Runtime("onnxruntime-web", "node_probe.mjs", ("onnxruntime-web@1.30.0",), "WASM, in Node", kind="node"),
    Runtime(
        "tract",
        "tract_probe.py",
        ("tract==0.23.9", "numpy"),
        "shapes fixed when read where the budget is free",
        quick=True,
    ),
    Runtime(
        "IREE",
        "iree_probe.py",
        ("iree-base-compiler[onnx]==3.13.0", "iree-base-runtime==3.13.0", _ONNX),
        "its limit of the stack raised",
    ),
    Runtime("MNN", "mnn_probe.py", ("MNN==3.6.1", "numpy")),
    Runtime(
        "pnnx, ncnn",
        "ncnn_probe.py",
        ("pnnx==20261020", "ncnn==1.0.20261020", "numpy"),
        f"{_FIXED}, images one by one",
        alone=True,
    ),  # pnnx asks for torch
    Runtime("TVM", "tvm_probe.py", ("apache-tvm==0.27.0.post1", _ONNX), _FIXED),
    Runtime("onnx2torch", "onnx2torch_probe.py", ("onnx2torch==1.5.15",), alone=True, with_torch=True),
    Runtime("tinygrad", "tinygrad_probe.py", ("tinygrad==0.14.0", "numpy")),
    Runtime("onnxslim", "onnxslim_tool.py", ("onnxslim==0.1.98", _ONNX)),
    Runtime("onnxsim", "onnxsim_tool.py", ("onnxsim==0.8.1", _ORT, _ONNX)),
    Runtime("quantize_dynamic", "quantize_dynamic_tool.py", (_ORT, _ONNX), precise=False),
    Runtime("quantize_static", "quantize_static_tool.py", (_ORT, _ONNX, "sympy"), precise=False),
    Runtime("float16 converter", "float16_tool.py", (_ORT, _ONNX, "sympy"), precise=False),
)
