"""The methods of the accuracy study by their row names, and the training settings of each.

Every method starts from the same backbone and gets the same fine-tuning. The token filter and its ablations run the
stages of ``train`` and differ in one setting each; the baselines differ in which tokens they keep, the other reducers
in how they get rid of them.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from tokfilter.benchmarks.study.baselines import TOKEN_BASELINES
from tokfilter.benchmarks.study.equal_cost import OTHER_REDUCERS
from tokfilter.train.config import TrainConfig
from tokfilter.train.masking import MaskConfig
from tokfilter.train.token_sets import Grouping

__all__ = [
    "ABLATIONS",
    "BEFORE",
    "BEST",
    "FILTER",
    "FILTER_CONFIGS",
    "LABEL_LOSSES",
    "LONGER",
    "LONGER_BASELINES",
    "LONG_SPECIALISTS",
    "MAIN",
    "RECIPE",
    "RECIPE_BASELINES",
    "RECIPE_VARIANTS",
    "REDUCERS",
    "SPECIALISTS",
    "longer",
    "with_global_context",
]

Change = Callable[[TrainConfig], TrainConfig]

FILTER: Final = "filter"
BEFORE: Final = "full_before_fine_tuning"
"""Top-1 of the backbone that every method starts from. Elastic fine-tuning changes the full model too, so a drop that
is measured against row ``full`` alone could flatter the filter."""
DISTILLED: Final = "filter, distilled"
"""Fine-tuned with the logits that the backbone gave with every token as a second target."""
BEST: Final = "filter, distilled, with summary"
"""Our best variant: the class token also gets an MLP of all patch tokens (``vit/global_context.py``)."""
SPECIALISTS: Final = "one checkpoint per budget"

REDUCERS: Final = (BEFORE, FILTER, BEST, "resolution", *OTHER_REDUCERS)
"""The rows of the two tables of reducers. Other choices of tokens are in the whole study."""
MAIN: Final = (BEFORE, FILTER, DISTILLED, BEST, *TOKEN_BASELINES, *OTHER_REDUCERS)

LONGER_BASELINES: Final = {
    "longer: token merging": "tome",
    "longer: centre tokens": "centre",
    "longer: largest norm": "norm",
}
"""Row name -> baseline."""
LONGER: Final = ("longer: filter", "longer: filter with summary", *LONGER_BASELINES)
"""The filter and three baselines again, all distilled, with four times the steps and twice the learning rate."""
LONG_SPECIALISTS: Final = "longer: with summary, one checkpoint per budget"

RECIPE: Final = {"default recipe": FILTER, "default recipe: ToMe": "tome", "default recipe: EViT": "evit"}
"""Row name -> reducer that is trained by the default recipe of ``tokfilter train``; see ``default_recipe.py``."""
RECIPE_VARIANTS: Final[dict[str, tuple[str, ...]]] = {"default recipe, neighbours": ("filter.neighbours=true",)}
"""Row name -> settings of the filter's training that differ from the default recipe's."""
RECIPE_BASELINES: Final = {f"default recipe: {name}": name for name in TOKEN_BASELINES}
"""Row name -> baseline that gets the default recipe's fine-tuning."""

ABLATIONS: Final[dict[str, Change]] = {
    "mask: image's mean": lambda config: _labels(config, mask=MaskConfig("mean")),
    "mask: token removed": lambda config: _labels(config, mask=MaskConfig("removed")),
    "mask before the position": lambda config: _labels(config, mask=MaskConfig("zero", "before")),
    "rho: 5 % important": lambda config: _labels(config, fraction=0.05),
    "rho: 40 % important": lambda config: _labels(config, fraction=0.4),
    "labels: first-order": lambda config: _labels(config, method="first-order"),
    "labels: grouped": lambda config: _labels(config, method="grouped"),
    "labels: sets of 24 removed": lambda config: _labels(
        config, method="grouped", groups=Grouping("random", 24, 25), mask=MaskConfig("removed")
    ),
    "objective: regression": lambda config: replace(config, filter=replace(config.filter, objective="regression")),
    "objective: ranking": lambda config: replace(config, filter=replace(config.filter, objective="ranking")),
    "no global feature": lambda config: replace(
        config, filter_config=replace(config.filter_config, global_feature="none")
    ),
    "no fine-tuning": lambda config: replace(config, stages=("label", "filter")),
}
"""Row name -> the one setting that differs from the filter's."""


def distilled(config: TrainConfig) -> TrainConfig:
    """With distillation from the backbone with every token."""
    return replace(config, finetune=replace(config.finetune, distill=1.0))


def with_global_context(config: TrainConfig) -> TrainConfig:
    """With a global context of 16 channels: 0.5 % of the full model's multiply-accumulates."""
    return replace(config, filter_config=replace(config.filter_config, summary=16))


def longer(config: TrainConfig) -> TrainConfig:
    """Distilled, with four times the steps and twice the learning rate."""
    plan = config.finetune.plan
    plan = replace(plan, steps=4 * plan.steps, lr=2 * plan.lr)
    return distilled(replace(config, finetune=replace(config.finetune, plan=plan)))


def _labels(config: TrainConfig, **changes: Any) -> TrainConfig:
    return replace(config, labels=replace(config.labels, **changes))


def without_classes(config: TrainConfig) -> TrainConfig:
    """Labels by KL, and fine-tuning by distillation alone: no class label is used."""
    config = _labels(config, loss="kl")
    return replace(config, finetune=replace(config.finetune, loss="kl"))


LABEL_LOSSES: Final[dict[str, Change]] = {
    "labels: KL": lambda config: _labels(config, loss="kl"),
    "labels: cosine": lambda config: _labels(config, loss="feature"),
    "KL throughout": without_classes,
}
"""The filter with labels that need no class; see ``label_losses.py``. Not part of the study."""

FILTER_CONFIGS: Final[dict[str, Change]] = {
    FILTER: lambda config: config,
    DISTILLED: distilled,
    BEST: lambda config: with_global_context(distilled(config)),
    LONGER[0]: longer,
    LONGER[1]: lambda config: with_global_context(longer(config)),
    **ABLATIONS,
    **LABEL_LOSSES,
}
"""Row name of every variant of the token filter -> its training settings, from the plain filter's."""
