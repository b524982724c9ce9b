"""Settings of a run, the same in the parent and in the process of each step."""

import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from tokfilter.artifacts.budget import tokens_from_keep
from tokfilter.benchmarks.records.paths import ROOT
from tokfilter.errors import DataError
from tokfilter.runtime.comparison.processes import Interpreter

__all__ = [
    "BATCHES",
    "MODELS",
    "ModelSpec",
    "Settings",
    "batches_from_text",
    "interpreter_from_tree",
    "models_from_text",
]

BATCHES: Final = (1, 8, 32, 128)
_TIMED_KEEPS: Final = (0.7, 0.5, 0.35)
_GOLDEN_COUNTS: Final = (37, 98)
_LARGEST_BATCH: Final = 1024
_LAZY: Final = "CUDA_MODULE_LOADING"


@dataclass(frozen=True)
class ModelSpec:
    """A timm model with random weights (seed 0): time does not depend on them, golden tensors are made from them.

    patches: patch tokens of an image
    blocks: transformer blocks, each with one attention
    """

    name: str
    architecture: str
    patches: int
    blocks: int = 12
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def timed(self) -> list[int]:
        """Budgets in tokens that are timed beside every token."""
        return [tokens_from_keep(keep, self.patches) for keep in _TIMED_KEEPS]

    @property
    def compared(self) -> list[int]:
        """Budgets whose golden tensors are compared first: few, half and all tokens."""
        return [*(k for k in _GOLDEN_COUNTS if k < self.patches), self.patches]

    @property
    def golden(self) -> list[int]:
        """Budgets that torch computes golden logits for."""
        return sorted({*self.compared, *self.timed} - {self.patches})


MODELS: Final = (
    ModelSpec("deit_small", "deit_small_patch16_224", 196),
    ModelSpec("vit_base", "vit_base_patch16_224", 196),
)


@dataclass(frozen=True)
class Settings:
    """Settings of a run.

    work: folder for graphs, engines and logs; graphs are used again if the sources did not change
    minutes: for all steps together
    dry_run: stop each step where it would use the device first
    tensorrt8: folder of a TensorRT with its own Python (lib/, site/, python/); None takes that of this Python
    plugin, library: a built plugin library and C++ library; None builds them
    headers: TensorRT's headers, to build both with; None looks in the usual places
    builders: engines built at the same time, while nothing is measured
    duration_s: measured seconds per row
    """

    work: Path
    minutes: float = 8.0
    dry_run: bool = False
    tensorrt8: Path | None = None
    plugin: Path | None = None
    library: Path | None = None
    headers: Path | None = None
    builders: int = 4
    duration_s: float = 0.6
    batches: tuple[int, ...] = BATCHES
    models: tuple[ModelSpec, ...] = MODELS

    def model(self, name: str) -> ModelSpec:
        """The model of a name. Raises DataError."""
        for model in self.models:
            if model.name == name:
                return model
        raise DataError(f"a model must be one of {', '.join(m.name for m in self.models)}, got {name!r}.")

    @property
    def tensorrt(self) -> Interpreter:
        """The Python that has TensorRT. Kernels are loaded when they are first run: 8.6 has 990 MB of them."""
        found = Interpreter() if self.tensorrt8 is None else interpreter_from_tree(self.tensorrt8, self.work)
        lazy = (_LAZY, os.environ.get(_LAZY, "LAZY"))
        return replace(found, environment=(*found.environment, lazy))

    def text(self) -> str:
        """The settings as JSON."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_text(cls, text: str) -> "Settings":
        """The settings from ``text()``."""
        content = json.loads(text)
        paths = {
            n: Path(content[n]) for n in ("work", "tensorrt8", "plugin", "library", "headers") if content[n] is not None
        }
        models = tuple(ModelSpec(**model) for model in content["models"])
        return cls(**{**content, **paths, "batches": tuple(content["batches"]), "models": models})


def models_from_text(text: str) -> tuple[ModelSpec, ...]:
    """Models from names with commas between, in the order given; empty means all. Raises DataError."""
    known = {model.name: model for model in MODELS}
    names = dict.fromkeys(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if name not in known:
            raise DataError(f"a model must be one of {', '.join(known)}, got {name!r}.")
    return tuple(known[name] for name in names) or MODELS


def batches_from_text(text: str) -> tuple[int, ...]:
    """Batch sizes with commas between, in the order given; empty means all. Raises DataError."""
    words = dict.fromkeys(word.strip() for word in text.split(",") if word.strip())
    if not all(word.isdecimal() and 1 <= int(word) <= _LARGEST_BATCH for word in words):
        raise DataError(f"batch sizes must be numbers from 1 to {_LARGEST_BATCH} with commas between, got {text!r}.")
    return tuple(int(word) for word in words) or BATCHES


def interpreter_from_tree(tree: Path, work: Path) -> Interpreter:
    """The Python in ``tree``: python/bin/python3.*, packages in site/, libraries in lib/. Raises DataError.

    work: holds a folder with a link to this package, so that it is the only thing of this Python that the other sees
    """
    tree = tree.resolve()
    found = sorted((tree / "python" / "bin").glob("python3.[0-9]*[0-9]"))
    if not found or not (tree / "site").is_dir():
        raise DataError(
            f"a TensorRT with its own Python must have lib/, site/ and python/bin/python3.*; {tree} has "
            f"{', '.join(sorted(p.name for p in tree.glob('*'))) or 'nothing'}. See docs/gpu.md."
        )
    link = work.resolve() / "import" / "tokfilter"
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.resolve() != ROOT:
        link.unlink(missing_ok=True)
        link.symlink_to(ROOT)
    # The driver's folder may stand in the variable already, and a CPython with a shared library has it in python/lib.
    libraries = [str(tree / "lib"), str(tree / "python" / "lib"), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    variables = {
        "LD_LIBRARY_PATH": ":".join(libraries),
        "PYTHONPATH": f"{tree / 'site'}:{link.parent}",
        "PYTHONNOUSERSITE": 1,
    }
    return Interpreter(str(found[0]), tuple((name, str(value)) for name, value in variables.items()))
