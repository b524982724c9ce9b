"""What a user gets from plain ``torch.onnx.export``.

``python -m tokfilter.runtime.torch_naive_onnx BUNDLE FOLDER PRECISION`` is a process of its own, because PyTorch's
threads and ONNX Runtime's slow each other down. It writes ``model.onnx`` of the unfiltered timm model, with its mask
head if it has one, cast to the precision, with a free batch and otherwise the exporter's defaults, and ``golden.npz``
with the golden tensors of the bundle. Nothing is optimised afterwards.
"""

import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tokfilter.runtime.torch_network import TYPES
from tokfilter.vit.backbone import create_backbone
from tokfilter.vit.bundle import load_bundle, model_from_bundle
from tokfilter.vit.model import FilteredViT

__all__ = ["GOLDEN", "GRAPH", "write_naive_onnx"]

GRAPH, GOLDEN = "model.onnx", "golden.npz"


class _EveryToken(nn.Module):
    """A model with a mask head as its user calls it, without a budget."""

    def __init__(self, model: FilteredViT) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] -> masks [B, M, H', W']."""
        masks: Tensor = self.model(images, self.model.num_patches)
        return masks


def write_naive_onnx(bundle_path: Path, folder: Path, precision: str) -> None:
    """Write the graph and the golden tensors. Raises DataError, BundleError, and whatever the exporter raises."""
    bundle = load_bundle(bundle_path)
    golden = bundle.golden
    if bundle.mask_config is None:
        model: nn.Module = create_backbone(bundle.architecture)
        model.load_state_dict(bundle.backbone)
    else:
        model = _EveryToken(model_from_bundle(bundle))
    dtype = TYPES[precision]
    images = torch.zeros(2, *bundle.preprocessing.input_size, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        torch.onnx.export(
            model.eval().to(dtype),
            (images,),
            folder / GRAPH,
            input_names=["images"],
            output_names=["logits" if bundle.mask_config is None else "masks"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    np.savez(folder / GOLDEN, images=golden.images.numpy(), scores=golden.scores.numpy(), full=golden.full.numpy())


if __name__ == "__main__":
    write_naive_onnx(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
