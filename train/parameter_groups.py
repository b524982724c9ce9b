"""Groups of parameters with a learning rate of their own."""

from typing import Any

from timm.optim import param_groups_weight_decay  # type: ignore[attr-defined]
from torch import nn

from tokfilter.errors import DataError

__all__ = ["head_apart"]


def head_apart(module: nn.Module, weight_decay: float, factor: float) -> list[dict[str, Any]]:
    """The parameters that train, by weight decay as timm divides them, those of the classes' head apart.

    factor: on the learning rate of the head; timm's schedule reads it as ``lr_scale``
    Raises DataError for a model without a linear head.
    """
    named = (getattr(part, "head", None) for part in module.modules())
    heads = [head for head in named if isinstance(head, nn.Linear)]
    inside = {id(parameter) for head in heads for parameter in head.parameters()}
    if not inside:
        raise DataError(
            f"the factor {factor:g} on the learning rate is for a linear head of classes, and this model has none: set "
            "head_lr to 1."
        )
    groups = [
        {**group, "params": [p for p in group["params"] if (id(p) in inside) == is_head], "lr_scale": scale}
        for group in param_groups_weight_decay(module, weight_decay)
        for is_head, scale in ((False, 1.0), (True, factor))
    ]
    return [group for group in groups if group["params"]]
