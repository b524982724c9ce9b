"""What a model computes beyond its weights, as text: kinds of layers and their settings, which no tensor shows."""

from torch import nn

__all__ = ["structure_text"]


def structure_text(module: nn.Module) -> str:
    """Path, class, settings (``extra_repr``) and heads of every layer.

    Two models with the same tensors differ here when one has another activation, number of heads, rate of dropped
    paths or reducer without weights.
    """
    return "\n".join(
        f"{path} {type(layer).__name__}({layer.extra_repr()}) {getattr(layer, 'num_heads', '')}"
        for path, layer in module.named_modules()
    )
