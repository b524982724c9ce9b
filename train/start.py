"""Start models: a timm model with published, new or the user's own weights, or a bundle.

Weights are read by timm's loader with ``weights_only=True`` or from safetensors; nothing is ever unpickled.
"""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from timm.models import load_state_dict
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor

from tokfilter.artifacts.bundle import Architecture, Preprocessing
from tokfilter.artifacts.files import existing_file
from tokfilter.errors import DataError
from tokfilter.train.finetune import initialise
from tokfilter.vit.backbone import create_backbone
from tokfilter.vit.bundle import load_bundle, model_from_bundle
from tokfilter.vit.info import preprocessing_from_backbone
from tokfilter.vit.scorers import TokenFilter

__all__ = ["Start", "checkpoint_weights", "start_from_bundle", "start_from_timm"]


@dataclass(frozen=True)
class Start:
    """A start model.

    origin: source of the weights, for the record
    trained: whether its head is trained for the data's classes
    scorer: filter of a bundle
    record: training record of a bundle
    """

    architecture: Architecture
    backbone: Any
    preprocessing: Preprocessing
    origin: str
    trained: bool
    scorer: TokenFilter | None = None
    record: Mapping[str, Any] = field(default_factory=dict)


def start_from_timm(
    architecture: Architecture,
    classes: int,
    checkpoint: Path | None = None,
    pretrained: bool = False,
    new_head: bool = False,
    seed: int = 0,
    preprocessing: Mapping[str, Any] | None = None,
) -> Start:
    """Build a timm model for ``classes`` classes, with the weights of a file, timm's, or new ones.

    new_head: accept a checkpoint of other classes; the head is new and must be trained
    preprocessing: overrides of timm's (mean, std, crop_pct...)
    Raises UnsupportedModelError, DataError: weights that do not fit, another number of classes.
    """
    architecture = replace(architecture, kwargs={**architecture.kwargs, "num_classes": classes})
    backbone: Any = create_backbone(architecture, pretrained=pretrained and checkpoint is None)
    origin, trained = ("timm's published weights", False) if pretrained else ("new weights", False)
    if checkpoint is not None:
        trained = _load(backbone, checkpoint, classes, new_head)
        origin = f"checkpoint {checkpoint.name}"
    elif not pretrained:
        initialise(backbone, seed)
    return Start(
        architecture, backbone, preprocessing_from_backbone(backbone, **(preprocessing or {})), origin, trained
    )


def start_from_bundle(path: Path, class_names: tuple[str, ...]) -> Start:
    """The backbone and the filter of a bundle. Raises BundleError, DataError for other classes than the data's."""
    bundle = load_bundle(path)
    if bundle.class_names and tuple(bundle.class_names) != class_names:
        raise DataError(
            f"{path} was trained for {len(bundle.class_names)} classes, first {', '.join(bundle.class_names[:3])}; the "
            f"data has {len(class_names)}, first {', '.join(class_names[:3])}. They must be the same: see --class-map."
        )
    model = model_from_bundle(bundle)
    scorer = model.scorer
    assert isinstance(scorer, TokenFilter)
    origin = f"bundle {path.name}"
    return Start(bundle.architecture, model.backbone, bundle.preprocessing, origin, True, scorer, bundle.training)


def checkpoint_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict: .safetensors, or a torch.save file, also nested in ``state_dict`` or ``model``.

    Raises DataError when the file is missing, damaged, or would need unpickling.
    """
    path = existing_file(path, "a checkpoint")
    if path.suffix != ".safetensors" and zipfile.is_zipfile(path) is False and path.read_bytes()[:1] != b"\x80":
        raise DataError(f"{path} is not a checkpoint: neither safetensors nor written by torch.save.")
    try:
        weights = load_state_dict(str(path), weights_only=True)
    except Exception as error:  # the readers raise many kinds of errors for damaged and hostile files
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise DataError(
            f"{path} is damaged, or holds more than tensors and plain values ({reason}). tokfilter never unpickles: "
            "save the model's state_dict(), preferably as .safetensors."
        ) from error
    tensors = {name: value for name, value in weights.items() if isinstance(value, Tensor)}
    if not tensors:
        raise DataError(f"{path} has no named tensors; save the model's state_dict().")
    return tensors


def _load(backbone: Any, path: Path, classes: int, new_head: bool) -> bool:
    """Load a file into ``backbone``. Returns whether the file had a head for the classes."""
    weights: dict[str, Tensor] = checkpoint_weights(path)
    if isinstance(backbone, VisionTransformer):
        weights = checkpoint_filter_fn(weights, backbone)  # timm resamples the position embedding for other image sizes
    heads = backbone.pretrained_cfg.get("classifier", "head")
    heads = [heads] if isinstance(heads, str) else list(heads)
    found = {name: len(weights[f"{name}.weight"]) for name in heads if f"{name}.weight" in weights}
    fits = found.keys() == set(heads) and all(count == classes for count in found.values())
    if not fits:
        if not new_head:
            got = f"{next(iter(found.values()))} classes" if found else "no classification head"
            raise DataError(
                f"{path} has {got}, the data has {classes} classes. Train a new head with the stage `backbone`, or "
                "use the data that the checkpoint was trained on."
            )
        weights = {name: value for name, value in weights.items() if name.split(".")[0] not in heads}
    expected = backbone.state_dict()
    missing = [n for n in expected if n not in weights and (fits or n.split(".")[0] not in heads)]
    wrong = [n for n in weights if n in expected and weights[n].shape != expected[n].shape]
    unknown = [n for n in weights if n not in expected]
    if missing or wrong or unknown:
        name, problem = next((group[0], what) for group, what in _problems(missing, wrong, unknown) if group)
        raise DataError(
            f"{path} does not fit {type(backbone).__name__}: {len(missing)} tensors are missing, {len(wrong)} have "
            f"another shape, {len(unknown)} are unknown; first: {name} is {problem}. Check --arch and --arch-arg."
        )
    backbone.load_state_dict(weights, strict=fits)
    return fits


def _problems(missing: list[str], wrong: list[str], unknown: list[str]) -> list[tuple[list[str], str]]:
    return [(missing, "missing"), (wrong, "of another shape"), (unknown, "unknown")]
