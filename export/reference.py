"""Expected outputs: a bundle's model in torch on its golden images and on the user's."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokfilter.artifacts.bundle import Bundle, Golden, Preprocessing
from tokfilter.artifacts.compare import TOLERANCES, compare_indices, compare_logits
from tokfilter.artifacts.compare_masks import compare_outputs
from tokfilter.artifacts.images import open_image
from tokfilter.artifacts.pixels import InputForm, in_form, normalise, pixels_from_normalised
from tokfilter.errors import BundleError, DataError
from tokfilter.vit.golden import golden_from_model
from tokfilter.vit.model import FilteredViT
from tokfilter.vit.reducers.tome import best_partners

__all__ = [
    "SUFFIXES",
    "Expected",
    "ImageSet",
    "Reference",
    "check_golden",
    "golden_at",
    "golden_image_set",
    "golden_on_pixels",
    "image_set_from_folder",
    "transform_of",
]

Array = NDArray[Any]
SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
_BATCH = 8


@dataclass(frozen=True)
class ImageSet:
    """Images with labels for messages.

    images: [M, 3, H, W], normalised
    inputs: the same images as a graph takes them
    damaged: files that could not be read and were left out, with the reason
    """

    name: str
    labels: tuple[str, ...]
    images: Tensor
    inputs: Array
    damaged: tuple[str, ...] = ()


@dataclass(frozen=True)
class Expected:
    """Outputs of torch for an image set at one budget.

    logits: [M, classes], or masks [M, masks, H', W']
    scores: [M, N]
    indices: [M, k] int32; None with every token
    later: [M, k_2 + k_3 ...] int32, rows that the choices after the first kept; None where there are none
    partners: [M, N + k_1 ...] int32, rows that tokens are merged into unless they are kept; None without merging
    """

    logits: Array
    scores: Array
    indices: Array | None
    later: Array | None = None
    partners: Array | None = None


@dataclass
class Reference:
    """A model in evaluation mode; each output is computed once. Budget None means every token and no filter."""

    model: FilteredViT
    _known: dict[tuple[str, int | None], Expected] = field(default_factory=dict)

    def expected(self, image_set: ImageSet, budget: int | None) -> Expected:
        """Outputs for ``image_set``; the bundle's golden outputs are not computed again."""
        key = (image_set.name, budget)
        if key not in self._known:
            self._known[key] = self._computed(image_set.images, budget)
        return self._known[key]

    def trust(self, bundle: Bundle, image_set: ImageSet) -> None:
        """Use the bundle's golden outputs for ``image_set``, where they hold what every choice kept."""
        golden = bundle.golden
        if len(self.model.drop.choices) > 1 or self.model.drop.merges:
            return
        self._known[image_set.name, None] = Expected(golden.full.numpy(), golden.scores.numpy(), None)
        for k, logits in golden.logits.items():
            indices = golden.indices[k].numpy()
            self._known[image_set.name, k] = Expected(logits.numpy(), golden.scores.numpy(), indices)

    @torch.inference_mode()
    def logits_on(
        self, images: Tensor, kept: Sequence[Array], partners: Sequence[Array] = ()
    ) -> tuple[Array, list[Array], list[Array]]:
        """Logits [B, classes], or masks, of images [B, 3, H, W] with exactly the tokens kept that another runtime kept.

        kept: [B, k_s] for each stage
        partners: [B, n_s] for each stage, the rows that tokens are merged into, where they are merged
        Also returns for each stage the scores [B, n], and how much less similar the partners are than the best [B, n].
        """
        stages = [torch.from_numpy(np.ascontiguousarray(rows)) for rows in kept]
        given = [torch.from_numpy(np.ascontiguousarray(rows)).long() for rows in partners]
        scores: list[Array] = []
        lost: list[Array] = []

        def select(tokens: Tensor, found: Tensor, _k: int, prefix_tokens: int) -> tuple[Tensor, Tensor]:
            chosen = stages[len(scores)]
            scores.append(found.numpy())
            rows = (chosen.long() + prefix_tokens).unsqueeze(-1).expand(-1, -1, tokens.shape[2])
            return torch.cat([tokens[:, :prefix_tokens], tokens.gather(1, rows)], dim=1), chosen

        def pick(similarity: Tensor) -> tuple[Tensor, Tensor]:
            best, chosen = similarity.amax(dim=-1), given[len(lost)]
            found = similarity.gather(-1, chosen[..., None])[..., 0]
            lost.append((best - found).numpy())
            return best, chosen

        with _selecting(self.model, select, pick):
            logits: Tensor = self.model(images, stages[0].shape[1])
        return logits.numpy(), scores, lost

    @torch.inference_mode()
    def _computed(self, images: Tensor, budget: int | None) -> Expected:
        model = self.model
        logits: list[Tensor] = []
        scores: list[Tensor] = []
        indices: list[Tensor] = []
        later: list[Tensor] = []
        partners: list[Tensor] = []
        for part in torch.split(images, _BATCH):
            logits.append(model(part, model.num_patches if budget is None else budget))
            last = model.last
            scores.append(model.scores(part) if last.scores is None else last.scores)
            everything = torch.arange(model.num_patches, dtype=torch.int32).expand(len(part), -1)
            indices.append(everything if last.indices is None else last.indices)
            later += [torch.cat(last.later, dim=1)] if last.later else []
            partners += [torch.cat(last.partners, dim=1)] if last.partners else []
        kept = None if budget is None else torch.cat(indices).numpy()
        behind = [torch.cat(parts).numpy() if parts else None for parts in (later, partners)]
        return Expected(torch.cat(logits).numpy(), torch.cat(scores).numpy(), kept, *behind)


@contextmanager
def _selecting(model: FilteredViT, select: Any, pick: Any) -> Iterator[None]:
    reducer: Any = model.drop
    old, reducer.select = reducer.select, select
    if reducer.merges:
        reducer.pick = pick
    try:
        yield
    finally:
        reducer.select = old
        if reducer.merges:
            reducer.pick = best_partners


def check_golden(bundle: Bundle, model: FilteredViT) -> None:
    """Compute a bundle's golden tensors again: a file is no reference because it says so. Raises BundleError.

    Logits are compared on the images whose kept tokens are the same, as everywhere (``artifacts/compare.py``).
    """
    golden, fp32 = bundle.golden, TOLERANCES["fp32"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of an untrained filter: export says so once
        again = golden_from_model(model, golden.images, sorted(golden.logits))
    scores, found = golden.scores.numpy(), again.scores.numpy()
    problems = [("scores", compare_logits(scores, found, replace(fp32, cosine=-1.0)).errors[:1])]
    problems.append(("full", compare_outputs(golden.full.numpy(), again.full.numpy(), fp32).errors))
    for k, logits in golden.logits.items():
        kept = compare_indices(golden.indices[k].numpy(), again.indices[k].numpy(), found)
        problems.append((f"indices {k}", kept.errors))
        same = kept.overlap == 1.0
        if same.any():
            errors = compare_outputs(logits.numpy()[same], again.logits[k].numpy()[same], fp32).errors
            problems.append((f"logits {k}", errors))
    for name, errors in problems:
        if errors:
            raise BundleError(
                f"the bundle's golden {name} are not what its weights give: {errors[0]}. The file was altered, or made "
                "by another version of timm or torch. Read and save it again: "
                "tokfilter.save_bundle(tokfilter.load_model(path), path)."
            )


def golden_on_pixels(bundle: Bundle, model: FilteredViT) -> Golden:
    """Golden tensors for the nearest pixels to the bundle's golden images, which need not be whole pixels."""
    mean, std = bundle.preprocessing.mean, bundle.preprocessing.std
    images = normalise(pixels_from_normalised(bundle.golden.images.numpy(), mean, std), mean, std)
    return golden_from_model(model, torch.from_numpy(images), sorted(bundle.golden.logits))


def golden_at(bundle: Bundle, model: FilteredViT, budgets: list[int]) -> Golden:
    """The bundle's golden tensors, and those of further budgets: of the graphs that are made for one."""
    golden = bundle.golden
    missing = [k for k in budgets if k not in golden.logits and k < model.num_patches]
    if not missing:
        return golden
    more = golden_from_model(model, golden.images, missing)
    return replace(golden, logits=golden.logits | more.logits, indices=golden.indices | more.indices)


def golden_image_set(bundle: Bundle, form: InputForm = "float") -> ImageSet:
    """The bundle's golden images; they must be whole pixels for a form other than float (``golden_on_pixels``)."""
    labels = tuple(f"golden image {row}" for row in range(len(bundle.golden.images)))
    return _image_set("golden", labels, bundle.golden.images, bundle.preprocessing, form)


def _image_set(
    name: str, labels: tuple[str, ...], images: Tensor, preprocessing: Preprocessing, form: InputForm
) -> ImageSet:
    inputs = in_form(images.numpy(), form, preprocessing.mean, preprocessing.std)
    return ImageSet(name, labels, images, inputs)


def image_set_from_folder(folder: Path, preprocessing: Preprocessing, form: InputForm = "float") -> ImageSet:
    """The image files of a folder that can be read, with the bundle's preprocessing. Raises DataError for none."""
    if not folder.is_dir():
        raise DataError(f"--verify-images must be a folder of images, but there is none at {folder}.")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise DataError(
            f"--verify-images must be a folder of images, but {folder} holds none of {', '.join(sorted(SUFFIXES))}."
        )
    transform = transform_of(preprocessing)
    images: dict[str, Tensor] = {}
    damaged: list[str] = []
    for path in paths:
        try:
            images[str(path.relative_to(folder))] = transform(open_image(path))
        except DataError as error:
            damaged.append(str(error))
    if not images:
        raise DataError(f"--verify-images: {folder} holds no image that can be read: {damaged[0]}")
    found = _image_set(str(folder), tuple(images), torch.stack([*images.values()]), preprocessing, form)
    return replace(found, damaged=tuple(damaged))


def transform_of(preprocessing: Preprocessing) -> Callable[[Any], Tensor]:
    """The bundle's transform: an image to a normalised tensor [3, H, W]."""
    from tokfilter.vit.transform import transform_from_preprocessing

    transform: Callable[[Any], Tensor] = transform_from_preprocessing(preprocessing)
    return transform
