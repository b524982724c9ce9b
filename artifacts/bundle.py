"""model.pt, the bundle: a filtered model in one file (format on one page: ``docs/bundle.md``).

Read with ``torch.load(weights_only=True)`` and never otherwise: a file that needs unpickling is refused. This module
checks the file and the structure of its content; ``tokfilter.vit.bundle`` checks the tensors against the architecture.
torch is imported inside functions, so that the data classes are available without it.
"""

import math
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tokfilter.artifacts.budget import Keep
from tokfilter.artifacts.files import atomic_path, existing_file
from tokfilter.artifacts.split import Split, content_from_split, split_from_content
from tokfilter.errors import BundleError, TokfilterError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "ACTIVATIONS",
    "CROP_MODES",
    "FORMAT",
    "GLOBAL_FEATURES",
    "HEADS",
    "INTERPOLATIONS",
    "VERSION",
    "Architecture",
    "Bundle",
    "FilterConfig",
    "Golden",
    "Preprocessing",
    "bundle_from_content",
    "content_from_bundle",
    "read_bundle",
    "sound_bundle",
    "write_content",
]

FORMAT: Final = "tokfilter-bundle"
VERSION: Final = 1

ACTIVATIONS: Final = ("gelu", "relu", "silu")
GLOBAL_FEATURES: Final = ("mean", "none")
HEADS: Final = ("timm", "class+mean")
INTERPOLATIONS: Final = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
CROP_MODES: Final = ("center", "squash", "border", "center-floor", "squash-floor")

_REMEDY: Final = "`tokfilter train` writes bundles."


@dataclass(frozen=True)
class Architecture:
    """What builds the backbone again: a timm model, and the two things that timm's arguments cannot express.

    name, kwargs: of ``timm.create_model``, plain types
    norm_eps: epsilon of every LayerNorm; None: timm's
    head: timm, or class+mean: the classifier takes the class token joined with the mean of the patch tokens (DINOv2)
    """

    name: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    norm_eps: float | None = None
    head: str = "timm"

    def __post_init__(self) -> None:
        eps = self.norm_eps
        if eps is not None and not (isinstance(eps, float) and 0 < eps < 1):
            raise ValueError(f"an architecture's norm_eps is a float between 0 and 1, or None, got {eps!r}")
        if self.head not in HEADS:
            raise ValueError(f"an architecture's head is one of {', '.join(HEADS)}, got {self.head!r}")


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the model's input, in timm's terms.

    input_size: (3, H, W)
    mean, std: per channel, for pixels in 0..1
    interpolation, crop_pct, crop_mode: of the resize and crop before; besides timm's modes there are center-floor and
        squash-floor, which round an odd margin down as transformers does
    """

    input_size: tuple[int, int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    crop_pct: float = 1.0
    crop_mode: str = "center"


@dataclass(frozen=True)
class FilterConfig:
    """Shape of the token filter.

    width: hidden width of the MLP
    depth: hidden layers, at least 1
    activation: gelu, relu or silu
    global_feature: mean (over the image's patch tokens) or none
    summary: hidden width of the class token's global context (``vit/global_context.py``); 0 for none
    """

    width: int = 64
    depth: int = 2
    activation: str = "gelu"
    global_feature: str = "mean"
    summary: int = 0

    def __post_init__(self) -> None:
        if self.width < 1 or self.depth < 1:
            raise ValueError(f"a filter's width and depth must be at least 1, got {self.width} and {self.depth}")
        if self.summary < 0:
            raise ValueError(f"a filter's summary is a width, or 0 for none, got {self.summary}")
        for name, allowed in (("activation", ACTIVATIONS), ("global_feature", GLOBAL_FEATURES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"a filter's {name} is one of {', '.join(allowed)}, got {getattr(self, name)!r}")


@dataclass(frozen=True)
class Golden:
    """Inputs and expected outputs, computed by torch in fp32. Every later stage is compared with them.

    images: [G, 3, H, W], normalised
    scores: [G, N]
    full: [G, classes], logits with every token
    logits: budget k -> [G, classes]
    indices: budget k -> [G, k] int32
    """

    images: "Tensor"
    scores: "Tensor"
    full: "Tensor"
    logits: "dict[int, Tensor]"
    indices: "dict[int, Tensor]"


@dataclass(frozen=True)
class Bundle:
    """A filtered model, the data needed to use it, and the record of its training.

    backbone, filter: state dicts
    keep: default budget
    training: plain values: data, label settings, seeds, metrics
    split: which images it was trained on; None where that is not known
    """

    architecture: Architecture
    backbone: "dict[str, Tensor]"
    filter_config: FilterConfig
    filter: "dict[str, Tensor]"
    keep: Keep
    preprocessing: Preprocessing
    class_names: list[str]
    golden: Golden
    training: dict[str, Any] = field(default_factory=dict)
    split: Split | None = None


def read_bundle(path: str | Path) -> Bundle:
    """Read model.pt and check its structure; its tensors may still not fit the architecture (``vit.bundle``).

    Raises DataError when there is no such file, BundleError when it is not a bundle.
    """
    import torch

    path = existing_file(path, "a bundle (model.pt)")
    _check_archive(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile or damaged file can raise any type; the remedy is the same
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BundleError(
            f"{path} is damaged, or holds more than tensors and plain values, which tokfilter never unpickles "
            f"({reason[:200]}). {_REMEDY}"
        ) from error
    return bundle_from_content(content, str(path))


def write_content(content: dict[str, Any], path: str | Path) -> None:
    """Write model.pt atomically. Raises OSError."""
    import torch

    with atomic_path(Path(path)) as part:
        torch.save(content, part)


def content_from_bundle(bundle: Bundle) -> dict[str, Any]:
    """The dict that model.pt holds. Raises BundleError for values that are not plain."""
    golden = bundle.golden
    return {
        "format": FORMAT,
        "version": VERSION,
        "architecture": _architecture_fields(bundle.architecture),
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
        **({} if bundle.split is None else {"split": content_from_split(bundle.split)}),
    }


def bundle_from_content(content: Any, source: str) -> Bundle:
    """The bundle in the content of ``source``, its structure checked. Raises BundleError."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise BundleError(f"{source} is not a bundle: it lacks format {FORMAT!r}. {_REMEDY}")
    version = content.get("version")
    if version != VERSION:
        remedy = "Update tokfilter." if isinstance(version, int) and version > VERSION else _REMEDY
        raise BundleError(f"{source} has bundle version {version!r}; this tokfilter reads version {VERSION}. {remedy}")
    with sound_bundle(source):
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
            split=split_from_content(content["split"]) if "split" in content else None,
        )
        _check_structure(bundle)
    return bundle


@contextmanager
def sound_bundle(source: str) -> Iterator[None]:
    """Turn whatever an unsound bundle raises inside the block into a BundleError that names ``source``."""
    try:
        yield
    except TokfilterError as error:
        raise BundleError(f"{source} is not a sound bundle: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise BundleError(f"{source} is not a sound bundle: {type(error).__name__}: {error}. {_REMEDY}") from error


def _check_structure(bundle: Bundle) -> None:
    preprocessing, names, golden = bundle.preprocessing, bundle.class_names, bundle.golden
    numbers = (*preprocessing.mean, *preprocessing.std, preprocessing.crop_pct)
    _require(all(math.isfinite(number) for number in numbers), "its preprocessing is not finite")
    _require(len(preprocessing.mean) == len(preprocessing.std) == 3, "its mean and std must have three channels")
    _require(all(number > 0 for number in preprocessing.std), "its std is not positive")
    _require(isinstance(names, list) and all(isinstance(name, str) for name in names), "its class names are not texts")
    _require(sorted(golden.logits) == sorted(golden.indices), "its golden tensors do not belong together")


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


def _on_cpu(weights: "dict[str, Tensor]") -> "dict[str, Tensor]":
    return {name: value.detach().cpu().contiguous() for name, value in weights.items()}


def _plain(value: Any) -> Any:
    """``value`` with its containers as dicts and lists. Raises BundleError for other types."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise BundleError(f"a bundle holds tensors and plain values, got {type(value).__name__}: {value!r:.80}")


def _architecture_fields(architecture: Architecture) -> dict[str, Any]:
    """Without the optional keys that have their default, so that older readers read what they can build."""
    fields: dict[str, Any] = {"name": architecture.name, "kwargs": _plain(architecture.kwargs)}
    if architecture.norm_eps is not None:
        fields["norm_eps"] = architecture.norm_eps
    if architecture.head != "timm":
        fields["head"] = architecture.head
    return fields


def _preprocessing(fields: dict[str, Any]) -> Preprocessing:
    lists = {name: tuple(fields[name]) for name in ("input_size", "mean", "std")}
    return Preprocessing(**{**fields, **lists})


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise BundleError(problem)
