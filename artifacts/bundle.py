"""model.pt, the bundle: a filtered model in one file (format on one page: ``docs/bundle.md``).

Read with ``torch.load(weights_only=True)`` and never otherwise: a file that needs unpickling is refused. This module
checks the file and the structure of its content; ``tokfilter.vit.bundle`` checks the tensors against the architecture.
torch is imported inside functions, so that the data classes are available without it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tokfilter.artifacts.budget import Keep
from tokfilter.artifacts.bundle_values import check_sizes, check_tensors, plain_copy, preprocessing_problem
from tokfilter.artifacts.files import existing_file
from tokfilter.artifacts.limits import MAX_FILTER_DEPTH, MAX_SIZE
from tokfilter.artifacts.mask_config import MaskHeadConfig, mask_config_from_fields
from tokfilter.artifacts.reducer import ReducerConfig
from tokfilter.artifacts.split import Split, content_from_split, split_from_content
from tokfilter.artifacts.torch_file import read_torch_file, save_torch_file
from tokfilter.errors import BundleError, TokfilterError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "ACTIVATIONS",
    "FORMAT",
    "GLOBAL_FEATURES",
    "HEADS",
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
    depth: hidden layers, 1 to MAX_FILTER_DEPTH (``limits.py``)
    activation: gelu, relu or silu
    global_feature: mean (over the image's patch tokens) or none
    summary: hidden width of the class token's global context (``vit/global_context.py``); 0 for none
    neighbours: whether a convolution over the 3 × 3 tokens around each joins the first hidden layer
    """

    width: int = 64
    depth: int = 2
    activation: str = "gelu"
    global_feature: str = "mean"
    summary: int = 0
    neighbours: bool = False

    def __post_init__(self) -> None:
        if type(self.neighbours) is not bool:
            raise ValueError(f"a filter's neighbours is true or false, got {self.neighbours!r:.50}")
        ranges = {"width": (1, MAX_SIZE), "depth": (1, MAX_FILTER_DEPTH), "summary": (0, MAX_SIZE)}
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ValueError(f"a filter's {name} is a whole number from {low} to {high}, got {value!r:.50}")
        for name, allowed in (("activation", ACTIVATIONS), ("global_feature", GLOBAL_FEATURES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"a filter's {name} is one of {', '.join(allowed)}, got {getattr(self, name)!r:.50}")


@dataclass(frozen=True)
class Golden:
    """Inputs and expected outputs, computed by torch in fp32. Every later stage is compared with them.

    images: [G, 3, H, W], normalised
    scores: [G, N]
    full: [G, classes], logits with every token; of a model with a mask head [G, M, H', W']
    logits: budget k -> as ``full``
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

    backbone, filter: state dicts; ``filter`` has the weights of the reducer, where that is another one
    keep: default budget
    training: plain values: data, label settings, seeds, metrics
    split: which images it was trained on; None where that is not known
    mask_config, mask_head: shape and state dict of the mask head; None and empty for a classifier
    reducer: how the model gets rid of tokens; the key is left out for the filter
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
    mask_config: MaskHeadConfig | None = None
    mask_head: "dict[str, Tensor]" = field(default_factory=dict)
    reducer: ReducerConfig = field(default_factory=ReducerConfig)


def read_bundle(path: str | Path) -> Bundle:
    """Read model.pt and check its structure; its tensors may still not fit the architecture (``vit.bundle``).

    Raises DataError when there is no such file, BundleError when it is not a bundle.
    """
    path = existing_file(path, "a bundle (model.pt)")
    try:
        content = read_torch_file(path)
    except ValueError as error:
        raise BundleError(
            f"{path} is not a bundle, is damaged, or holds more than tensors and plain values, which tokfilter never "
            f"unpickles ({error}). {_REMEDY}"
        ) from error
    return bundle_from_content(content, str(path))


def write_content(content: dict[str, Any], path: str | Path) -> None:
    """Write model.pt atomically. Raises OSError."""
    save_torch_file(content, Path(path))


def content_from_bundle(bundle: Bundle) -> dict[str, Any]:
    """The dict that model.pt holds. Raises BundleError for values that are not plain."""
    golden = bundle.golden
    return {
        "format": FORMAT,
        "version": VERSION,
        "architecture": _architecture_fields(bundle.architecture),
        "backbone": _on_cpu(bundle.backbone),
        "filter": {"config": _filter_fields(bundle.filter_config), "weights": _on_cpu(bundle.filter)},
        "keep": bundle.keep,
        "preprocessing": plain_copy(asdict(bundle.preprocessing)),
        "class_names": list(bundle.class_names),
        "training": plain_copy(bundle.training),
        "golden": {
            "images": golden.images,
            "scores": golden.scores,
            "full": golden.full,
            "logits": dict(golden.logits),
            "indices": dict(golden.indices),
        },
        **({} if bundle.split is None else {"split": content_from_split(bundle.split)}),
        **_mask_fields(bundle),
        **({} if bundle.reducer.name == "filter" else {"reducer": bundle.reducer.as_dict()}),
    }


def _filter_fields(config: FilterConfig) -> dict[str, Any]:
    """Without neighbours where there are none: earlier versions read such a bundle."""
    fields = asdict(config)
    return fields if config.neighbours else {name: fields[name] for name in fields if name != "neighbours"}


def bundle_from_content(content: Any, source: str) -> Bundle:
    """The bundle in the content of ``source``, its structure checked. Raises BundleError."""
    named = content.get("format") if isinstance(content, dict) else None
    if not isinstance(named, str) or named != FORMAT:  # a tensor compares value by value
        raise BundleError(f"{source} is not a bundle: it lacks format {FORMAT!r}. {_REMEDY}")
    version = content.get("version")
    if not isinstance(version, int) or version != VERSION:
        remedy = "Update tokfilter." if isinstance(version, int) and version > VERSION else _REMEDY
        found = f"{version!r:.50}"
        raise BundleError(f"{source} has bundle version {found}; this tokfilter reads version {VERSION}. {remedy}")
    with sound_bundle(source):
        architecture = plain_copy(content["architecture"])
        bundle = Bundle(
            architecture=Architecture(**architecture),
            backbone=content["backbone"],
            filter_config=FilterConfig(**plain_copy(content["filter"]["config"])),
            filter=content["filter"]["weights"],
            keep=plain_copy(content["keep"]),
            preprocessing=_preprocessing(plain_copy(content["preprocessing"])),
            class_names=plain_copy(content["class_names"]),
            golden=Golden(**content["golden"]),
            training=plain_copy(content["training"]),
            split=split_from_content(content["split"]) if "split" in content else None,
            **_mask_head(content.get("mask_head")),
            reducer=ReducerConfig(**plain_copy(content["reducer"])) if "reducer" in content else ReducerConfig(),
        )
        check_tensors(content)
        _check_structure(bundle)
    return bundle


@contextmanager
def sound_bundle(source: str) -> Iterator[None]:
    """Turn whatever an unsound bundle raises inside the block into a BundleError that names ``source``."""
    try:
        yield
    except TokfilterError as error:
        raise BundleError(f"{source} is not a sound bundle: {error}") from error
    except Exception as error:  # timm and torch raise many types for what they cannot build
        sentence = isinstance(error, ValueError) and str(error) != ""  # of other types the name says more
        reason = (str(error) if sentence else f"{type(error).__name__}: {error}")[:300]
        raise BundleError(f"{source} is not a sound bundle: {reason}. {_REMEDY}") from error


def _check_structure(bundle: Bundle) -> None:
    names, golden, training = bundle.class_names, bundle.golden, bundle.training
    _require(isinstance(bundle.architecture.name, str), "the name of its architecture is no text")
    _require(isinstance(bundle.architecture.kwargs, dict), "its architecture's arguments have no names")
    check_sizes(bundle.architecture.kwargs)
    problem = preprocessing_problem(asdict(bundle.preprocessing))
    _require(not problem, f"its preprocessing: {problem}")
    _require(isinstance(names, list) and all(isinstance(name, str) for name in names), "its class names are not texts")
    _require(isinstance(training, dict), "its training record has no names")
    for part in (golden.logits, golden.indices):
        _require(isinstance(part, dict) and all(type(k) is int for k in part), "its golden tensors have no budgets")
    _require(sorted(golden.logits) == sorted(golden.indices), "its golden tensors do not belong together")


def _on_cpu(weights: "dict[str, Tensor]") -> "dict[str, Tensor]":
    return {name: value.detach().cpu().contiguous() for name, value in weights.items()}


def _architecture_fields(architecture: Architecture) -> dict[str, Any]:
    """Without the optional keys that have their default, so that older readers read what they can build."""
    fields: dict[str, Any] = {"name": architecture.name, "kwargs": plain_copy(architecture.kwargs)}
    if architecture.norm_eps is not None:
        fields["norm_eps"] = architecture.norm_eps
    if architecture.head != "timm":
        fields["head"] = architecture.head
    return fields


def _mask_fields(bundle: Bundle) -> dict[str, Any]:
    """The key ``mask_head``; a classifier has none."""
    if bundle.mask_config is None:
        return {}
    return {"mask_head": {"config": bundle.mask_config.fields(), "weights": _on_cpu(bundle.mask_head)}}


def _mask_head(content: Any) -> dict[str, Any]:
    if content is None:
        return {}
    config = mask_config_from_fields(plain_copy(content["config"]))
    return {"mask_config": config, "mask_head": content["weights"]}


def _preprocessing(fields: dict[str, Any]) -> Preprocessing:
    lists = {name: tuple(fields[name]) for name in ("input_size", "mean", "std")}
    return Preprocessing(**{**fields, **lists})


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise BundleError(problem)
