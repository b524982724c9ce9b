"""The files and inputs that every runtime gets, and the logits that torch computes for them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = ["BATCHES", "BUDGETS", "FILES", "FIXED", "MODEL", "Case", "cases_of_file", "write_cases", "write_for_probe"]

BATCHES: Final = (1, 3)
BUDGETS: Final = (49, 98, 196)
FIXED: Final = 98
"""Budget of the graph that has a fixed one."""

FILES: Final = ("model.onnx", f"model.k{FIXED}.onnx", "full.onnx")
"""Any budget; one fixed budget; all tokens."""

MODEL: Final = "deit_tiny_patch16_224"

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """One call of a file.

    tokens: patch tokens that are kept; for the probe only where the graph has ``slots``
    expected: logits of torch, [batch, classes]
    """

    file: str
    batch: int
    tokens: int
    elastic: bool
    images: Path
    expected: Array

    def for_probe(self, output: Path) -> dict[str, Any]:
        """As JSON, for ``probes/protocol.py``; ``output`` takes the logits."""
        return {
            "shape": [self.batch, 3, 224, 224],
            "tokens": self.tokens if self.elastic else None,
            "images": str(self.images),
            "output": str(output),
        }


def write_cases(folder: Path) -> list[Case]:
    """Export a DeiT with random weights to ``folder/out`` and compute what torch gives for it."""
    import timm
    import torch

    import tokfilter

    torch.manual_seed(0)
    model = tokfilter.patch(timm.create_model(MODEL), keep=FIXED).eval()
    images = _clear_images(model)
    tokfilter.export_model(model, folder / "out", keep=(FIXED,))
    cases = []
    for batch in BATCHES:
        path = folder / f"images-{batch}.bin"
        images[:batch].numpy().tofile(path)
        for file, tokens, elastic in _calls():
            with torch.no_grad():
                expected = model(images[:batch], keep=tokens).numpy()
            cases.append(Case(file, batch, tokens, elastic, path, expected))
    return cases


def _clear_images(model: Any) -> Any:
    """Of 32 random images those whose scores lie farthest apart around each budget.

    An engine that rounds otherwise then keeps the same tokens, and the logits show whether it computes the same.
    """
    import torch

    images = torch.randn(32, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        scores = model.drop.scorer(model.embed(images)[:, model.prefix_tokens :]).sort(descending=True).values
    budgets = [budget for budget in BUDGETS if budget < scores.shape[1]]
    gaps = torch.stack([scores[:, budget - 1] - scores[:, budget] for budget in budgets]).min(dim=0).values
    return images[gaps.topk(max(BATCHES)).indices]


def cases_of_file(cases: list[Case], file: str) -> list[Case]:
    """Those that call ``file``."""
    return [case for case in cases if case.file == file]


def write_for_probe(cases: list[Case], folder: Path) -> tuple[Path, list[Path]]:
    """The list of cases that a probe reads, and where it writes the logits of each."""
    outputs = [folder / f"logits-{i}.bin" for i in range(len(cases))]
    for output in outputs:
        output.unlink(missing_ok=True)
    path = folder / "cases.json"
    path.write_text(json.dumps([case.for_probe(o) for case, o in zip(cases, outputs, strict=True)]), encoding="utf-8")
    return path, outputs


def _calls() -> list[tuple[str, int, bool]]:
    elastic = [("model.onnx", budget, True) for budget in BUDGETS]
    return [*elastic, (f"model.k{FIXED}.onnx", FIXED, False), ("full.onnx", max(BUDGETS), False)]
