"""The steps, in the order of their value."""

from dataclasses import dataclass
from typing import Final

from tokfilter.errors import DataError

__all__ = ["PREPARATION", "STEPS", "Step", "step_named", "steps_from_text"]

_PACKAGE: Final = "tokfilter.benchmarks.gpu_proof"


@dataclass(frozen=True)
class Step:
    """A step and its time limit.

    run: module:function, called with the context and ``arguments``
    limit_s: it is killed after this time; the results that it has sent by then stay. With TensorRT 8.6 a step of times
        builds 16 engines, of which eight took up to 128 s (docs/gpu.md)
    """

    name: str
    title: str
    run: str
    limit_s: float
    arguments: tuple[str, ...] = ()


PREPARATION: Final = (
    Step("found", "What the machine has", f"{_PACKAGE}.probe:run", 90),
    Step("prepare", "Graphs, golden tensors, plugin library", f"{_PACKAGE}.prepare:run", 240),
)
"""Always run; the others need their results."""

STEPS: Final = (
    Step("golden", "Plugin inside TensorRT against golden tensors", f"{_PACKAGE}.golden:run", 300),
    Step("speed-deit_small", "Full against filtered", f"{_PACKAGE}.speed:run", 420, ("deit_small",)),
    Step("engines-deit_small", "PyTorch, ONNX Runtime, TensorRT", f"{_PACKAGE}.frameworks:run", 240, ("deit_small",)),
    Step("native", "Plugin engine against native TopK and Gather", f"{_PACKAGE}.native:run", 240, ("deit_small",)),
    Step("int8-deit_small", "int8 beside fp16", f"{_PACKAGE}.int8:run", 300, ("deit_small",)),
    Step("speed-vit_base", "Full against filtered", f"{_PACKAGE}.speed:run", 480, ("vit_base",)),
    Step("attention", "Fused attention in every block", f"{_PACKAGE}.attention:run", 60),
    Step("library", "C++ library against Python", f"{_PACKAGE}.native_library:run", 120, ("deit_small",)),
    Step("sanitizer", "compute-sanitizer memcheck", f"{_PACKAGE}.sanitizer:run", 180, ("deit_small",)),
    Step("engines-vit_base", "PyTorch, ONNX Runtime, TensorRT", f"{_PACKAGE}.frameworks:run", 240, ("vit_base",)),
)


def step_named(name: str) -> Step:
    """The step of a name. Raises DataError."""
    for step in (*PREPARATION, *STEPS):
        if step.name == name:
            return step
    raise DataError(f"a step must be one of {', '.join(step.name for step in STEPS)}, got {name!r}.")


def steps_from_text(text: str) -> tuple[Step, ...]:
    """Steps from names with commas between, in the order given, without repeats; empty means all. Raises DataError."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    return tuple(step_named(name) for name in dict.fromkeys(names)) or STEPS
