"""The readers that are tried: each class is a set of files, how they are changed, and the commands that read them."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from hostile.containers import npz_changed, safetensors_changed, tar_changed, zip_changed
from hostile.damage import damaged
from hostile.graphs import onnx_changed
from hostile.material import ARCH, ARGS, TRAIN
from hostile.pickles import torch_changed
from hostile.pictures import picture_changed
from hostile.values import json_changed, toml_changed

Change = Callable[[bytes, Random, str], tuple[bytes, str]]


def _plain(change) -> Change:
    return lambda content, rng, canary: change(content, rng)


DAMAGE = _plain(damaged)
JSON, TOML, NPZ, TAR, ZIP = map(_plain, (json_changed, toml_changed, npz_changed, tar_changed, zip_changed))
SAFETENSORS, ONNX, PICTURE = map(_plain, (safetensors_changed, onnx_changed, picture_changed))
TARGET = "made"
"""Everything that a command writes is in this folder of the case, or below files of ``writes``."""


@dataclass(frozen=True)
class Reader:
    """One class of the campaign.

    files: names of material that are copied into the case
    changed: globs of the files of which one is changed
    changes: structured changes
    commands: command lines, of which one reads the input
    sums: whether the format has sums, so that damage must be noticed
    resum: whether the manifest's sums are made right after a structured change, as an attacker would
    weight: share of the inputs
    writes: further names that the commands may write to
    """

    name: str
    files: tuple[str, ...]
    changed: tuple[str, ...]
    changes: tuple[Change, ...]
    commands: tuple[tuple[str, ...], ...]
    sums: bool = False
    resum: bool = False
    weight: int = 4
    writes: tuple[str, ...] = ()


PNG = "images/photo.png"
MODEL = (*ARCH, *ARGS)
LABEL = ("-o", f"{TARGET}/labels", "--shard", "4", "--set", "labels.chunk=16")
OUT = (
    ("verify", "out"),
    ("inspect", "out", "--json"),
    ("predict", "out", PNG, "--json"),
    ("triton-repo", "out", f"{TARGET}/triton"),
    ("deepstream", "out", f"{TARGET}/nvinfer"),
    ("pack", "out", "-o", f"{TARGET}/edge.tar"),
)
BUNDLE = (
    ("inspect", "model.pt", "--json"),
    ("predict", "model.pt", PNG, "--json", "-o", f"{TARGET}/kept.png"),
    ("verify", "model.pt"),
    ("eval", "model.pt", "data", "--keep", "1.0,0.5", "-o", f"{TARGET}/accuracy.json"),
    ("label", "data", "model.pt", *LABEL),
)

BRIEF = ("--duration", "0.05", "--model-batches", "")
"""Options of tune: it is read, not measured."""

READERS = (
    Reader(
        "bundle",
        ("model.pt", PNG, "data"),
        ("model.pt",),
        (torch_changed, torch_changed, ZIP),
        BUNDLE,
        sums=True,
        weight=9,
    ),
    Reader(
        "bundle to export",
        ("model.pt",),
        ("model.pt",),
        (torch_changed,),
        (("export", "model.pt", "-o", f"{TARGET}/new"),),
        sums=True,
        weight=1,
    ),
    Reader(
        "split record",
        ("trained.pt", "data"),
        ("trained.pt",),
        (torch_changed,),
        (("eval", "trained.pt", "data", "--keep", "0.5"),),
        sums=True,
    ),
    Reader(
        "checkpoint .pth",
        ("weights.pth", "legacy.pth", "data"),
        ("weights.pth",),
        (torch_changed, ZIP),
        (("label", "data", "weights.pth", *MODEL, *LABEL),),
        sums=True,
        weight=6,
    ),
    Reader(
        "checkpoint .pth before torch 1.6",
        ("legacy.pth", "data"),
        ("legacy.pth",),
        (torch_changed,),
        (("label", "data", "legacy.pth", *MODEL, *LABEL),),
        weight=2,
    ),
    Reader(
        "checkpoint .safetensors",
        ("weights.safetensors", "data"),
        ("weights.safetensors",),
        (SAFETENSORS,),
        (("label", "data", "weights.safetensors", *MODEL, *LABEL),),
        weight=6,
    ),
    Reader(
        "timm folder",
        ("timm", "data"),
        ("timm/config.json", "timm/config.json", "timm/model.safetensors"),
        (JSON,),
        (("label", "data", "timm", *LABEL),),
        weight=5,
    ),
    Reader(
        "transformers folder",
        ("hf", "data"),
        ("hf/config.json", "hf/preprocessor_config.json", "hf/model.safetensors"),
        (JSON,),
        (("label", "data", "hf", *LABEL),),
        weight=6,
    ),
    Reader("manifest.json", ("out", PNG), ("out/manifest.json",), (JSON,), OUT, weight=14),
    Reader(
        "signed manifest",
        ("signed", "signers"),
        ("signed/manifest.json", "signed/manifest.json.sig", "signers"),
        (DAMAGE,),
        (("verify", "signed", "--signed-by", "signers"),),
        weight=2,
    ),
    Reader("golden.npz", ("out", PNG), ("out/golden.npz",), (NPZ, ZIP), OUT, sums=True, resum=True, weight=6),
    Reader("export's graphs", ("out", PNG), ("out/*.onnx",), (ONNX,), OUT, sums=True, resum=True, weight=12),
    Reader(
        "graph to inspect",
        ("out",),
        ("out/*.onnx",),
        (ONNX,),
        tuple(("inspect", f"out/{name}", "--json") for name in ("model.onnx", "full.onnx")),
        weight=6,
    ),
    Reader(
        "graph to inline",
        ("nodes",),
        ("nodes/model.plugin.onnx",),
        (ONNX,),
        (
            ("inline", "nodes/model.plugin.onnx", "-o", f"{TARGET}/plain.onnx"),
            ("inspect", "nodes/model.plugin.onnx"),
        ),
        weight=4,
    ),
    Reader(
        "graph to fuse",
        ("foreign.onnx",),
        ("foreign.onnx",),
        (ONNX,),
        (("fuse", "foreign.onnx", "-o", f"{TARGET}/fused.onnx"),),
        weight=4,
    ),
    Reader(
        "labels.json and shards",
        ("labels", "weights.pth", "data"),
        ("labels/labels.json", "labels/shard-*"),
        (JSON, SAFETENSORS),
        (
            (
                "train",
                "data",
                "-o",
                f"{TARGET}/new.pt",
                "--checkpoint",
                "weights.pth",
                *MODEL,
                *TRAIN,
                "--labels",
                "labels",
                "--run-dir",
                f"{TARGET}/work",
            ),
        ),
        sums=True,
        weight=6,
    ),
    Reader(
        "resumed checkpoints",
        ("work", "labels", "weights.pth", "data"),
        ("work/*.pt",),
        (torch_changed, ZIP),
        (
            (
                "train",
                "data",
                "-o",
                f"{TARGET}/new.pt",
                "--checkpoint",
                "weights.pth",
                *MODEL,
                *TRAIN,
                "--labels",
                "labels",
                "--run-dir",
                "work",
                "--resume",
            ),
        ),
        sums=True,
        weight=4,
        writes=("work",),
    ),
    Reader(
        "class map",
        ("classes.txt", "weights.pth", "data"),
        ("classes.txt",),
        (DAMAGE,),
        (("label", "data", "weights.pth", *MODEL, *LABEL, "--class-map", "classes.txt"),),
        weight=2,
    ),
    Reader(
        "recipe",
        ("recipe.toml",),
        ("recipe.toml",),
        (TOML,),
        (("train", "--print-recipe", "--recipe", "recipe.toml"),),
        weight=4,
    ),
    Reader(
        "images",
        ("model.pt", "out", "images"),
        ("images/*",),
        (PICTURE, PICTURE),
        (
            ("predict", "model.pt", "CHANGED", "--json"),
            ("predict", "out", "CHANGED", "--json", "-o", f"{TARGET}/kept.png"),
        ),
        weight=14,
    ),
    Reader(
        "data folders",
        ("model.pt", "data"),
        ("data/*/*.png",),
        (PICTURE,),
        (
            ("eval", "model.pt", "data", "--keep", "0.5"),
            ("label", "data", "model.pt", *LABEL),
            ("report", "--bundle", "model.pt", "--images", "data", "-o", f"{TARGET}/report.html"),
        ),
        weight=4,
    ),
    Reader(
        "tar archives",
        ("model.pt", "data.tar"),
        ("data.tar",),
        (TAR, TAR),
        (("label", "data.tar", "model.pt", *LABEL), ("eval", "model.pt", "data.tar", "--keep", "0.5")),
        weight=7,
    ),
    Reader(
        "measured documents",
        ("accuracy.json", "bench.json", "out"),
        ("accuracy.json", "bench.json"),
        (JSON,),
        (("report", "--accuracy", "accuracy.json", "--bench", "bench.json", "-o", f"{TARGET}/report.html"),),
        weight=5,
    ),
    Reader(
        "tune's accuracy",
        ("accuracy.json", "out"),
        ("accuracy.json",),
        (JSON,),
        (("tune", "out", "--max-drop", "50", "--accuracy", "accuracy.json", *BRIEF),),
        weight=1,
        writes=("out",),
    ),
)
BY_NAME = {reader.name: reader for reader in READERS}
