"""Graphs: a filtered model as ONNX, traced once by torch and then rewritten into its other forms.

Three forms of one model, all with a free batch dimension:

========  ============================  ==================================================================
slots     images, slots -> logits,      any budget: the length of ``slots`` is the number of kept tokens
          indices
fixed     images -> logits, indices     one budget, baked in (about 5 % faster in ONNX Runtime on a CPU)
full      images -> logits              every token, no filter work: what a filtered graph is compared with
========  ============================  ==================================================================

The choice is one node, ``tokfilter::TokenSelect``, with a model-local function of the same name beside it, so that a
runtime without the plugin inlines standard ops. Tracing costs seconds and rewriting milliseconds, so the fixed and full
forms are made from the slots form; ``verify`` holds each of them against torch all the same.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import onnx_ir as ir
import torch
from torch import Tensor, nn

from tokfilter.errors import ExportError
from tokfilter.export.tidy import tidied
from tokfilter.kernels.onnx_function import token_select_function
from tokfilter.kernels.op import DOMAIN, NAME, VERSION
from tokfilter.model import FilteredViT

__all__ = [
    "DEFAULT_OPSET",
    "IR_VERSION",
    "MAX_OPSET",
    "fixed_graph_from_slots",
    "full_graph_from_slots",
    "select_node",
    "slots_graph_from_model",
    "with_function",
    "without_functions",
]

DEFAULT_OPSET: Final = 18
MAX_OPSET: Final = 21  # the last one of IR version 10
IR_VERSION: Final = 10  # what TensorRT 10.3 and its tools still read

_BATCH, _KEPT = "batch", "kept"


class _Slots(nn.Module):
    """images [B, 3, H, W] and slots [k] to logits and indices."""

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
            logits = self.model(images, max(1, self.model.patches // 2))
        return logits, chosen[0]


def slots_graph_from_model(model: FilteredViT, opset: int = DEFAULT_OPSET) -> ir.Model:
    """Trace the form whose budget is an input. Raises ExportError."""
    if model.patches < 2:
        raise ExportError(f"a filtered graph wants a model of 2 patch tokens or more, got {model.patches}.")
    images = torch.zeros(2, 3, *model.backbone.patch_embed.img_size)
    # Half the tokens plus one: no other dimension of the model is likely to have this length.
    slots = torch.zeros(model.patches // 2 + 1, dtype=torch.int32)
    dims = ({0: torch.export.Dim(_BATCH)}, {0: torch.export.Dim(_KEPT, max=model.patches)})
    graph = _traced(_Slots(model), (images, slots), dims, ["images", "slots"], ["logits", "indices"], opset)
    return with_function(graph, "slots")


def fixed_graph_from_slots(slots_graph: ir.Model, k: int) -> ir.Model:
    """The same model with its budget baked in: no ``slots`` input, k an attribute of the node, shapes known."""
    fixed = without_functions(slots_graph.clone())
    node = select_node(fixed)
    node.attributes["k"] = ir.AttrInt64("k", k)
    node.resize_inputs(2)
    (slots,) = (value for value in fixed.graph.inputs if value.name == "slots")
    if slots.uses():
        raise ExportError(
            f"the slots of {NAME} are used by {len(slots.uses())} other nodes; the budget cannot be baked in."
        )
    fixed.graph.inputs.remove(slots)
    _bind(fixed.graph, {_KEPT: k})
    return with_function(tidied(fixed), "attribute")


def full_graph_from_slots(slots_graph: ir.Model, patches: int) -> ir.Model:
    """The same weights with every token. Raises ExportError when kept indices are used in a way that nobody foresaw."""
    full = without_functions(slots_graph.clone())
    node = select_node(full)
    tokens, (selected, indices) = node.inputs[0], node.outputs
    assert tokens is not None
    del full.graph.outputs[1]
    selected.replace_all_uses_with(tokens)
    _keep_all_rows(indices)
    full.graph.inputs[:] = [value for value in full.graph.inputs if value.name != "slots"]
    _bind(full.graph, {_KEPT: patches})
    full.opset_imports.pop(DOMAIN)
    return tidied(full)


def _keep_all_rows(indices: ir.Value) -> None:
    """Take the position embeddings that rotary models gather by kept index as they are: every token is kept."""
    waiting = [indices]
    while waiting:
        for node in waiting.pop().consumers():
            data = node.inputs[0]
            if node.op_type in ("Cast", "Expand", "Reshape", "Unsqueeze"):
                waiting.extend(node.outputs)
            elif node.op_type == "GatherElements" and data is not None:
                node.outputs[0].replace_all_uses_with(data)
            else:
                raise ExportError(
                    f"the full graph cannot be made: kept indices go into {node.op_type} ({node.name}), which is "
                    "unforeseen."
                )


def select_node(graph: ir.Model) -> ir.Node:
    """The graph's TokenSelect node. Raises ExportError unless there is exactly one."""
    nodes = [node for node in graph.graph if (node.domain, node.op_type) == (DOMAIN, NAME)]
    if len(nodes) != 1:
        raise ExportError(f"wanted a graph with one {DOMAIN}::{NAME} node, got {len(nodes)}.")
    return nodes[0]


def with_function(graph: ir.Model, budget: str) -> ir.Model:
    """Attach the function body of TokenSelect to ``graph``; budget as in ``token_select_function``."""
    function = token_select_function(graph.opset_imports[""], budget, "position")
    attached = ir.serde.deserialize_function(function)
    graph.functions[attached.identifier()] = attached
    graph.opset_imports[DOMAIN] = 1
    return graph


def without_functions(graph: ir.Model) -> ir.Model:
    """Detach all model-local functions: TensorRT before 10.7 prefers them to the plugin."""
    graph.functions.clear()
    return graph


def _traced(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    dims: tuple[dict[int, Any], ...],
    input_names: Sequence[str],
    output_names: Sequence[str],
    opset: int,
) -> ir.Model:
    if not DEFAULT_OPSET <= opset <= MAX_OPSET:
        raise ExportError(f"opset wants a version from {DEFAULT_OPSET} to {MAX_OPSET}, got {opset}.")
    module.eval()
    with _plain_attention(module), _quiet(), torch.no_grad():
        try:
            exported = torch.export.export(module, inputs, dynamic_shapes=dims)
            program = _onnx_program(exported, inputs, dims, input_names, output_names, opset)
        except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
            raise ExportError(
                f"torch could not turn this model into ONNX opset {opset}: {_first_line(error)}"
            ) from error
    graph = tidied(program.model)
    graph.ir_version = IR_VERSION
    return graph


def _onnx_program(
    exported: torch.export.ExportedProgram,
    inputs: tuple[Tensor, ...],
    dims: tuple[dict[int, Any], ...],
    input_names: Sequence[str],
    output_names: Sequence[str],
    opset: int,
) -> torch.onnx.ONNXProgram:
    """Translate as it is, which nearly every ViT allows; decomposing first traces everything once more."""
    decompose = exported.run_decompositions
    for attempt in (lambda *_: exported, decompose):
        exported.run_decompositions = attempt
        try:
            program = torch.onnx.export(
                exported,
                inputs,
                dynamo=True,
                optimize=False,  # its rewriter takes longer than the trace; ``tidied`` does what is needed
                opset_version=opset,
                dynamic_shapes=dims,
                input_names=input_names,
                output_names=output_names,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError:
            if attempt is decompose:
                raise
            continue
        assert program is not None
        return program
    raise AssertionError("unreachable: the last attempt returns or raises")


def _bind(graph: ir.Graph, lengths: dict[str, int]) -> None:
    for value in [*graph.inputs, *(output for node in graph for output in node.outputs)]:
        if value.shape is not None:
            value.shape = value.shape.evaluate(lengths)


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
    """Have timm spell attention as matmul, softmax, matmul: the pattern that engines fuse, and half the nodes."""
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
    """Keep the exporter's remarks about its own workings from the user, who can do nothing about them."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            exporter.setLevel(level)
