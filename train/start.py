"""Start models: a timm model with published, new or the user's own weights, a folder of timm or transformers, a bundle.

How foreign files are read stands in ``train/checkpoint/``; nothing is ever unpickled.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor

from tokfilter.artifacts.budget import Keep
from tokfilter.artifacts.bundle import Architecture, Preprocessing
from tokfilter.artifacts.reducer import ReducerConfig
from tokfilter.artifacts.split import Split
from tokfilter.errors import DataError
from tokfilter.train.checkpoint.class_names import naming_note
from tokfilter.train.checkpoint.folder import model_from_folder
from tokfilter.train.checkpoint.foreign import ForeignModel
from tokfilter.train.checkpoint.state_dict import checkpoint_weights, state_dict_from_file
from tokfilter.train.finetune import initialise
from tokfilter.vit.backbone import create_backbone
from tokfilter.vit.bundle import load_bundle, model_from_bundle
from tokfilter.vit.info import ModelInfo, preprocessing_from_backbone
from tokfilter.vit.model import FilteredViT
from tokfilter.vit.patch import patch
from tokfilter.vit.scorers import TokenFilter

__all__ = [
    "Start",
    "checkpoint_weights",
    "load_checkpoint",
    "start_from_bundle",
    "start_from_folder",
    "start_from_timm",
]


@dataclass(frozen=True)
class Start:
    """A start model.

    origin: source of the weights, for the record
    trained: whether its head is trained for the data's classes; of a start without classes, whether its weights are
    scorer: filter of a bundle
    class_names: the model's own, where they are known
    record, split: training record and trained images of a bundle
    notes: what the user should know about how the weights were read
    reducer, reducer_weights: of a bundle; the weights are empty for the filter, whose are in ``scorer``
    """

    architecture: Architecture
    backbone: Any
    preprocessing: Preprocessing
    origin: str
    trained: bool
    scorer: TokenFilter | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    split: Split | None = None
    class_names: tuple[str, ...] = ()
    reducer: ReducerConfig = field(default_factory=ReducerConfig)
    reducer_weights: Mapping[str, Tensor] = field(default_factory=dict)


def start_from_timm(
    architecture: Architecture,
    classes: int | None,
    checkpoint: Path | None = None,
    pretrained: bool = False,
    new_head: bool = False,
    seed: int = 0,
    preprocessing: Mapping[str, Any] | None = None,
) -> Start:
    """Build a timm model for ``classes`` classes, with the weights of a file, timm's, or new ones.

    classes: None leaves the model its own head, for training without class labels: num_classes of the arguments, else
        what the file has a head for (0: an embedding), else timm's
    new_head: accept a checkpoint of other classes; the head is new and must be trained
    preprocessing: overrides of timm's (mean, std, crop_pct...); input_size also sets the model's
    Raises UnsupportedModelError, DataError: weights that do not fit, another number of classes.
    """
    preprocessing = dict(preprocessing or {})
    size = preprocessing.pop("input_size", None)
    arguments = dict(architecture.kwargs)
    if classes is not None:
        arguments["num_classes"] = classes
    if size is not None:
        arguments["img_size"] = size[1] if size[1] == size[2] else list(size[1:])
    architecture = replace(architecture, kwargs=arguments)
    notes: tuple[str, ...] = ()
    if checkpoint is not None:
        state = state_dict_from_file(checkpoint)
        if "num_classes" not in architecture.kwargs:
            architecture = replace(architecture, kwargs={**arguments, "num_classes": _head_rows(state.tensors)})
        backbone, trained = _loaded(architecture, state.tensors, checkpoint, new_head, seed)
        origin = f"checkpoint {checkpoint.name}" + (f" ({state.part})" if state.part else "")
        notes = (f"{checkpoint}: weights taken from {state.part}",) if state.part else ()
    else:
        backbone, trained = create_backbone(architecture, pretrained=pretrained), pretrained and classes is None
        origin = "timm's published weights" if pretrained else "new weights"
        if not pretrained:
            initialise(backbone, seed)
    fields = preprocessing_from_backbone(backbone, **preprocessing)
    return Start(architecture, backbone, fields, origin, trained, notes=notes)


def start_from_folder(
    foreign: ForeignModel,
    class_names: tuple[str, ...] | None,
    new_head: bool = False,
    seed: int = 0,
    preprocessing: Mapping[str, Any] | None = None,
) -> Start:
    """The model of a folder of timm or transformers (``checkpoint/folder.py``), for the classes of the data.

    class_names: None leaves the model its own, for training without class labels
    new_head: accept a checkpoint of other classes; the head is new and must be trained
    preprocessing: overrides of the folder's (crop_pct...)
    Raises UnsupportedModelError, DataError: weights that do not fit, another number of classes.
    """
    own = foreign.architecture.kwargs["num_classes"]
    classes = own if class_names is None else len(class_names)
    architecture = replace(foreign.architecture, kwargs={**foreign.architecture.kwargs, "num_classes": classes})
    backbone, trained = _loaded(architecture, foreign.weights, foreign.folder, new_head, seed, foreign.convert)
    note = naming_note(foreign.class_names, class_names or ()) if trained else ""
    fields = {**foreign.preprocessing, **{k: v for k, v in (preprocessing or {}).items() if v is not None}}
    fields.pop("input_size", None)  # the backbone has it
    notes = (*foreign.notes, *([note] if note else []))
    pixels = preprocessing_from_backbone(backbone, **fields)
    names = foreign.class_names
    return Start(architecture, backbone, pixels, foreign.origin, trained, notes=notes, class_names=names)


def load_checkpoint(
    path: str | Path,
    keep: Keep = 0.5,
    *,
    architecture: tuple[str, Mapping[str, Any]] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
) -> FilteredViT:
    """A classifier that was trained elsewhere, patched with an untrained token filter, on the CPU in evaluation mode.

    path: a folder of timm or transformers (``config.json`` and safetensors); or with ``architecture`` a file
    keep: default budget, a ratio (float) or a count of tokens (int)
    architecture: name and arguments of ``timm.create_model``, for a file; num_classes where it is not timm's default
    preprocessing: replaces the checkpoint's: input_size (3, H, W), mean, std, interpolation, crop_pct, crop_mode
    Raises DataError, UnsupportedModelError, BudgetError.
    """
    path = Path(path)
    names: tuple[str, ...] = ()
    if architecture is not None:
        if path.is_dir():
            raise DataError(f"{path} is a folder, which names its architecture: leave architecture out.")
        with torch.device("meta"):
            shape: Any = create_backbone(Architecture(architecture[0], dict(architecture[1])))
        given = Architecture(architecture[0], dict(architecture[1]))
        start = start_from_timm(given, shape.num_classes, path, preprocessing=preprocessing)
    elif path.is_dir():
        foreign = model_from_folder(path, preprocessing)
        classes, names = foreign.architecture.kwargs["num_classes"], foreign.class_names
        start = start_from_folder(foreign, names or tuple(map(str, range(classes))), preprocessing=preprocessing)
    else:
        raise DataError(
            f"{path}: expected a folder with config.json, or architecture=(name, arguments) for a file of weights. A "
            "bundle (model.pt) is read by tokfilter.load_model."
        )
    model = patch(start.backbone.eval(), keep, architecture=start.architecture)
    model.info = ModelInfo(start.architecture, start.preprocessing, class_names=names)
    return model


def start_from_bundle(path: Path, class_names: tuple[str, ...] | None) -> Start:
    """The backbone and the filter of a bundle. Raises BundleError, DataError for other classes than the data's.

    class_names: None for training without class labels: the data's classes are not compared
    """
    bundle = load_bundle(path)
    if bundle.mask_config is not None:
        raise DataError(
            f"{path} gives masks, and `tokfilter train` and `tokfilter label` read class labels: train it in Python, "
            "tokfilter.fit(tokfilter.load_model(...), loader) with a DataLoader of (image, mask)."
        )
    if class_names is not None and bundle.class_names and tuple(bundle.class_names) != class_names:
        raise DataError(
            f"{path} was trained for {len(bundle.class_names)} classes, first {', '.join(bundle.class_names[:3])}; the "
            f"data has {len(class_names)}, first {', '.join(class_names[:3])}. They must be the same: see --class-map."
        )
    backbone = create_backbone(bundle.architecture)
    backbone.load_state_dict(bundle.backbone)
    is_filter = bundle.reducer.name == "filter"
    scorer = model_from_bundle(bundle).scorer if is_filter else None
    assert isinstance(scorer, TokenFilter | None)
    return Start(
        bundle.architecture,
        backbone,
        bundle.preprocessing,
        f"bundle {path.name}",
        True,
        scorer,
        bundle.training,
        split=bundle.split,
        class_names=tuple(bundle.class_names),
        reducer=bundle.reducer,
        reducer_weights={} if is_filter else bundle.filter,
    )


def _loaded(
    architecture: Architecture, weights: dict[str, Tensor], path: Path, new_head: bool, seed: int, convert: bool = True
) -> tuple[Any, bool]:
    """A backbone with weights, and whether they had a head for its classes; memory is taken once everything fits.

    convert: let timm convert the names, and resample the position embedding for another image size
    """
    with torch.device("meta"):
        skeleton: Any = create_backbone(architecture)
    if convert and isinstance(skeleton, VisionTransformer):
        try:
            weights = checkpoint_filter_fn(weights, skeleton)
        except Exception as error:  # timm asserts and computes on shapes of the file: it raises all kinds
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise DataError(
                f"{path} does not fit {architecture.name}: {reason}. Check --arch and --arch-arg."
            ) from error
    weights, fits = _fitting(skeleton, weights, path, new_head)
    backbone: Any = create_backbone(architecture)
    if not fits:
        initialise(backbone, seed)
    backbone.load_state_dict(weights, strict=fits)
    return backbone, fits


def _head_rows(weights: Mapping[str, Tensor]) -> int:
    """Classes of the head in a file; 0 where it has none."""
    head = weights.get("head.weight")
    return 0 if head is None or head.ndim != 2 else len(head)


def _fitting(backbone: Any, weights: dict[str, Tensor], path: Path, new_head: bool) -> tuple[dict[str, Tensor], bool]:
    """The weights to load, without a head of other classes; and whether they had one. Raises DataError."""
    classes = backbone.num_classes
    heads = backbone.pretrained_cfg.get("classifier", "head")
    heads = [heads] if isinstance(heads, str) else list(heads)
    found = {name: weights[f"{name}.weight"].shape[:1].numel() for name in heads if f"{name}.weight" in weights}
    if not classes:  # an embedding: what the file's head says is not asked for
        weights = {name: value for name, value in weights.items() if name.split(".")[0] not in heads}
        heads = []
        found = {}
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
            f"another shape, {len(unknown)} are unknown; first: {name} is {problem}. {_remedy(path, unknown)}"
        )
    return weights, fits


def _remedy(path: Path, unknown: list[str]) -> str:
    if any(".embeddings." in name for name in unknown) and (path.parent / "config.json").is_file():
        return f"These are transformers' names: give the folder, --checkpoint {path.parent}, without --arch."
    return "Check --arch and --arch-arg."


def _problems(missing: list[str], wrong: list[str], unknown: list[str]) -> list[tuple[list[str], str]]:
    return [(missing, "missing"), (wrong, "of another shape"), (unknown, "unknown")]
