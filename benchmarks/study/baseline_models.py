"""Every row of the accuracy study as a module with its budget fixed, and as an ONNX graph of it."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from tokfilter.artifacts.bundle import Bundle
from tokfilter.benchmarks.study.baselines import (
    MAC_BASELINES,
    TOKEN_BASELINES,
    LowResolution,
    baseline_from_weights,
    grid_from_tokens,
)
from tokfilter.errors import ExportError
from tokfilter.export.graph import fixed_graph_from_slots, full_graph_from_slots, slots_graph_from_model
from tokfilter.export.onnx_file import save_graph
from tokfilter.export.simplify import simplify
from tokfilter.export.trace import BATCH, DEFAULT_OPSET
from tokfilter.trt.versions import IR_VERSION
from tokfilter.vit.backbone import create_backbone
from tokfilter.vit.bundle import model_from_bundle
from tokfilter.vit.macs import macs
from tokfilter.vit.model import FilteredViT

__all__ = ["METHODS", "FixedBudget", "Row", "graphs_from_model", "macs_of_row", "model_of", "rows_of"]

METHODS: Final = ("full", "filter", *TOKEN_BASELINES, *MAC_BASELINES)


@dataclass(frozen=True)
class Row:
    """One method at one budget of patch tokens."""

    method: str
    tokens: int

    @property
    def name(self) -> str:
        """Stem of its files."""
        return f"{self.method}-{self.tokens}"


class FixedBudget(nn.Module):
    """images [B, 3, H, W] to logits [B, classes] at one budget."""

    def __init__(self, model: Any, tokens: int) -> None:
        super().__init__()
        self.model = model
        self.tokens = tokens

    def forward(self, images: Tensor) -> Tensor:
        """images: [B, 3, H, W], normalised. Returns logits [B, classes]."""
        logits: Tensor = self.model(images, self.tokens)
        return logits


def model_of(method: str, bundle: Bundle, seed: int = 0) -> Any:
    """The bundle's model, or a baseline on the bundle's weights (fine-tuning would not change its speed).

    Raises UnsupportedModelError.
    """
    if method in ("full", "filter"):
        return model_from_bundle(bundle)
    return baseline_from_weights(method, bundle.architecture, dict(bundle.backbone), seed, bundle.filter_config).eval()


def rows_of(method: str, model: Any, budgets: list[int]) -> list[Row]:
    """A method's rows: one for the full model, otherwise one for each budget that is possible."""
    if method == "full":
        return [Row(method, model.num_patches)]
    smallest = getattr(model, "min_tokens", 1)
    return [Row(method, k) for k in budgets if smallest <= k < model.num_patches]


def macs_of_row(row: Row, model: Any, bundle: Bundle) -> int:
    """Multiply-accumulates for one image."""
    if isinstance(model, FilteredViT):
        return macs(model, row.tokens)
    if not isinstance(model, LowResolution):
        return int(model.macs(row.tokens))
    grid = grid_from_tokens(row.tokens, model.grid)
    size = tuple(side * patch for side, patch in zip(grid, model.patch, strict=True))
    smaller = replace(bundle.architecture, kwargs={**bundle.architecture.kwargs, "img_size": size})
    return macs(FilteredViT(create_backbone(smaller)), 1.0)


def graphs_from_model(method: str, model: Any, rows: list[Row], folder: Path) -> Iterator[tuple[Row, Path]]:
    """Write one ONNX graph for each row, all with a free batch dimension. Raises ExportError."""
    if method == "random":
        raise ExportError("random scores are drawn outside of the graph and cannot be exported.")
    filtered = isinstance(model, FilteredViT)
    slots = slots_graph_from_model(model) if filtered else None
    for row in rows:
        if slots is None:
            graph = _graph_from_module(FixedBudget(model, row.tokens))
        elif method == "full":
            graph = full_graph_from_slots(slots, row.tokens)
        else:
            graph = fixed_graph_from_slots(slots, row.tokens)
        path = folder / f"{row.name}.onnx"
        save_graph(graph, path)
        yield row, path


def _graph_from_module(module: FixedBudget) -> Any:
    module = copy.deepcopy(module).eval()
    fused: list[Any] = [part for part in module.modules() if hasattr(part, "fused_attn")]
    for part in fused:
        part.fused_attn = False  # as separate operations, like in the filter's graphs
    size = module.model.backbone.patch_embed.img_size
    images = torch.zeros(2, 3, *size)
    try:
        with torch.no_grad():
            program = torch.onnx.export(
                module,
                (images,),
                dynamo=True,
                opset_version=DEFAULT_OPSET,
                dynamic_shapes=({0: torch.export.Dim(BATCH)},),
                input_names=["images"],
                output_names=["logits"],
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()
        raise ExportError(
            f"torch could not export this baseline to ONNX: {reason[0] if reason else error!r}"
        ) from error
    assert program is not None
    graph = simplify(program.model)
    graph.ir_version = IR_VERSION
    return graph
