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
    TOKEN_BASELINES,
    baseline_from_weights,
    grid_from_tokens,
)
from tokfilter.benchmarks.study.equal_cost import OTHER_REDUCERS, equal_budgets, filtered_model, reduced_model
from tokfilter.errors import ExportError
from tokfilter.export.graph import fixed_graph_from_slots, full_graph_from_slots, slots_graph_from_model
from tokfilter.export.onnx_file import save_graph
from tokfilter.export.selection import plain_graph
from tokfilter.export.simplify import simplify
from tokfilter.export.trace import BATCH, DEFAULT_OPSET
from tokfilter.trt.versions import IR_VERSION
from tokfilter.vit.backbone import create_backbone
from tokfilter.vit.bundle import model_from_bundle
from tokfilter.vit.macs import macs
from tokfilter.vit.model import FilteredViT

__all__ = ["METHODS", "FixedBudget", "Row", "graphs_from_model", "macs_of_row", "model_of", "own_budgets"]

METHODS: Final = ("full", "filter", *TOKEN_BASELINES, *OTHER_REDUCERS)


@dataclass(frozen=True)
class Row:
    """One method at a budget of its own, in patch tokens."""

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
    """The bundle's model, or another method on the bundle's weights (fine-tuning would not change its speed).

    Raises UnsupportedModelError.
    """
    if method in ("full", "filter"):
        return model_from_bundle(bundle)
    weights = dict(bundle.backbone)
    if method in OTHER_REDUCERS:
        return reduced_model(bundle.architecture, method, weights)
    return baseline_from_weights(method, bundle.architecture, weights, seed).eval()


def own_budgets(method: str, model: Any, bundle: Bundle, budgets: list[int]) -> tuple[dict[int, int], dict[int, str]]:
    """For each budget of the filter that a method can reach its own budget, for the others the reason.

    Reducers inside blocks get the multiply-accumulates of the filtered model, the other methods the number of tokens.
    """
    if method == "full":
        return {model.num_patches: model.num_patches}, {}
    budgets = [k for k in budgets if k < model.num_patches]
    if method not in OTHER_REDUCERS:
        return {k: k for k in budgets}, {}
    return equal_budgets(model, filtered_model(bundle.architecture, bundle.filter_config), budgets)


def macs_of_row(row: Row, model: Any, bundle: Bundle) -> int:
    """Multiply-accumulates for one image."""
    if isinstance(model, FilteredViT):
        return macs(model, row.tokens)
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
        save_graph(plain_graph(graph), path)
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
