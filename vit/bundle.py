"""model.pt, the bundle: everything that a filtered model is, in one file (format on one page: ``docs/bundle.md``).

Read with ``torch.load(weights_only=True)`` and never otherwise: a file that would need unpickling is refused. Every
tensor is checked by name, type, shape and finiteness against the architecture that the file itself names.
"""

import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from tokfilter.artifacts.budget import Keep
from tokfilter.artifacts.files import atomic_path, existing_file
from tokfilter.errors import BundleError, TokfilterError
from tokfilter.vit.backbone import Architecture, create_backbone
from tokfilter.vit.bundle_check import check_bundle
from tokfilter.vit.golden import Golden, golden_from_model
from tokfilter.vit.model import FilteredViT, weights_from_model
from tokfilter.vit.scorers import FilterConfig

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


def model_from_bundle(bundle: Bundle) -> FilteredViT:
    """The bundle's model, in evaluation mode."""
    backbone = create_backbone(bundle.architecture)
    backbone.load_state_dict(bundle.backbone)
    model = FilteredViT(backbone, keep=bundle.keep)
    scorer = model.new_filter(bundle.filter_config)
    scorer.load_state_dict(bundle.filter)
    model.drop.scorer = scorer
    return model.eval()


def save_bundle(bundle: Bundle, path: str | Path) -> None:
    """Write model.pt atomically, after the same checks that reading makes. Raises BundleError, OSError."""
    content = _content_from_bundle(bundle)
    _bundle_from_content(content, "the bundle to be written")
    with atomic_path(Path(path)) as part:
        torch.save(content, part)


def load_bundle(path: str | Path) -> Bundle:
    """Read and check model.pt. Raises DataError when there is no such file, BundleError when it is no sound bundle."""
    path = existing_file(path, "a bundle (model.pt)")
    _check_archive(path)
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


def _check_archive(path: Path) -> None:
    """Check the zip that torch.save writes: stored entries only (nothing to inflate), each with its checksum."""
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            raise BundleError(f"{path} is not a bundle: it is no file that torch.save wrote. {_REMEDY}")
    try:
        with zipfile.ZipFile(path) as archive:
            inflated = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
            damaged = archive.testzip()
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise BundleError(f"{path} is damaged ({error}). Copy it again, or: {_REMEDY}") from error
    if inflated or damaged:
        raise BundleError(f"{path} is damaged: its part {damaged or inflated[0]} is not as it was written. {_REMEDY}")


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
        check_bundle(bundle)
    except TokfilterError as error:
        raise BundleError(f"{source} is not a sound bundle: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise BundleError(f"{source} is not a sound bundle: {type(error).__name__}: {error}. {_REMEDY}") from error
    return bundle


def _preprocessing(fields: dict[str, Any]) -> Preprocessing:
    lists = {name: tuple(fields[name]) for name in ("input_size", "mean", "std")}
    return Preprocessing(**{**fields, **lists})
