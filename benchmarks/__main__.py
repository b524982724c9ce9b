"""``python -m tokfilter.benchmarks NAME``: the programs whose JSON documents README and docs are written from."""

import sys
from typing import Final

import click

from tokfilter.commands.group import LazyCommand, LazyGroup

__all__ = ["PROGRAMS", "cli"]

_STUDY: Final = "tokfilter.benchmarks.study"
_MICRO: Final = "tokfilter.benchmarks.micro"

PROGRAMS: Final = {
    "study": LazyCommand(f"{_STUDY}.command:main", "accuracy of filter, baselines and ablations, several seeds"),
    "trained-vit": LazyCommand(f"{_STUDY}.trained_vit:main", "the method on trained weights, with Fashion-MNIST"),
    "frozen": LazyCommand(f"{_STUDY}.frozen:main", "a filter for a frozen, trained ViT, against token merging"),
    "embeddings": LazyCommand(f"{_STUDY}.embeddings:main", "cosine and recall@1 of a trained ViT without class labels"),
    "baseline-speed": LazyCommand(f"{_STUDY}.baseline_speed:main", "images per second of the filter and its baselines"),
    "reducer-costs": LazyCommand(f"{_STUDY}.reducer_costs:main", "images per second of every reducer at a real size"),
    "per-image": LazyCommand(f"{_STUDY}.per_image:main", "budgets per image against one budget for all"),
    "recipe": LazyCommand(f"{_STUDY}.default_recipe:main", "accuracy by the default recipe, filter, ToMe and EViT"),
    "recipe-search": LazyCommand(f"{_STUDY}.recipe_search:main", "candidates for the default recipe, held-out images"),
    "label-losses": LazyCommand(f"{_STUDY}.label_losses:main", "accuracy by labels that need no class"),
    "label-methods": LazyCommand(f"{_STUDY}.label_methods:main", "agreement and speed of cheaper label methods"),
    "label-selection": LazyCommand(f"{_STUDY}.label_selection:main", "labels compared by the tokens they keep"),
    "label-speed": LazyCommand(f"{_STUDY}.label_speed:main", "speed of delta-loss labels against the plain backbone"),
    "segmentation": LazyCommand(f"{_STUDY}.segmentation:main", "mIoU with and without filtering, rules of filling"),
    "mask-head": LazyCommand(f"{_STUDY}.mask_head:main", "time and memory of the mask head against the dense form"),
    "export-zoo": LazyCommand(f"{_STUDY}.export_zoo:main", "export and TensorRT-RTX build of 30 timm models"),
    "cuda-zoo": LazyCommand(f"{_STUDY}.cuda_zoo:main", "timm models fused for ONNX Runtime on CUDA"),
    "int8-accuracy": LazyCommand(f"{_STUDY}.int8_accuracy:main", "top-1 of int8 and fp8 exports against fp32"),
    "export-trained": LazyCommand(f"{_STUDY}.export_trained:main", "error of every exported graph, trained weights"),
    "cpu-forms": LazyCommand(
        "tokfilter.benchmarks.cpu_forms:main", "forms of a graph and session options in ONNX Runtime, CPU"
    ),
    "runtime-figures": LazyCommand(
        "tokfilter.benchmarks.runtime_figures:main",
        "speed-up against the MAC ratio, overhead, tuned budgets",
    ),
    "cpu-engines": LazyCommand(
        "tokfilter.benchmarks.cpu_engines:main", "ONNX Runtime, OpenVINO and PyTorch on this CPU"
    ),
    "service-load": LazyCommand("tokfilter.benchmarks.service.load:main", "load test of `tokfilter serve`"),
    "service-abuse": LazyCommand(
        "tokfilter.benchmarks.service.abuse:main", "hostile load on `tokfilter serve`: what other clients lose"
    ),
    "micro": LazyCommand(f"{_MICRO}.program:main", "TokenSelect on this GPU against its alternatives", checkout=True),
    "gpu-proof": LazyCommand(
        "tokfilter.benchmarks.gpu_proof.program:main",
        "build, compare and measure on this GPU, in minutes",
        checkout=True,
    ),
    "kernel-figures": LazyCommand(
        f"{_MICRO}.kernel_figures:main", "kernel on a CPU: registers, bytes moved, cycles", checkout=True
    ),
    "portability": LazyCommand(
        "tokfilter.benchmarks.portability.program:main", "runtimes that read the exported files", checkout=True
    ),
    "readme": LazyCommand("tokfilter.benchmarks.records.readme:main", "rewrite the tables of README and docs"),
}
"""Name -> program. A program's module is imported when it is called."""


@click.group(cls=LazyGroup, lazy=PROGRAMS, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Measurement programs. Each writes one JSON document (schemas in benchmarks/schemas)."""


if __name__ == "__main__":
    sys.exit(cli(prog_name="python -m tokfilter.benchmarks"))
