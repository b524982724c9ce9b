"""What is done with a kit, in exact commands: README.md shows them, run.sh runs them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tokfilter.artifacts.manifest import Entry, Manifest, ModelCard

__all__ = ["Step", "kit_steps", "plugin_of", "trtexec_line"]

_TOKFILTER: Final = ".venv/bin/tokfilter"
_ON_CPU: Final = ("fp32", "fp16")
_ON_GPU: Final = ("fp16", "bf16", "fp32")
"""Precisions in the order of preference; no CPU kernels take bf16."""


@dataclass(frozen=True)
class Step:
    """One step, by a name that run.sh takes."""

    name: str
    title: str
    text: str
    commands: tuple[str, ...]


def kit_steps(manifest: Manifest, wheel: str) -> list[Step]:
    """The steps in their order.

    manifest: of the files in the kit
    wheel: file name of tokfilter in the kit
    """
    steps = [_files(), _install(wheel)]
    if precision := _precision(manifest, _ON_CPU):
        steps.append(_cpu(precision))
    return [*steps, _tensorrt(_precision(manifest, _ON_GPU), plugin_of(manifest))]


def plugin_of(manifest: Manifest) -> str | None:
    """File name of the plugin library, where the kit holds one."""
    return next((entry.path for entry in manifest.entries("plugin")), None)


def _files() -> Step:
    return Step(
        "files",
        "Are these the files that were packed?",
        "Prints nothing when every byte is as it was. `engine` and `tune` write into `out/` later.",
        ("sha256sum --check --quiet --strict SHA256SUMS",),
    )


def _install(wheel: str) -> Step:
    return Step(
        "install",
        "Install",
        "Python 3.11 or later, no torch. JetPack 7 brings 3.12; on JetPack 6, whose TensorRT is bound to 3.10, engines "
        "go without Python (below).",
        (
            "python3 -m venv .venv",
            f".venv/bin/pip install './{wheel}[runtime]'",
            f"{_TOKFILTER} doctor",
        ),
    )


def _cpu(precision: str) -> Step:
    return Step(
        "cpu",
        "Verify and measure on the CPU",
        "ONNX Runtime. Outputs are compared with those that torch computed before any time is taken.",
        (
            f"{_TOKFILTER} verify out{precision}",
            f"{_TOKFILTER} bench out{precision} --batch 1,8 --keep 1.0,0.7,0.5 -o cpu.json",
        ),
    )


def _tensorrt(precision: str, plugin: str | None) -> Step:
    compiled = (
        f"The plugin library is `out/{plugin}`; one that `{_TOKFILTER} plugin build` compiles here comes before it."
        if plugin
        else "The plugin is compiled by nvcc and g++; pip brings CMake."
    )
    build = (".venv/bin/pip install cmake ninja", f"{_TOKFILTER} plugin build --architectures native")
    return Step(
        "tensorrt",
        "Build, verify and measure TensorRT engines",
        "JetPack installs TensorRT among the system's packages, which are let in; elsewhere `pip install tensorrt`. "
        f"{compiled} pip compiles pycuda; cuda-python of the driver's CUDA version does as well. An engine runs on the "
        "GPU and the TensorRT that built it. On a Jetson set power mode and clocks before: "
        "`sudo nvpmodel -m 0 && sudo jetson_clocks`.",
        (
            "python3 -m venv --system-site-packages .venv",
            "PATH=/usr/local/cuda/bin:$PATH .venv/bin/pip install pycuda",
            *(() if plugin else build),
            f"{_TOKFILTER} engine out --trt{precision} --batch 1:1:8",
            f"{_TOKFILTER} verify out --runtime tensorrt{precision}",
            f"{_TOKFILTER} bench out --runtime tensorrt{precision} --cuda-graph --batch 1,8 -o tensorrt.json",
        ),
    )


def _precision(manifest: Manifest, preferred: Sequence[str]) -> str:
    """The option that names the first precision that the kit has graphs in; empty when there is none of them."""
    there = {entry.precision for entry in manifest.files if entry.runtime == "onnx"}
    return next((f" --precision {name}" for name in preferred if name in there), "")


def trtexec_line(graph: Entry, card: ModelCard, plugin: str | None) -> str:
    """The same engine by TensorRT's own program, for who wants no Python."""
    pixels = "x".join(map(str, card.input_size))
    shapes = {"min": (1, 1), "opt": (1, card.keep), "max": (8, card.num_patches)}
    elastic = graph.role == "filtered" and graph.budget is None
    parts = [f"trtexec --onnx=out/{graph.path} --saveEngine={graph.path.removesuffix('.onnx')}.plan --stronglyTyped"]
    for name, (batch, budget) in shapes.items():
        slots = f",slots:{budget}" if elastic else ""
        parts.append(f"--{name}Shapes=images:{batch}x{pixels}{slots}")
    if plugin is not None and graph.role == "filtered":
        parts.append(f"--dynamicPlugins=out/{plugin}")
    return " ".join(parts)
