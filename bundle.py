"""model.pt, the bundle: everything that a filtered model is, in one file (format on one page: ``docs/bundle.md``).

Read with ``torch.load(weights_only=True)`` and never otherwise: a file that would need unpickling is refused. Every
tensor is checked by name, type, shape and finiteness against the architecture that the file itself names.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from tokfilter.backbone import Architecture, create_backbone
from tokfilter.budget import Keep, tokens_from_keep
from tokfilter.errors import BundleError, TokfilterError
from tokfilter.files import atomic_path, existing_file
from tokfilter.model import FilteredViT
from tokfilter.scorers import FilterConfig, TokenFilter

__all__ = [
    "FORMAT",
    "VERSION",
    "Bundle",
    "Golden",
    "Preprocessing",
    "golden_from_model",
    "load_bundle",
    "model_from_bundle",
    "save_bundle",
    "weights_from_model",
]

FORMAT: Final = "tokfilter-bundle"
VERSION: Final = 1

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the model's input, in timm's terms.

    input_size: (3, H, W)
    mean, std: per channel, for pixels in 0..1
    interpolation, crop_pct, crop_mode: of the resize and crop before
    """

    input_size: tuple[int, int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    crop_pct: float = 1.0
    crop_mode: str = "center"


@dataclass(frozen=True)
class Golden:
    """Inputs and outputs that every later stage compares itself with, computed by torch in fp32.

    images: [G, 3, H, W], normalised
    scores: [G, N]
    full: [G, classes], logits with every token
    logits: budget k -> [G, classes]
    indices: budget k -> [G, k] int32
    """

    images: Tensor
    scores: Tensor
    full: Tensor
    logits: dict[int, Tensor]
    indices: dict[int, Tensor]


@dataclass(frozen=True)
class Bundle:
    """A filtered model with what is needed to use it and to know where it came from.

    training: plain values: data, label settings, seeds, metrics
    """

    architecture: Architecture
    backbone: Weights
    filter_config: FilterConfig
    filter: Weights
    keep: Keep
    preprocessing: Preprocessing
    class_names: list[str]
    golden: Golden
    training: dict[str, Any] = field(default_factory=dict)


def weights_from_model(model: FilteredViT) -> tuple[Weights, Weights]:
    """The weights of the backbone, and those of the filter, as timm and ``TokenFilter`` name them."""
    whole = model.backbone.state_dict()
    return {name: whole[name] for name in whole if not name.startswith("patch_drop.")}, model.scorer.state_dict()


def model_from_bundle(bundle: Bundle) -> FilteredViT:
    """The bundle's model, in evaluation mode."""
    backbone = create_backbone(bundle.architecture)
    backbone.load_state_dict(bundle.backbone)
    model = FilteredViT(backbone, keep=bundle.keep)
    scorer = TokenFilter(model.channels, bundle.filter_config)
    scorer.load_state_dict(bundle.filter)
    model.drop.scorer = scorer
    return model.eval()


@torch.inference_mode()
def golden_from_model(model: FilteredViT, images: Tensor, keeps: Sequence[Keep]) -> Golden:
    """Golden tensors of a model in evaluation mode at some budgets (each below the full token count).

    images: [G, 3, H, W], normalised
    """
    was_training = model.training
    model.eval()
    full = model(images, 1.0)
    scores = model.scorer(model.last.tokens[:, model.prefix_tokens :])
    logits: dict[int, Tensor] = {}
    indices: dict[int, Tensor] = {}
    for k in sorted({tokens_from_keep(keep, model.patches) for keep in keeps} - {model.patches}):
        logits[k] = model(images, k).clone()
        assert model.last.indices is not None
        indices[k] = model.last.indices.clone()
    model.train(was_training)
    return Golden(images.clone(), scores.clone(), full.clone(), logits, indices)


def save_bundle(bundle: Bundle, path: str | Path) -> None:
    """Write model.pt atomically, after the same checks that reading makes. Raises BundleError, OSError."""
    content = _content_from_bundle(bundle)
    _bundle_from_content(content, "the bundle to be written")
    with atomic_path(Path(path)) as part:
        torch.save(content, part)


def load_bundle(path: str | Path) -> Bundle:
    """Read and check model.pt. Raises DataError when there is no such file, BundleError when it is no sound bundle."""
    path = existing_file(path, "a bundle (model.pt)")
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            raise BundleError(f"{path} is not a bundle: it is no file that torch.save wrote. {_REMEDY}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a hostile or damaged file makes torch raise, the answer is the same
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BundleError(
            f"{path} is damaged, or holds more than tensors and plain values, which tokfilter never unpickles "
            f"({reason[:200]}). {_REMEDY}"
        ) from error
    return _bundle_from_content(content, str(path))


_REMEDY = "`tokfilter train` writes bundles."


def _content_from_bundle(bundle: Bundle) -> dict[str, Any]:
    golden = bundle.golden
    return {
        "format": FORMAT,
        "version": VERSION,
        "architecture": {"name": bundle.architecture.name, "kwargs": _plain(bundle.architecture.kwargs)},
        "backbone": _on_cpu(bundle.backbone),
        "filter": {"config": asdict(bundle.filter_config), "weights": _on_cpu(bundle.filter)},
        "keep": bundle.keep,
        "preprocessing": _plain(asdict(bundle.preprocessing)),
        "class_names": list(bundle.class_names),
        "training": _plain(bundle.training),
        "golden": {
            "images": golden.images,
            "scores": golden.scores,
            "full": golden.full,
            "logits": dict(golden.logits),
            "indices": dict(golden.indices),
        },
    }


def _on_cpu(weights: Weights) -> Weights:
    return {name: value.detach().cpu().contiguous() for name, value in weights.items()}


def _plain(value: Any) -> Any:
    """``value`` with its containers as dicts and lists. Raises BundleError for what is not plain."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise BundleError(f"a bundle holds tensors and plain values, got {type(value).__name__}: {value!r:.80}")


def _bundle_from_content(content: Any, source: str) -> Bundle:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise BundleError(f"{source} is not a bundle: it lacks format {FORMAT!r}. {_REMEDY}")
    version = content.get("version")
    if version != VERSION:
        remedy = "Update tokfilter." if isinstance(version, int) and version > VERSION else _REMEDY
        raise BundleError(f"{source} has bundle version {version!r}; this tokfilter reads version {VERSION}. {remedy}")
    try:
        bundle = Bundle(
            architecture=Architecture(**content["architecture"]),
            backbone=content["backbone"],
            filter_config=FilterConfig(**content["filter"]["config"]),
            filter=content["filter"]["weights"],
            keep=content["keep"],
            preprocessing=_preprocessing(content["preprocessing"]),
            class_names=content["class_names"],
            golden=Golden(**content["golden"]),
            training=_plain(content["training"]),
        )
        _check(bundle)
    except TokfilterError as error:
        raise BundleError(f"{source} is not a sound bundle: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise BundleError(f"{source} is not a sound bundle: {type(error).__name__}: {error}. {_REMEDY}") from error
    return bundle


def _preprocessing(fields: dict[str, Any]) -> Preprocessing:
    lists = {name: tuple(fields[name]) for name in ("input_size", "mean", "std")}
    return Preprocessing(**{**fields, **lists})


def _check(bundle: Bundle) -> None:
    _want(isinstance(bundle.backbone, dict), "its backbone holds no tensors")
    _want(_depth(bundle.architecture) <= len(bundle.backbone), "its architecture is deeper than it has weights")
    with torch.device("meta"):
        backbone = create_backbone(bundle.architecture)
        skeleton = FilteredViT(backbone, keep=bundle.keep)
        skeleton.drop.scorer = TokenFilter(skeleton.channels, bundle.filter_config)
    backbone_weights, filter_weights = weights_from_model(skeleton)
    _check_tensors("backbone", backbone_weights, bundle.backbone)
    _check_tensors("filter", filter_weights, bundle.filter)

    size, wanted = bundle.preprocessing.input_size, (3, *skeleton.backbone.patch_embed.img_size)
    _want(size == wanted, f"its preprocessing makes {size} images, its model wants {wanted}")
    numbers = (*bundle.preprocessing.mean, *bundle.preprocessing.std, bundle.preprocessing.crop_pct)
    _want(all(math.isfinite(number) for number in numbers), "its preprocessing is not finite")
    _want(len(bundle.preprocessing.mean) == len(bundle.preprocessing.std) == 3, "its mean and std want three channels")
    _want(all(number > 0 for number in bundle.preprocessing.std), "its std is not positive")
    classes = skeleton.backbone.num_classes or skeleton.backbone.num_features
    names = bundle.class_names
    _want(isinstance(names, list) and all(isinstance(name, str) for name in names), "its class names are no texts")
    _want(len(names) in (0, classes), f"it names {len(names)} classes and its model has {classes}")
    _check_golden(bundle.golden, size, skeleton.patches, classes)


def _depth(architecture: Architecture) -> int:
    depth = architecture.kwargs.get("depth", 0)
    return depth if isinstance(depth, int) else 0


def _check_golden(golden: Golden, input_size: tuple[int, ...], patches: int, classes: int) -> None:
    count = golden.images.shape[0]
    budgets = sorted(golden.logits)
    _want(count >= 1 and budgets == sorted(golden.indices), "its golden tensors do not belong together")
    _want(all(isinstance(k, int) and 1 <= k < patches for k in budgets), f"its golden budgets {budgets} do not fit")
    expected = {
        "images": torch.empty(count, *input_size, device="meta"),
        "scores": torch.empty(count, patches, device="meta"),
        "full": torch.empty(count, classes, device="meta"),
    }
    found = {name: getattr(golden, name) for name in expected}
    for k in budgets:
        expected[f"logits {k}"], found[f"logits {k}"] = expected["full"], golden.logits[k]
        expected[f"indices {k}"] = torch.empty(count, k, dtype=torch.int32, device="meta")
        found[f"indices {k}"] = golden.indices[k]
    _check_tensors("golden", expected, found)
    in_range = all(bool(((i >= 0) & (i < patches)).all()) for i in golden.indices.values())
    _want(in_range, f"its golden indices lie outside 0..{patches - 1}")


def _check_tensors(what: str, expected: Mapping[str, Tensor], found: Any) -> None:
    _want(isinstance(found, dict), f"its {what} holds no tensors")
    missing, surplus = sorted(expected.keys() - found.keys()), sorted(map(str, found.keys() - expected.keys()))
    _want(not missing, f"its {what} lacks {len(missing)} tensors, first {missing[:1]}")
    _want(not surplus, f"its {what} has {len(surplus)} tensors too many, first {surplus[:1]}")
    for name, want in expected.items():
        got = found[name]
        _want(isinstance(got, Tensor) and got.layout == torch.strided, f"{what} {name} is no dense tensor")
        _want(
            got.shape == want.shape and got.dtype == want.dtype,
            f"{what} {name} wants {want.dtype} {list(want.shape)}, got {got.dtype} {list(got.shape)}",
        )
        _want(bool(got.isfinite().all()), f"{what} {name} holds NaN or infinity")


def _want(condition: bool, complaint: str) -> None:
    if not condition:
        raise BundleError(complaint)
