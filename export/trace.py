"""Trace a filtered model with torch's exporter; the budget is the length of an input.

Token selection is traced as one symbolic node, which torch.onnx writes into the graph with its attributes. The model is
restored afterwards, also after an error.
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
from tokfilter.export.options import DEFAULT_OPSET
from tokfilter.export.simplify import simplify
from tokfilter.kernels.op import DOMAIN, NAME, VERSION
from tokfilter.trt.versions import IR_VERSION, MAX_OPSET
from tokfilter.vit.model import FilteredViT

__all__ = ["BATCH", "DEFAULT_OPSET", "KEPT", "traced_from_model"]


BATCH, KEPT = "batch", "kept"
"""Names of the two free dimensions."""


class _Slots(nn.Module):
    """images [B, 3, H, W] and slots [k] to logits, or masks, and indices."""

    def __init__(self, model: FilteredViT) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        chosen: list[Tensor] = []

        def select(tokens: Tensor, scores: Tensor, _k: int, prefix_tokens: int) -> tuple[Tensor, Tensor]:
            batch, _, channels = tokens.shape
            kept = slots.shape[0]
            attributes: dict[str, Any] = {"k": 0, "prefix_tokens": prefix_tokens, "order": "position"}
            selected, indices = torch.onnx.ops.symbolic_multi_out(
                f"{DOMAIN}::{NAME}",
                (tokens, scores, slots),
                attrs=attributes | {"plugin_namespace": DOMAIN, "plugin_version": VERSION},
                dtypes=(tokens.dtype, torch.int32),
                shapes=((batch, prefix_tokens + kept, channels), (batch, kept)),
                version=1,
            )
            chosen.append(indices)
            return selected, indices

        with _replaced(self.model.drop, "select", select):
            logits = self.model(images, max(1, self.model.num_patches // 2))
        return logits, chosen[0]


def traced_from_model(model: FilteredViT, opset: int = DEFAULT_OPSET) -> ir.Model:
    """A graph from images and slots to logits, or masks, and indices; its TokenSelect node has no function body yet.

    Raises ExportError.
    """
    if model.num_patches < 2:
        raise ExportError(f"a filtered graph needs a model of 2 patch tokens or more, got {model.num_patches}.")
    if not DEFAULT_OPSET <= opset <= MAX_OPSET:
        raise ExportError(f"opset must be a version from {DEFAULT_OPSET} to {MAX_OPSET}, got {opset}.")
    images = torch.zeros(2, 3, *model.backbone.patch_embed.img_size)
    # Half the tokens plus one: no other dimension of the model is likely to have this length.
    slots = torch.zeros(model.num_patches // 2 + 1, dtype=torch.int32)
    dims = ({0: torch.export.Dim(BATCH)}, {0: torch.export.Dim(KEPT, max=model.num_patches)})
    module = _Slots(model).eval()
    with _plain_attention(module), _quiet(), torch.no_grad():
        try:
            exported = torch.export.export(module, (images, slots), dynamic_shapes=dims)
            output = "logits" if model.mask_head is None else "masks"
            program = _onnx_program(exported, (images, slots), dims, opset, output)
        except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
            raise ExportError(
                f"torch could not turn this model into ONNX opset {opset}: {_first_line(error)}"
            ) from error
    graph = simplify(program.model)
    graph.ir_version = IR_VERSION
    return graph


def _onnx_program(
    exported: torch.export.ExportedProgram,
    inputs: tuple[Tensor, ...],
    dims: tuple[dict[int, Any], ...],
    opset: int,
    output: str,
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
                input_names=["images", "slots"],
                output_names=[output, "indices"],
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
