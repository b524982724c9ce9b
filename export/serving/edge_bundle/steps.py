"""The steps on the device, as commands: README.md shows them, run.sh runs them."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tokfilter.artifacts.manifest import Entry, Manifest, ModelCard
from tokfilter.artifacts.pixels import input_shape

__all__ = ["Step", "edge_steps", "plugin_of", "trtexec_line"]

_TOKFILTER: Final = ".venv/bin/tokfilter"
_PIP_LOCKED: Final = ".venv/bin/pip install --require-hashes"
_ON_CPU: Final = ("fp32", "fp16")
_ON_GPU: Final = ("fp16", "bf16", "fp32")
"""Precisions in the order of preference; no CPU kernels take bf16."""


@dataclass(frozen=True)
class Step:
    """One step; ``name`` is an argument of run.sh."""

    name: str
    title: str
    text: str
    commands: tuple[str, ...]


def edge_steps(manifest: Manifest, wheel: str) -> list[Step]:
    """The steps in their order.

    manifest: of the files in the bundle
    wheel: file name of tokfilter in the bundle
    """
    steps = [_files(), _install(wheel)]
    if precision := _precision(manifest, _ON_CPU):
        steps.append(_cpu(precision))
    if "fp32" in _precisions(manifest):
        steps.append(_openvino())
    return [*steps, _tensorrt(_precision(manifest, _ON_GPU), plugin_of(manifest))]


def plugin_of(manifest: Manifest) -> str | None:
    """File name of the plugin library, where the bundle has one."""
    return next((entry.path for entry in manifest.entries("plugin")), None)


def _files() -> Step:
    return Step(
        "files",
        "Check the files",
        "Prints nothing when every file has its checksum. `engine` and `tune` change `out/` later.",
        ("sha256sum --check --quiet --strict SHA256SUMS",),
    )


def _install(wheel: str) -> Step:
    return Step(
        "install",
        "Install",
        "Python 3.10 or later, no torch. JetPack 6 has Python 3.10, JetPack 7 has 3.12. `requirements/` has versions "
        "that work together and the hashes of their files, which pip compares. Where this machine has none of those "
        f"files, `.venv/bin/pip install './{wheel}[runtime]'` takes what fits.",
        (
            "python3 -m venv .venv",
            f"{_PIP_LOCKED} --only-binary :all: -r requirements/runtime.txt",
            f".venv/bin/pip install --no-deps './{wheel}'",
            f"{_TOKFILTER} doctor",
        ),
    )


def _cpu(precision: str) -> Step:
    return Step(
        "cpu",
        "Verify and measure on the CPU",
        "ONNX Runtime. Outputs are compared with torch's golden tensors before anything is measured. OpenVINO runs the "
        "same files and is faster on many CPUs: step `openvino`.",
        (
            f"{_TOKFILTER} verify out{precision}",
            f"{_TOKFILTER} bench out{precision} --batch 1,8 --keep 1.0,0.7,0.5 -o cpu.json",
        ),
    )


def _openvino() -> Step:
    return Step(
        "openvino",
        "Verify and measure on the CPU with OpenVINO",
        f"The extra `openvino`, for x86-64 and arm64. `{_TOKFILTER} doctor` says whether this CPU has bf16: then "
        "`--precision bf16` computes the same fp32 files in it. Every engine is measured in turn, each with its own "
        "full model and with the first engine.",
        (
            f"{_PIP_LOCKED} --only-binary :all: -r requirements/openvino.txt",
            f"{_TOKFILTER} verify out --runtime openvino",
            f"{_TOKFILTER} bench out --runtime onnx,openvino --batch 1,8 --keep 1.0,0.7,0.5 -o engines.json",
        ),
    )


def _tensorrt(precision: str, plugin: str | None) -> Step:
    compiled = (
        f"The plugin library is `out/{plugin}`; one that `{_TOKFILTER} plugin build` compiles here takes precedence."
        if plugin
        else "The plugin is compiled by nvcc and g++; pip installs CMake."
    )
    return Step(
        "tensorrt",
        "Build, verify and measure TensorRT engines",
        "JetPack installs TensorRT as a system package, visible here; elsewhere `pip install tensorrt`. "
        f"{compiled} pip compiles pycuda; cuda-python of the driver's CUDA version does as well. An engine runs on the "
        "GPU and the TensorRT that built it. On a Jetson set power mode and clocks before: "
        "`sudo nvpmodel -m 0 && sudo jetson_clocks`.",
        (
            "python3 -m venv --system-site-packages .venv",
            f"PATH=/usr/local/cuda/bin:$PATH {_PIP_LOCKED} -r requirements/tensorrt.txt",
            *(() if plugin else (f"{_TOKFILTER} plugin build --architectures native",)),
            f"{_TOKFILTER} engine out --trt{precision} --batch 1:1:8",
            f"{_TOKFILTER} verify out --runtime tensorrt{precision}",
            f"{_TOKFILTER} bench out --runtime tensorrt{precision} --cuda-graph --batch 1,8 -o tensorrt.json",
        ),
    )


def _precision(manifest: Manifest, preferred: Sequence[str]) -> str:
    """The option for the first precision that the bundle has graphs in; empty without one."""
    there = _precisions(manifest)
    return next((f" --precision {name}" for name in preferred if name in there), "")


def _precisions(manifest: Manifest) -> set[str | None]:
    return {entry.precision for entry in manifest.files if entry.runtime == "onnx"}


def trtexec_line(graph: Entry, card: ModelCard, plugin: str | None) -> str:
    """The command that builds the same engine without Python, with TensorRT's own program.

    For a graph of TensorRT 8 in fp16, which its builder chooses, with the plugin as built on the device.
    """
    in_8 = graph.runtime == "onnx-tensorrt8"
    pixels = "x".join(map(str, input_shape(card.input, card.input_size)))
    shapes = {"min": (1, 1), "opt": (1, card.keep), "max": (8, card.num_patches)}
    elastic = graph.role == "filtered" and graph.budget is None
    plan, types = f"{graph.path.removesuffix('.onnx')}.plan", "--fp16" if in_8 else "--stronglyTyped"
    parts = ["trtexec", f"--onnx=out/{graph.path}", f"--saveEngine={plan}", types, "--noTF32"]
    for name, (batch, budget) in shapes.items():
        slots = f",slots:{budget}" if elastic else ""
        parts.append(f"--{name}Shapes=images:{batch}x{pixels}{slots}")
    if in_8 and graph.target.get("plugin_interface"):
        parts.append("--plugins=build/plugin/libtokfilter_plugin_static.so")
    elif plugin is not None and graph.role == "filtered" and not in_8:
        parts.append(f"--dynamicPlugins=out/{plugin}")
    return shlex.join(parts)
