"""Trace a reduced model with torch's exporter; the budget is the length of an input.

Each selection of tokens is traced as one symbolic node, which torch.onnx writes into the graph with its attributes. The
model is restored afterwards, also after an error. A model with several stages is traced with one input of slots for
each, whose lengths are free dimensions of their own; the graph then derives all but the first (``later_slots.py``).
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from tokfilter.errors import ExportError
from tokfilter.export.later_slots import derive_later_slots, kept_dim, slots_name
from tokfilter.export.options import DEFAULT_OPSET
from tokfilter.export.simplify import simplify
from tokfilter.kernels.op import DOMAIN, NAME, VERSION
from tokfilter.trt.versions import IR_VERSION, MAX_OPSET
from tokfilter.vit.model import FilteredViT

__all__ = ["BATCH", "DEFAULT_OPSET", "full_trace_from_model", "output_names", "traced_from_model"]

BATCH = "batch"
"""Name of the free dimension of images."""


class _Slots(nn.Module):
    """images [B, 3, H, W] and slots [k_s] of each stage to logits or masks, indices and, with several choices, later
    indices, and partners where tokens are merged."""

    def __init__(self, model: FilteredViT) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, slots: list[Tensor]) -> tuple[Tensor, ...]:
        chosen: list[Tensor] = []
        reducer = self.model.drop

        def select(tokens: Tensor, scores: Tensor, kept: int, prefix_tokens: int) -> tuple[Tensor, Tensor]:
            batch, _, channels = tokens.shape
            attributes: dict[str, Any] = {"k": 0, "prefix_tokens": prefix_tokens, "order": "position"}
            selected, indices = torch.onnx.ops.symbolic_multi_out(
                f"{DOMAIN}::{NAME}",
                (tokens, scores, slots[reducer.choices[len(chosen)]]),
                attrs=attributes | {"plugin_namespace": DOMAIN, "plugin_version": VERSION},
                dtypes=(tokens.dtype, torch.int32),
                shapes=((batch, prefix_tokens + kept, channels), (batch, kept)),
                version=1,
            )
            chosen.append(indices)
            return selected, indices

        with _replaced(reducer, "select", select), _replaced(reducer.state, "slots", slots):
            logits = self.model.predicted(images)
        partners = self.model.last.partners
        return (logits, chosen[0], *(torch.cat(parts, dim=1) for parts in (chosen[1:], partners) if parts))


class _Full(nn.Module):
    """images [B, 3, H, W] to logits, with every token."""

    def __init__(self, model: FilteredViT) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, _: list[Tensor]) -> tuple[Tensor, ...]:
        self.model.drop.state.keep = 1.0
        return (self.model.predicted(images),)


def traced_from_model(model: FilteredViT, opset: int = DEFAULT_OPSET) -> ir.Model:
    """A graph from images and slots to logits, an embedding or masks, and indices.

    Its TokenSelect nodes have no function body yet.
    With several choices it also has the output ``later_indices``, [B, k_2 + k_3 ...], and where tokens are merged
    ``partners``, [B, N + k_1 + k_2 ...]. Raises ExportError.
    """
    if model.num_patches < 2:
        raise ExportError(f"a filtered graph needs a model of 2 patch tokens or more, got {model.num_patches}.")
    stages = model.drop.stage_count
    # Half the tokens and more: no other dimension of the model is likely to have these lengths.
    slots = [torch.zeros(model.num_patches // 2 + 1 + stage, dtype=torch.int32) for stage in range(stages)]
    graph = _graph_from_module(_Slots(model), model, slots, output_names(model), opset)
    derive_later_slots(graph.graph, model.num_patches, stages, model.drop.schedule)
    return _finished(graph)


def full_trace_from_model(model: FilteredViT, opset: int = DEFAULT_OPSET) -> ir.Model:
    """A graph from images to logits with every token, of a model that reduces inside its blocks. Raises ExportError."""
    return _finished(_graph_from_module(_Full(model), model, [], [model.output_name], opset))


def output_names(model: FilteredViT) -> list[str]:
    """Names of the outputs of a graph that drops or merges tokens."""
    further = {"later_indices": len(model.drop.choices) > 1, "partners": model.drop.merges}
    return [model.output_name, "indices", *(name for name, there in further.items() if there)]


def _finished(graph: ir.Model) -> ir.Model:
    graph = simplify(graph)
    graph.ir_version = IR_VERSION
    return graph


def _graph_from_module(
    module: nn.Module, model: FilteredViT, slots: list[Tensor], outputs: list[str], opset: int
) -> ir.Model:
    """What torch's exporter makes of a module. Raises ExportError."""
    if not DEFAULT_OPSET <= opset <= MAX_OPSET:
        raise ExportError(f"opset must be a version from {DEFAULT_OPSET} to {MAX_OPSET}, got {opset}.")
    images = torch.zeros(2, 3, *model.backbone.patch_embed.img_size)
    free = [{0: torch.export.Dim(kept_dim(stage), max=model.num_patches)} for stage in range(len(slots))]
    dims = ({0: torch.export.Dim(BATCH)}, free)
    names = ["images", *map(slots_name, range(len(slots)))], outputs
    module.eval()
    with _plain_attention(module), _quiet(), torch.no_grad():
        try:
            exported = torch.export.export(module, (images, slots), dynamic_shapes=dims)
            _translatable_casts(exported)
            program = _onnx_program(exported, (images, slots), dims, names, opset)
        except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
            raise ExportError(
                f"torch could not turn this model into ONNX opset {opset}: {_first_line(error)}"
            ) from error
    return program.model


def _translatable_casts(exported: torch.export.ExportedProgram) -> None:
    """Write ``x.to(dtype)``, which the exporter does not translate as it stands, as the copy that it does."""
    for node in exported.graph.nodes:
        if node.target is torch.ops.aten.to.dtype:
            dtype = node.args[1] if len(node.args) > 1 else node.kwargs["dtype"]
            node.target, node.args, node.kwargs = torch.ops.aten._to_copy.default, node.args[:1], {"dtype": dtype}


def _onnx_program(
    exported: torch.export.ExportedProgram,
    inputs: tuple[Any, ...],
    dims: tuple[Any, ...],
    names: tuple[list[str], list[str]],
    opset: int,
) -> torch.onnx.ONNXProgram:
    """Translate without decompositions first, which works for nearly every ViT; they trace everything again."""
    decompose = exported.run_decompositions
    for attempt in (lambda *_: exported, decompose):
        exported.run_decompositions = attempt
        try:
            program = torch.onnx.export(
                exported,
                inputs,
                dynamo=True,
                optimize=False,  # its rewriter takes longer than the trace; ``simplify`` is enough
                opset_version=opset,
                dynamic_shapes=dims,
                input_names=names[0],
                output_names=names[1],
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError:
            if attempt is decompose:
                raise
            continue
        assert program is not None
        return program
    raise AssertionError("unreachable: the last attempt returns or raises")


def _first_line(error: BaseException) -> str:
    cause = error.__cause__ or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return lines[0] if lines else type(cause).__name__


@contextmanager
def _replaced(target: Any, name: str, value: Any) -> Iterator[None]:
    old = getattr(target, name)
    setattr(target, name, value)
    try:
        yield
    finally:
        setattr(target, name, old)


@contextmanager
def _plain_attention(module: nn.Module) -> Iterator[None]:
    """Make timm compute attention as matmul, softmax, matmul: engines fuse it, and it has half the nodes."""
    fused: list[Any] = [part for part in module.modules() if getattr(part, "fused_attn", False)]
    for part in fused:
        part.fused_attn = False
    try:
        yield
    finally:
        for part in fused:
            part.fused_attn = True


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's internal warnings."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            exporter.setLevel(level)
