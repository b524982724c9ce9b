"""objects-in-photographs: one garment or digit anywhere in a photograph of 224 pixels, among distractors; 20 classes.

The class is that of the only whole garment or digit. Distractors are pieces of garments and digits (at most a third of
the area), smooth blobs, noise, pieces of other photographs, and lines that end at the border. A split uses its own
photographs, garments and digits for everything, distractors included. Images are JPEG files of quality 95, and
``scenes.json`` says what each was made of.
"""

import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tokfilter.benchmarks.study.photo_parts import (
    Box,
    Look,
    draw_blob,
    draw_line,
    draw_noise,
    draw_piece,
    draw_shape,
    window_of_photograph,
)
from tokfilter.benchmarks.study.photo_sources import Pixels, Shape, Sources
from tokfilter.runtime.measure.machine import usable_cores
from tokfilter.runtime.measure.record import write_json

__all__ = ["SPLITS", "PhotoScene", "SceneLook", "photo_scenes", "write_photo_scenes"]

SPLITS: Final = ("train", "test")
_KINDS: Final = ("shape", "blob", "noise", "piece", "line")
_PART: Final = 250
"""Scenes that a process draws at a time."""


@dataclass(frozen=True)
class SceneLook:
    """Appearance of the scenes. Lengths in pixels.

    size: height and width
    object: range of the object's longer visible side; its logarithm is uniform. Here 1:8 to 1:2 of the image
    distractor: the same of a distractor, before a piece is cut out of it
    distractors: range of their number
    part: range of the fraction of height and width that a piece of a garment or digit has
    window: smallest side of the background's window in its photograph
    brightness: range of the factor on the photograph
    """

    size: int = 224
    object: tuple[int, int] = (28, 112)
    distractor: tuple[int, int] = (28, 112)
    distractors: tuple[int, int] = (3, 7)
    part: tuple[float, float] = (0.35, 0.55)
    window: int = 160
    brightness: tuple[float, float] = (0.6, 1.1)
    look: Look = field(default_factory=Look)


@dataclass(frozen=True)
class PhotoScene:
    """An image and what it was made of.

    image: [size, size, 3]
    source: of the object (``Shape.source``)
    box: of the object: top, left, bottom, right
    photographs: the background's, then those of the pieces
    distractors: kinds of the distractors in the order in which they were drawn
    pieces_of: sources of the distractors that are pieces of a garment or digit
    """

    image: Pixels
    class_name: str
    source: str
    box: Box
    photographs: tuple[str, ...]
    distractors: tuple[str, ...]
    pieces_of: tuple[str, ...]


def photo_scenes(
    sources: Sources, split: str, count: int, seed: int, look: SceneLook | None = None, part: range | None = None
) -> Iterator[PhotoScene]:
    """Draw ``count`` scenes, or those with the numbers ``part``; every class is equally frequent, give or take one.

    No garment or digit is an object twice before all of its class were one.
    """
    look, objects = look or SceneLook(), list(_objects(sources, split, count, seed))
    for number in range(count) if part is None else part:
        rng = np.random.default_rng([seed, SPLITS.index(split), number])
        yield _scene(rng, sources, objects[number], look)


def write_photo_scenes(
    folder: Path,
    seed: int,
    counts: Mapping[str, int],
    sources_of: Callable[[str], Sources],
    look: SceneLook | None = None,
    progress: Callable[[str, float], None] = lambda stage, fraction: None,
) -> None:
    """Write ``folder/<split>/<class>/<number>.jpg`` for each split of ``counts``, and ``folder/scenes.json``.

    Every core draws; an image depends on its seed and number alone.
    sources_of: split -> its sources; for many scenes a function that other processes can import
    Raises OSError, and what ``sources_of`` raises before anything is written.
    """
    found = {split: sources_of(split) for split in counts}
    look = look or SceneLook()
    record: dict[str, dict[str, object]] = {}
    for split, count in counts.items():
        for name in found[split].shapes:
            (folder / split / name).mkdir(parents=True, exist_ok=True)
        task = _SplitScenes(folder, split, count, seed, look)
        for done, facts in _written(task, found[split], sources_of):
            record |= facts
            progress(f"photographs with objects: {split}", done / count)
    write_json(folder / "scenes.json", {"seed": seed, "look": asdict(look), "scenes": record})


@dataclass(frozen=True)
class _SplitScenes:
    """The scenes of a split."""

    folder: Path
    split: str
    count: int
    seed: int
    look: SceneLook

    def write(self, sources: Sources, part: range) -> dict[str, Any]:
        """Write some scenes; returns what each file was made of."""
        facts = {}
        scenes = photo_scenes(sources, self.split, self.count, self.seed, self.look, part)
        for number, scene in zip(part, scenes, strict=True):
            file = f"{self.split}/{scene.class_name}/{number:05d}.jpg"
            Image.fromarray(scene.image).save(self.folder / file, quality=95)
            facts[file] = {name: value for name, value in vars(scene).items() if name != "image"}
        return facts


def _written(
    task: _SplitScenes, sources: Sources, sources_of: Callable[[str], Sources]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(scenes so far, facts of some more), in order."""
    parts = [range(start, min(start + _PART, task.count)) for start in range(0, task.count, _PART)]
    if len(parts) < 2:
        yield from ((part.stop, task.write(sources, part)) for part in parts)
        return
    spawn = multiprocessing.get_context("spawn")
    # Each process reads the sources itself: to send them to one takes as long, and one waits for the other.
    with ProcessPoolExecutor(min(usable_cores(), len(parts)), spawn, _init_worker, (task, sources_of)) as pool:
        for part, facts in zip(parts, pool.map(_write_in_worker, parts), strict=True):
            yield part.stop, facts


_worker_state: tuple[_SplitScenes, Sources]
"""What a process of the pool draws."""


def _init_worker(task: _SplitScenes, sources_of: Callable[[str], Sources]) -> None:
    global _worker_state
    _worker_state = task, sources_of(task.split)


def _write_in_worker(part: range) -> dict[str, Any]:
    task, sources = _worker_state
    return task.write(sources, part)


def _objects(sources: Sources, split: str, count: int, seed: int) -> Iterator[Shape]:
    """The object of each scene."""
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    names = sorted(sources.shapes)
    orders = {name: rng.permutation(len(sources.shapes[name])) for name in names}
    used = dict.fromkeys(names, 0)
    for label in rng.permutation(np.arange(count) % len(names)).tolist():
        name = names[label]
        shapes, order = sources.shapes[name], orders[name]
        yield shapes[int(order[used[name] % len(order)])]
        used[name] += 1


def _scene(rng: np.random.Generator, sources: Sources, shape: Shape, look: SceneLook) -> PhotoScene:
    background = list(sources.photographs)[int(rng.integers(len(sources.photographs)))]
    photograph = sources.photographs[background]
    canvas = window_of_photograph(rng, photograph, look.size, look.window, look.brightness)
    kinds = [_KINDS[int(rng.integers(len(_KINDS)))] for _ in range(rng.integers(*look.distractors, endpoint=True))]
    photographs, pieces_of = [background], []
    for kind in kinds:
        side = _length(rng, look.distractor)
        if kind == "shape":
            piece = _any_shape(rng, sources)
            draw_shape(rng, canvas, piece, side, look.look, float(rng.uniform(*look.part)))
            pieces_of.append(piece.source)
        elif kind == "blob":
            draw_blob(rng, canvas, side, look.look)
        elif kind == "noise":
            draw_noise(rng, canvas, side, look.look)
        elif kind == "piece":
            photographs.append(draw_piece(rng, canvas, sources.photographs, side, look.look)[1])
        else:
            draw_line(rng, canvas, look.look)
    box = draw_shape(rng, canvas, shape, _length(rng, look.object), look.look)
    pixels: NDArray[np.uint8] = canvas.clip(0, 255).astype(np.uint8)
    return PhotoScene(pixels, shape.class_name, shape.source, box, tuple(photographs), tuple(kinds), tuple(pieces_of))


def _length(rng: np.random.Generator, limits: tuple[int, int]) -> int:
    low, high = np.log(limits)
    return int(np.clip(round(float(np.exp(rng.uniform(low, high)))), *limits))


def _any_shape(rng: np.random.Generator, sources: Sources) -> Shape:
    names = sorted(sources.shapes)
    shapes = sources.shapes[names[int(rng.integers(len(names)))]]
    return shapes[int(rng.integers(len(shapes)))]
