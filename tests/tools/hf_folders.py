"""Folders as transformers' ``save_pretrained`` writes them, of tiny models with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

BASE: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "image_size": 32,
    "patch_size": 8,
}
DINO: dict[str, Any] = {**{key: value for key, value in BASE.items() if key != "intermediate_size"}, "mlp_ratio": 3}
TEXT: dict[str, Any] = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "intermediate_size": 8,
    "vocab_size": 50,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CLASSES = (
    "ViTForImageClassification",
    "DeiTForImageClassification",
    "DeiTForImageClassificationWithTeacher",
    "Dinov2ForImageClassification",
    "Dinov2WithRegistersForImageClassification",
    "CLIPForImageClassification",
    "SiglipForImageClassification",
)
PROCESSORS = {
    "ViT": "ViTImageProcessor",
    "DeiT": "DeiTImageProcessor",
    "Dinov2": "BitImageProcessor",
    "CLIP": "CLIPImageProcessor",
    "Siglip": "SiglipImageProcessor",
}


def transformers() -> Any:
    """The module, or a skip with the command that provides it."""
    return pytest.importorskip("transformers", reason="needs transformers: pip install 'tokfilter[dev]'")


def tiny_model(name: str, classes: int = 5, labels: dict[int, str] | None = None, seed: int = 0, **config: Any) -> Any:
    """A classifier of transformers with random weights everywhere, in evaluation mode."""
    library = transformers()
    stem = name.partition("For")[0]
    count = {"num_labels": classes} if labels is None else {"id2label": labels}
    if stem in ("CLIP", "Siglip"):
        made = getattr(library, f"{stem}Config")(vision_config={**BASE, **config}, text_config=TEXT, **count)
    else:
        made = getattr(library, f"{stem}Config")(**{**(DINO if stem.startswith("Dino") else BASE), **config}, **count)
    model = getattr(library, name)(made).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():  # tokens and biases begin with nought
            weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    return model


def tiny_processor(name: str, torchvision: bool = False, **fields: Any) -> Any:
    """The image processor that goes with a classifier, for 32 x 32 pixels: Pillow's, or torchvision's."""
    library = transformers()
    kind = next(kind for stem, kind in PROCESSORS.items() if name.startswith(stem))
    crops = kind.startswith(("Bit", "CLIP", "DeiT"))
    size = {"height": 36, "width": 36} if kind.startswith("DeiT") else {"height": 32, "width": 32}
    size = {"shortest_edge": 36} if kind.startswith(("Bit", "CLIP")) else size
    given = {"size": size, **({"crop_size": {"height": 32, "width": 32}} if crops else {}), **fields}
    return getattr(library, kind if torchvision else f"{kind}Pil")(**given)


def write_folder(folder: Path, name: str, **options: Any) -> Any:
    """Write a tiny model with its processor. Returns the model."""
    model = tiny_model(name, **options)
    model.save_pretrained(folder)
    tiny_processor(name).save_pretrained(folder)
    return model
