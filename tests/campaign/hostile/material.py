"""The files before they are damaged: written once for each run, by the package itself, from tiny models."""

import json
import shutil
import subprocess
import sys
import tarfile
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image

ARCH = ["--arch", "vit_tiny_patch16_224"]
SHAPE = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}
ARGS = [text for name, value in SHAPE.items() for text in ("--arch-arg", f"{name}={value}")]
NAMES = ["ant", "bee", "cat", "dog", "eel"]
TRAIN = ["--stages", "filter", "--epochs", "1", "--set", "labels.chunk=16"]


def write_material(folder: Path) -> None:
    """Fill ``folder``. Takes half a minute; ``done`` is the last file."""
    from small_models import small_bundle, small_model, write_export

    from tokfilter.vit.bundle import save_bundle
    from tokfilter.vit.model import weights_from_model

    folder.mkdir(parents=True)
    _images(folder)
    bundle = folder / "model.pt"
    save_bundle(small_bundle(), bundle)
    write_export(bundle, folder / "out")
    weights, _ = weights_from_model(small_model())
    weights = {name: value.clone() for name, value in weights.items()}
    torch.save(weights, folder / "weights.pth")
    torch.save(weights, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    _timm_folder(folder / "timm", weights)
    _transformers_folder(folder / "hf")
    shutil.copy(folder / "timm" / "model.safetensors", folder / "weights.safetensors")
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in NAMES))
    cli(folder, "label", "data", "weights.pth", *ARCH, *ARGS, "-o", "labels", "--shard", "4")
    cli(folder, "train", "data", "-o", "trained.pt", "--checkpoint", "weights.pth", *ARCH, *ARGS, *TRAIN,
        "--labels", "labels", "--run-dir", "work")  # fmt: skip
    recipe = cli(folder, "train", "--print-recipe")
    (folder / "recipe.toml").write_text(recipe)
    cli(folder, "eval", "trained.pt", "data", "-o", "accuracy.json", "--keep", "1.0,0.5,0.25")
    cli(folder, "bench", "out", "-o", "bench.json", "--batch", "1", "--keep", "1.0,0.5", "--duration", "0.1",
        "--warm-up", "0.05")  # fmt: skip
    cli(folder, "export", "model.pt", "-o", "nodes", "--plugin-graphs", "--no-verify")
    _foreign_graph(folder / "foreign.onnx")
    _signature(folder)
    (folder / "done").touch()


def cli(folder, *argv):
    """Standard output of a command that succeeds."""
    command = [sys.executable, "-m", "tokfilter.cli", *argv]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{argv}: {done.stderr[-2000:]}")
    return done.stdout


def _images(folder):
    random = np.random.default_rng(0)
    for name in NAMES:
        (folder / "data" / name).mkdir(parents=True)
        for i in range(2):
            pixels = random.integers(0, 256, (40, 36, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "data" / name / f"{i}.png")
    photo = Image.fromarray(random.integers(0, 256, (70, 50, 3), dtype=np.uint8))
    (folder / "images").mkdir()
    for form in ("png", "jpg", "webp", "tiff", "bmp", "gif", "ppm"):
        photo.save(folder / "images" / f"photo.{form}")
    photo.save(folder / "images" / "steps.jpg", progressive=True)
    photo.convert("P").save(folder / "images" / "palette.png")
    Image.fromarray(random.integers(0, 65535, (40, 40), dtype=np.uint16)).save(folder / "images" / "deep.png")
    photo.save(folder / "images" / "packed.tiff", compression="tiff_lzw")
    frames = [photo, photo.rotate(90), photo.rotate(180)]
    frames[0].save(folder / "images" / "moving.gif", save_all=True, append_images=frames[1:])
    with tarfile.open(folder / "data.tar", "w") as archive:
        archive.add(folder / "data", arcname="data")


def _timm_folder(folder, weights):
    from safetensors.torch import save_file

    folder.mkdir()
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 5,
        "label_names": NAMES,
        "model_args": {name: value for name, value in SHAPE.items() if name not in ("num_classes", "img_size")},
        "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "input_size": [3, 32, 32]},
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors")


def _transformers_folder(folder):
    """A process of its own: transformers starts threads and takes seconds to import."""
    program = "import sys; from pathlib import Path; from hf_folders import write_folder; "
    program += "write_folder(Path(sys.argv[1]), 'Dinov2ForImageClassification')"
    tools = str(Path(__file__).resolve().parents[2] / "tools")
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {tools!r}); {program}", str(folder)]
    subprocess.run(command, check=True, capture_output=True)


def _foreign_graph(path):
    """A selection of tokens as other projects write it."""
    from selection_forms import FORMS, topk_gather
    from small_models import ForeignViT

    model, example = ForeignViT(topk_gather, FORMS[topk_gather][0]).eval(), torch.randn(2, 17, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecation
        torch.onnx.export(
            model, (example,), path, opset_version=17, input_names=["x"], dynamo=False, dynamic_axes={"x": {0: "n"}}
        )


def _signature(folder):
    if shutil.which("ssh-keygen") is None:
        return
    key = folder / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "ann", "-f", str(key)], check=True)
    public = key.with_suffix(".pub").read_text()
    (folder / "signers").write_text(f'ann@example.com namespaces="tokfilter-manifest" {public}')
    shutil.copytree(folder / "out", folder / "signed")
    from tokfilter.artifacts.signature import NAMESPACE

    (folder / "signers").write_text(f'ann@example.com namespaces="{NAMESPACE}" {public}')
    command = ["ssh-keygen", "-q", "-Y", "sign", "-f", str(key), "-n", NAMESPACE, "signed/manifest.json"]
    subprocess.run(command, check=True, capture_output=True, cwd=folder)
