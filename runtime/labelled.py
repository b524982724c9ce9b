"""Top-1 of an engine on labelled images, or recall@1 of its embeddings, at several budgets, without torch."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from tokfilter.artifacts.images import image_extensions, open_image
from tokfilter.artifacts.manifest import ModelCard
from tokfilter.artifacts.neighbours import retrieval_of
from tokfilter.artifacts.split import Split, key_from_file
from tokfilter.artifacts.zip_parts import open_regular
from tokfilter.errors import DataError
from tokfilter.runtime.preprocess import Preprocess, preprocess_from_card
from tokfilter.runtime.session import Array, Session

__all__ = ["IMAGES", "drops_from_images", "embedded_files", "labelled_files", "recall_drops", "untrained_files"]

IMAGES: Final = 8
"""Of a batch."""


def drops_from_images(
    full: Session,
    filtered: Session,
    card: ModelCard,
    files: Sequence[tuple[Path, int]],
    budgets: Sequence[int],
    report: Callable[[str], None],
    progress: Callable[[str, float], None] = lambda what, fraction: None,
) -> dict[int, float]:
    """Budget -> loss of top-1 against the full model on ``labelled_files``.

    report: gets the name and reason of each image that is left out because it is damaged
    Raises DataError where none can be decoded.
    """
    preprocess = preprocess_from_card(card)
    right, correct, count = 0, dict.fromkeys(budgets, 0), 0
    for images, labels in _batches(files, preprocess, report):
        count += len(labels)
        progress(f"top-1 of {len(files)} images at {len(budgets)} budgets", count / len(files))
        right += int((_outputs(full, images, card.num_patches).argmax(1) == labels).sum())
        for k in budgets:
            correct[k] += int((_outputs(filtered, images, k).argmax(1) == labels).sum())
    if count == 0:
        raise DataError(f"none of {len(files)} images can be decoded, first {files[0][0]}: give others.")
    return {k: (right - value) / count for k, value in correct.items()}


def recall_drops(
    full: Session,
    filtered: Session,
    card: ModelCard,
    files: Sequence[tuple[Path, int]],
    budgets: Sequence[int],
    report: Callable[[str], None],
    progress: Callable[[str, float], None] = lambda what, fraction: None,
) -> dict[int, float]:
    """Budget -> loss of recall@1 against the full model, of embeddings (``artifacts/neighbours.py``).

    files: of ``embedded_files``; all outputs are held in memory
    report: gets the name and reason of each image that is left out because it is damaged
    Raises DataError where fewer than two can be decoded.
    """
    outputs: dict[int, list[Array]] = {k: [] for k in (card.num_patches, *budgets)}
    classes: list[int] = []
    for images, labels in _batches(files, preprocess_from_card(card), report):
        classes += labels.tolist()
        progress(f"recall@1 of {len(files)} images at {len(budgets)} budgets", len(classes) / len(files))
        outputs[card.num_patches].append(_outputs(full, images, card.num_patches))
        for k in budgets:
            outputs[k].append(_outputs(filtered, images, k))
    if len(classes) < 2:
        raise DataError(f"recall@1 needs at least 2 images that can be decoded, got {len(classes)} of {len(files)}.")
    rows = {k: np.concatenate(parts) for k, parts in outputs.items()}
    truth, known = rows[card.num_patches], None if min(classes) < 0 else classes
    most = retrieval_of(truth, truth, known).recall
    return {k: most - retrieval_of(rows[k], truth, known).recall for k in budgets}


def embedded_files(folder: Path) -> list[tuple[Path, int]]:
    """Images with the index of their subfolder, or -1 for the images of a folder without subfolders.

    Raises DataError where there are no images.
    """
    if not folder.is_dir() or any(path.is_dir() for path in folder.iterdir()):
        return labelled_files(folder, ())
    extensions = image_extensions()
    files = [(path, -1) for path in sorted(folder.iterdir()) if path.suffix.lower() in extensions]
    if not files:
        raise DataError(f"{folder} has no images: give a folder of JPEG, PNG, WebP... files.")
    return files


def _outputs(session: Session, images: Array, tokens: int) -> Array:
    """Logits [n, classes] or embeddings [n, C] of images [n, 3, H, W], in batches that the engine takes.

    A plan may take batches of some sizes only: more images are divided, fewer are filled up with copies of the last.
    """
    chosen = getattr(session, "model_file", None)
    low, _, high = (1, IMAGES, IMAGES) if chosen is None else chosen.entry.batch_range or (1, IMAGES, IMAGES)
    found = []
    for start in range(0, len(images), high):
        part = images[start : start + high]
        rows = np.minimum(np.arange(max(low, len(part))), len(part) - 1)
        found.append(session.run(part[rows], tokens).logits[: len(part)])
    return np.concatenate(found)


def _batches(
    files: Sequence[tuple[Path, int]], preprocess: Preprocess, report: Callable[[str], None]
) -> Iterator[tuple[Array, Array]]:
    """Inputs and classes of the images that can be decoded."""
    inputs: list[Array] = []
    labels: list[int] = []
    for path, label in files:
        try:
            inputs.append(preprocess(open_image(path)))
        except DataError as error:
            report(f"skipped {error}")
            continue
        labels.append(label)
        if len(labels) == IMAGES:
            yield np.stack(inputs), np.array(labels)
            inputs, labels = [], []
    if labels:
        yield np.stack(inputs), np.array(labels)


def labelled_files(folder: Path, class_names: Sequence[str]) -> list[tuple[Path, int]]:
    """Images with their class: the subfolder's index among the model's class names, or among the sorted subfolders.

    Raises DataError where there are no images, or a subfolder that is no class of the model.
    """
    if not folder.is_dir():
        raise DataError(f"labelled images must be a folder with one subfolder per class, got {folder}.")
    subfolders = sorted(path for path in folder.iterdir() if path.is_dir())
    names = list(class_names) or [path.name for path in subfolders]
    known = set(names)
    unknown = [path.name for path in subfolders if path.name not in known]
    if unknown:
        raise DataError(f"{folder} has subfolders that are no class of this model, first {unknown[0]!r}.")
    extensions, index = image_extensions(), {name: label for label, name in reversed(list(enumerate(names)))}
    files = [
        (path, index[subfolder.name])
        for subfolder in subfolders
        for path in sorted(subfolder.iterdir())
        if path.suffix.lower() in extensions
    ]
    if not files:
        raise DataError(
            f"no images in the subfolders of {folder}: labelled images must be files in one subfolder per class."
        )
    return files


def untrained_files(
    files: Sequence[tuple[Path, int]],
    split: Split,
    report: Callable[[str], None],
    progress: Callable[[str, float], None] = lambda what, fraction: None,
) -> list[tuple[Path, int]]:
    """The images that the model was not trained on, by the content of their files.

    A file that cannot be read stays: it is reported where it is decoded.
    report: gets how many are left out
    Raises DataError where none is left.
    """
    keys = []
    for done, (path, _) in enumerate(files):
        progress("comparing with the training images", done / len(files))
        try:
            with open_regular(path) as file:
                keys.append(key_from_file(file))
        except OSError:
            keys.append(0)
    chosen = [files[position] for position in split.testable(keys)]
    if not chosen:
        raise DataError(
            f"the model was trained on all {len(files)} images: its loss of accuracy on them says little. Give others."
        )
    if len(chosen) < len(files):
        report(f"note: {len(chosen)} of {len(files)} images are used; the model was trained on the others.")
    return chosen
