"""What the PyTorch session runs: a filtered model in one precision, eager or compiled.

Precision by a cast of the weights, not by autocast. Autocast leaves the weights in fp32 and converts them in every call
of inference (it caches conversions only of weights that need a gradient), and runs norms and softmax in fp32 between
conversions: it moves twice the bytes of weights, and starts more kernels. It is not more accurate (figures:
``docs/measuring.md``).
"""

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, nn

from tokfilter.errors import EngineError
from tokfilter.vit.model import FilteredViT
from tokfilter.vit.reducers.filter import PatchSlot
from tokfilter.vit.scorers import TokenFilter

__all__ = ["MODES", "TYPES", "Forward", "Network", "compiled_network", "mode_from_option"]

Forward = Callable[[Tensor, int], dict[str, Tensor]]
"""Images [B, 3, H, W] and a budget -> the outputs of a graph by name: logits [B, classes] in fp32; with fewer tokens
also indices [B, k], and later_indices and partners of models that have them."""

TYPES: Final = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

MODES: Final = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
"""Modes of torch.compile."""

_OWN_GRAPHS: Final = ("reduce-overhead", "max-autotune")
"""Modes that capture CUDA graphs by themselves."""

_GRAPHS: Final = 64
"""Graphs in one process before PyTorch gives up (its own limit is 8). A session needs six at most: batch 1 and larger
batches, each at one token, at every token, and between."""


class Network(nn.Module):
    """A filtered model as a function of images and budget; the model is changed in place.

    precision: of weights and activations. The filter computes in fp32, from tokens in that precision, so that the kept
        tokens change as little as possible
    Attention is torch's scaled_dot_product_attention wherever timm offers it.
    """

    def __init__(self, model: FilteredViT, precision: str) -> None:
        super().__init__()
        self.dtype = TYPES[precision]
        self.model = model.eval().requires_grad_(False).to(self.dtype)
        if isinstance(model.drop, PatchSlot):
            scorer = model.scorer.float()
            scorer.register_forward_pre_hook(_in_fp32)
            if isinstance(scorer, TokenFilter) and scorer.summary is not None:
                scorer.summary.to(self.dtype)  # it adds to the tokens
        part: Any
        for part in model.modules():
            if isinstance(getattr(part, "fused_attn", None), bool):
                part.fused_attn = True

    def forward(self, images: Tensor, k: int) -> dict[str, Tensor]:
        """As ``Forward``. images: [B, 3, H, W] of any float type."""
        outputs = {"logits": self.model(images.to(self.dtype), k).float()}
        last = self.model.last
        if last.indices is not None:
            outputs["indices"] = last.indices
        if last.later:
            outputs["later_indices"] = torch.cat(last.later, dim=1)
        if last.partners:
            outputs["partners"] = torch.cat(last.partners, dim=1)
        self.model.drop.state.last = None  # else a compiled graph returns all tokens too
        return outputs


def _in_fp32(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(tensor.float() for tensor in inputs)


def mode_from_option(option: bool | str) -> str | None:
    """The mode of torch.compile; None for eager. Raises EngineError for a name that torch does not have."""
    if isinstance(option, bool):
        return MODES[0] if option else None
    if option not in MODES:
        raise EngineError(f"torch.compile has the modes {', '.join(MODES)}, got {option!r}.")
    return option


def compiled_network(network: Network, mode: str) -> Forward:
    """The network through torch.compile, as one graph without breaks.

    Batch and budget are free dimensions: the budget is the length of an input, as in the exported graphs, because only
    dimensions can be marked as free. So changing either does not compile again, but for the sizes that torch.compile
    always treats apart: 1, and every token, where the filter is left out.
    Raises EngineError (at a call) where the model does not compile.
    """

    def sized(images: Tensor, slots: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = network(images, slots.shape[0])
        return found

    run = torch.compile(sized, fullgraph=True, mode=mode)
    lengths: dict[int, Tensor] = {}

    def forward(images: Tensor, k: int) -> dict[str, Tensor]:
        slots = lengths.setdefault(k, torch.zeros(k, dtype=torch.int32, device=images.device))
        _mark_free(images, slots)
        if mode in _OWN_GRAPHS and images.is_cuda:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        with torch._dynamo.config.patch(recompile_limit=_GRAPHS):
            try:
                return run(images, slots)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # its parts raise many types: of tracing, of the compilers that they call
                raise EngineError(
                    f"PyTorch does not compile this model: {_first_line(error)} Run it without --torch-compile."
                ) from error

    return forward


def _mark_free(images: Tensor, slots: Tensor) -> None:
    mark: Any = torch._dynamo.maybe_mark_dynamic
    mark(images, 0)
    mark(slots, 0)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0][:300] if lines else ""
    return f"{type(error).__name__}: {text}".rstrip(": .") + "."
