"""Classify images, with a bundle in torch or an export directory in an engine, and draw its kept tokens."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from tokfilter.artifacts.budget import Keep, tokens_from_keep
from tokfilter.artifacts.images import open_image
from tokfilter.artifacts.manifest import ModelCard, load_manifest
from tokfilter.errors import DataError, EngineError
from tokfilter.runtime.mask_pictures import classes_from_masks, mask_picture
from tokfilter.runtime.pictures import heat_picture, kept_picture, scale_from_size, tiled
from tokfilter.runtime.preprocess import preprocess_from_card, preprocess_from_fields
from tokfilter.runtime.stage_pictures import stage_sheet
from tokfilter.runtime.stages import Stage, stages_from_outputs

if TYPE_CHECKING:
    from tokfilter.runtime.model_files import Role
    from tokfilter.runtime.session import CheckedSession
    from tokfilter.runtime.sessions import SessionOptions
    from tokfilter.vit.model import FilteredViT

__all__ = [
    "Guess",
    "Prediction",
    "check_scores",
    "class_name",
    "finite",
    "grid_from_card",
    "picture_from_prediction",
    "predict",
    "prediction_from_model",
    "prediction_from_session",
    "predictor",
    "probabilities_and_classes",
    "probabilities_from_logits",
    "stages_from_model",
]

Floats = npt.NDArray[Any]
_NO_SCORES: Final = "a picture of scores needs a bundle (model.pt): an exported model does not return its scores."


@dataclass(frozen=True)
class Guess:
    """One class with its index and its probability in 0..1."""

    name: str
    index: int
    probability: float


@dataclass(frozen=True)
class Prediction:
    """Prediction for one image at one budget.

    view: the model's input before normalisation: resized and cropped
    grid: (rows, columns) of patches
    probabilities: [classes]; of masks the mean over their pixels
    tokens: patch tokens kept
    indices: [k] kept positions among the patches; None when every token was kept
    scores: [patches], higher is more important; None from an engine, which does not return them
    classes: [H', W'], the class of each pixel; None from a model that classifies images
    embedding: [C], of a model without a classifier, which has no probabilities; None from others
    stages: what each choice does with the patches, of a model that reduces inside its blocks; empty with every token
    """

    view: Image.Image
    grid: tuple[int, int]
    probabilities: Floats
    class_names: Sequence[str]
    tokens: int
    indices: npt.NDArray[np.int32] | None = None
    scores: npt.NDArray[np.float32] | None = None
    classes: npt.NDArray[np.int64] | None = None
    embedding: npt.NDArray[np.float32] | None = None
    stages: Sequence[Stage] = ()

    @property
    def areas(self) -> list[Guess]:
        """Classes of the pixels with their fraction of the pixels in place of a probability, the largest first."""
        if self.classes is None:
            return []
        found, pixels = np.unique(self.classes, return_counts=True)
        shares = sorted(zip(pixels / self.classes.size, found, strict=True), key=lambda pair: (-pair[0], pair[1]))
        return [Guess(class_name(self.class_names, int(i)), int(i), float(share)) for share, i in shares]

    def top(self, count: int) -> list[Guess]:
        """The ``count`` most probable classes in descending order; of equal ones the lower index first."""
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [Guess(class_name(self.class_names, int(i)), int(i), float(self.probabilities[i])) for i in order]


def predict(
    source: str | Path,
    image: str | Path | Image.Image,
    keep: Keep | None = None,
    options: "SessionOptions | None" = None,
) -> Prediction:
    """Classify an image: a file, or an RGB image in memory.

    source: a bundle (model.pt), run by torch, or an export directory, run by an engine without torch
    keep: budget; None takes the model's own
    options: engine of an export directory; default: ONNX Runtime on the CPU in fp32
    Raises DataError, BundleError, BudgetError, EngineError.
    """
    picture = image if isinstance(image, Image.Image) else open_image(image)
    with predictor(source, keep, options) as classify:
        return classify(picture)


@contextmanager
def predictor(
    source: str | Path, keep: Keep | None = None, options: "SessionOptions | None" = None
) -> Iterator[Callable[[Image.Image], Prediction]]:
    """Yield a function that classifies RGB images; source, keep, options and errors as of ``predict``."""
    source = Path(source)
    if source.is_dir():
        with _opened_export(source, keep, options) as classify:
            yield classify
        return
    from tokfilter.vit.bundle import load_model

    model = load_model(source)
    if keep is not None:
        tokens_from_keep(keep, model.num_patches)
    yield lambda image: prediction_from_model(model, image, keep)


def prediction_from_model(model: "FilteredViT", image: Image.Image, keep: Keep | None = None) -> Prediction:
    """Classify an RGB image with a patched model, on the device that the model is on. Raises BudgetError."""
    import torch

    from tokfilter.vit.info import preprocessing_from_backbone

    info = model.info
    preprocessing = preprocessing_from_backbone(model.backbone) if info is None else info.preprocessing
    transform = preprocess_from_fields(asdict(preprocessing))
    view = transform.view(image)
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        images = torch.from_numpy(transform.input_from_view(view))[None].to(next(model.parameters()))
        logits = finite(model(images, keep)[0].float().cpu().numpy())
        kept = model.last.indices
        stages = stages_from_model(model)
        scores = model.scores(images)[0].float().cpu().numpy()
    model.train(was_training)
    tokens = model.num_patches if kept is None else kept.shape[1]
    indices = None if kept is None else kept[0].cpu().numpy()
    names = () if info is None else info.class_names
    if model.output_name == "embedding":
        return Prediction(
            view, model.grid, np.empty(0), (), tokens, indices, scores, embedding=logits, stages=stages[0]
        )
    probabilities, classes = probabilities_and_classes(logits)
    return Prediction(view, model.grid, probabilities, names, tokens, indices, scores, classes, stages=stages[0])


def stages_from_model(model: "FilteredViT") -> list[list[Stage]]:
    """The stages of each image of a patched model's last pass; empty lists with every token, and of a filter."""
    last, depth = model.last, len(model.backbone.blocks)
    images = len(last.tokens)
    if last.indices is None:
        return [[] for _ in range(images)]
    parts = [[rows.cpu().numpy() for rows in some] for some in ([last.indices], last.later, last.partners)]
    arrays = [np.concatenate(some, axis=1) if some else None for some in parts]
    reducer, choices = model.drop.config.as_dict(), model.drop.choices_in_blocks(depth)
    rows = [[None if array is None else array[image] for array in arrays] for image in range(images)]
    return [
        stages_from_outputs(reducer, choices, model.grid, first, later, partners)
        for first, later, partners in rows
        if first is not None
    ]


@contextmanager
def _opened_export(
    directory: Path, keep: Keep | None, options: "SessionOptions | None"
) -> Iterator[Callable[[Image.Image], Prediction]]:
    from tokfilter.runtime.sessions import open_session

    card = load_manifest(directory).model
    tokens = None if keep is None else tokens_from_keep(keep, card.num_patches)
    role: Role = "full" if tokens == card.num_patches else "filtered"
    with open_session(directory, role, options, tokens) as session:
        session.budgets.tokens(tokens)
        yield lambda image: prediction_from_session(session, card, image, tokens)


def prediction_from_session(
    session: "CheckedSession", card: ModelCard, image: Image.Image, keep: Keep | None = None
) -> Prediction:
    """Classify an RGB image with an open session. Raises BudgetError, EngineError."""
    transform = preprocess_from_card(card)
    view = transform.view(image)
    result = session.run(transform.input_from_view(view)[None], keep)
    tokens = session.budgets.tokens(keep)
    indices = None if result.indices is None or tokens == card.num_patches else result.indices[0]
    grid = grid_from_card(card)
    stages: list[Stage] = []
    if indices is not None:
        later, partners = (None if rows is None else rows[0] for rows in (result.later_indices, result.partners))
        stages = stages_from_outputs(card.reducer, card.choices, grid, indices, later, partners)
    first = finite(result.logits[0])
    if card.embeds:
        embedding = first.astype(np.float32)
        return Prediction(view, grid, np.empty(0), (), tokens, indices, embedding=embedding, stages=stages)
    probabilities, classes = probabilities_and_classes(first)
    return Prediction(view, grid, probabilities, card.class_names, tokens, indices, classes=classes, stages=stages)


def check_scores(source: Path) -> None:
    """Raise DataError where ``source`` returns no scores of the tokens, so that no picture of them can be drawn."""
    if source.is_dir():
        raise DataError(_NO_SCORES)


def picture_from_prediction(found: Prediction, scores: bool = False) -> Image.Image:
    """The view with its kept tokens, or with the heat map of its scores; masks stand beside it.

    One panel for each choice of tokens inside the blocks, but beside masks the first choice only.

    Raises DataError when there are no scores.
    """
    scale = scale_from_size(found.view.size, 448)
    if found.classes is None:
        return _picture_of_tokens(found, scores, scale)
    tokens = _picture_of_tokens(replace(found, stages=()), scores, scale)
    return tiled([[tokens], [mask_picture(found.view, found.classes, found.class_names, scale)]])


def _picture_of_tokens(found: Prediction, scores: bool, scale: int) -> Image.Image:
    if found.stages and not scores:
        return stage_sheet(found.view, found.stages, found.grid, scale_from_size(found.view.size))
    if not scores:
        indices = range(found.tokens) if found.indices is None else found.indices
        return kept_picture(found.view, indices, found.grid, scale)
    if found.scores is None:
        raise DataError(_NO_SCORES)
    return heat_picture(found.view, found.scores, found.grid, scale)


def grid_from_card(card: ModelCard) -> tuple[int, int]:
    """(rows, columns) of square patches that fill the model's input. Raises DataError when there is no such grid."""
    _, height, width = card.input_size
    side = math.isqrt(height * width // card.num_patches)
    rows, columns = height // max(1, side), width // max(1, side)
    if rows * columns != card.num_patches:
        raise DataError(f"{card.num_patches} patches do not make a grid of squares on {width} x {height} pixels.")
    return rows, columns


def finite(output: Floats) -> Floats:
    """The output of a model as it is. Raises EngineError where it holds NaN or infinity: nothing follows from those."""
    if not np.isfinite(output).all():
        raise EngineError(
            "the model's output holds NaN or infinity: 16 bits overflow, or its weights are damaged. Compare it with "
            "its golden tensors (`tokfilter verify`), and export in fp32."
        )
    return output


def probabilities_from_logits(logits: Floats) -> Floats:
    """Softmax over the last axis, in double precision. logits: [..., classes]."""
    wide = logits.astype(np.float64)
    powers = np.exp(wide - wide.max(axis=-1, keepdims=True))
    probabilities: Floats = powers / powers.sum(axis=-1, keepdims=True)
    return probabilities


def probabilities_and_classes(logits: Floats) -> tuple[Floats, npt.NDArray[np.int64] | None]:
    """Probabilities [classes] of one image, and of masks the class of each pixel.

    logits: [classes], or masks [M, H', W']
    """
    if logits.ndim == 1:
        return probabilities_from_logits(logits), None
    return probabilities_from_logits(np.moveaxis(logits, 0, -1)).mean(axis=(0, 1)), classes_from_masks(logits)


def class_name(names: Sequence[str], index: int) -> str:
    """The class's name, or its index where the model has no names."""
    return names[index] if names else f"class {index}"
