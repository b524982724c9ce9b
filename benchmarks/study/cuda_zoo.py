"""timm models as graphs fused for ONNX Runtime's CUDA provider: what is fused, and whether the results stay right.

``python -m tokfilter.benchmarks cuda-zoo`` writes ``benchmarks/results/cuda_zoo.json``; ``--resume`` continues an
interrupted run. Weights are random and seeded; those that timm starts at 0 or 1, or at 1e-5 (LayerScale), are drawn
too, so that a wrong norm or bias changes the logits. No GPU is needed: the contrib ops have CPU kernels in fp32, and
fp16 and bf16 are emulated.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import click

from tokfilter.benchmarks.options import command_line, json_option, output_option
from tokfilter.benchmarks.records.cuda_tables import PRECISIONS, cuda_zoo_table
from tokfilter.benchmarks.records.paths import RESULTS
from tokfilter.runtime.measure.record import header, write_json

__all__ = ["RESULT", "ZOO", "measure"]

RESULT: Final = RESULTS / "cuda_zoo.json"

ZOO: Final[tuple[tuple[str, str, int | None], ...]] = (
    ("ViT", "vit_tiny_patch16_224", None),
    ("ViT, average pooling", "vit_medium_patch16_gap_240", None),
    ("ViT, registers", "vit_little_patch16_reg4_gap_256", None),
    ("ViT, parallel blocks", "vit_pwee_patch16_reg1_gap_256", None),
    ("ViT, hybrid stem", "vit_small_r26_s32_224", None),
    ("FlexiViT", "flexivit_small", None),
    ("DeiT", "deit_small_patch16_224", None),
    ("DeiT distilled", "deit_tiny_distilled_patch16_224", None),
    ("DeiT-3", "deit3_small_patch16_224", None),
    ("DINOv2, registers", "vit_small_patch14_reg4_dinov2", 224),
    ("CLIP", "vit_xsmall_patch16_clip_224", None),
    ("SigLIP, attention pooling", "vit_base_patch16_siglip_224", None),
    ("BEiT-3", "beit3_base_patch16_224", None),
    ("EVA-02, rotary", "eva02_tiny_patch14_224", None),
    ("DINOv3, rotary", "vit_small_patch16_dinov3", None),
    ("ViT, rotary", "vit_small_patch16_rope_224", None),
)
"""(family, timm's name, image size or None for the model's default)"""


def measure(name: str, size: int | None, precisions: tuple[str, ...] = PRECISIONS, **arguments: Any) -> dict[str, Any]:
    """Fuse the filtered and the full graph of one model in each precision and compare them with torch.

    arguments: for timm, beside the image size
    """
    import torch

    from tokfilter.artifacts.bundle import Architecture
    from tokfilter.export.graph import full_graph_from_slots, slots_graph_from_model
    from tokfilter.export.reference import ImageSet, Reference
    from tokfilter.vit.backbone import create_backbone
    from tokfilter.vit.model import FilteredViT

    torch.manual_seed(0)
    arguments |= {} if size is None else {"img_size": size}
    model = FilteredViT(create_backbone(Architecture(name, arguments))).eval()
    _draw(model)
    images = torch.randn(2, 3, *model.backbone.patch_embed.img_size, generator=torch.Generator().manual_seed(1))
    golden = ImageSet("golden", ("image 0", "image 1"), images, images.numpy())
    traced, reference = slots_graph_from_model(model), Reference(model)
    plain = {"filtered": len(traced.graph), "full": len(full_graph_from_slots(traced, model.num_patches).graph)}
    results = {p: _fused(traced, p, model.num_patches, reference, golden) for p in precisions}
    return {"patches": model.num_patches, "prefix_tokens": model.prefix_tokens, "plain_nodes": plain, **results}


def _draw(model: Any) -> None:
    """Draw the weights that timm starts at one number: norms, biases, LayerScale."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1 and float(weight.std() if len(weight) > 1 else 0) == 0.0:
                start = float(weight.mean())
                weight.copy_(0.3 * torch.rand(weight.shape, generator=generator) + (start if start > 1e-2 else 0.05))


def _fused(traced: Any, precision: str, patches: int, reference: Any, golden: Any) -> dict[str, Any]:
    from tokfilter.artifacts.manifest import entry_from_file
    from tokfilter.export.graph import full_graph_from_slots
    from tokfilter.export.onnx_file import save_graph
    from tokfilter.export.onnxruntime_cuda import cuda_graph_from_form, fusions_as_dict, slots_graph_for_cuda
    from tokfilter.export.verify import check_graph

    slots, folded = slots_graph_for_cuda(traced, precision)
    nodes, checks, fusions = {}, [], {}
    with tempfile.TemporaryDirectory(prefix="tokfilter-cuda-zoo-") as name:
        for role, form in (("filtered", slots), ("full", full_graph_from_slots(slots, patches))):
            graph, fused = cuda_graph_from_form(form)
            nodes[role], fusions[role] = len(graph.graph), fusions_as_dict([*folded, *fused])
            save_graph(graph, Path(name) / f"{role}.onnx")
            details = {"precision": precision, "runtime": "onnx-cuda"}
            entry = entry_from_file(Path(name), f"{role}.onnx", role, **details)  # type: ignore[arg-type]  # both are roles
            checks += check_graph(Path(name), entry, reference, golden, [], [patches // 2])
    failed = [f"{check.path}: {'; '.join(check.errors)}" for check in checks if not check.passed]
    return {
        "nodes": nodes,
        "fusions": fusions["filtered"],
        "checks": len(checks),
        "failed": failed,
        "relative_error": max(check.relative for check in checks),
    }


def _row(family: str, name: str, size: int | None) -> dict[str, Any]:
    row: dict[str, Any] = {"family": family, "model": name, "image_size": size}
    try:
        return row | measure(name, size)
    except Exception as error:  # a failed model has a row with its reason
        return row | {"reason": (str(error).strip().splitlines() or [type(error).__name__])[0][:300]}


@click.command()
@click.option("--resume", is_flag=True, help="Keep the models that are in the output file, measure the others.")
@output_option(RESULT)
@json_option
def main(resume: bool, output: Path, as_json: bool) -> None:
    """Fuse timm models for ONNX Runtime on CUDA and compare them with torch. Exit code 1 if one failed."""
    old = json.loads(output.read_text(encoding="utf-8"))["models"] if resume and output.is_file() else []
    known = {(row["model"], row["image_size"]): row for row in old if "reason" not in row}
    document = header("cuda-zoo", command_line())
    document["models"] = []
    for family, name, size in ZOO:
        document["models"].append(known.get((name, size)) or _row(family, name, size))
        write_json(output, document)
        sys.stderr.write(f"{name}: {document['models'][-1].get('reason', 'done')}\n")
    click.echo(json.dumps(document, indent=2) if as_json else cuda_zoo_table(document))
    failed = ["reason" in row or any(row[p]["failed"] for p in PRECISIONS) for row in document["models"]]
    sys.exit(1 if any(failed) else 0)
