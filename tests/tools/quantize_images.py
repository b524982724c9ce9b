"""Images and graphs for the quantisation of the small model."""

import numpy as np
from PIL import Image

CLASSES = ["ant", "bee", "cat", "dog", "eel"]


def write_images(folder, count, seed=0, size=(40, 24)):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        rough = rng.integers(0, 256, (6, 10, 3), dtype=np.uint8)
        Image.fromarray(rough).resize(size, Image.Resampling.BICUBIC).save(folder / f"{number:03}.png")


def in_opset(graph, opset):
    """A copy whose operators have the same meaning in both versions."""
    changed = graph.clone()
    changed.opset_imports[""] = opset
    for function in changed.functions.values():
        function.opset_imports[""] = opset
    return changed
