"""The files before they are damaged: written once for each run, by the package itself, from tiny models."""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import warnings
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

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
    save_file(weights, folder / "weights.safetensors")
    _timm_folder(folder / "timm")
    _transformers_folder(folder / "hf")
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
    _reducers(folder)
    _masks(folder)
    _optional(folder)
    (folder / "token").write_text("0123456789abcdef" * 4)
    _plan_directory(folder / "engine")
    (folder / "done").touch()


def cli(folder, *argv, **environment):
    """Standard output of a command that succeeds."""
    command = [sys.executable, "-m", "tokfilter.cli", *argv]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, **environment})
    if done.returncode:
        raise RuntimeError(f"{argv}: {done.stderr[-2000:]}")
    return done.stdout


def _images(folder):
    random = np.random.default_rng(0)
    for name in NAMES:
        (folder / "data" / name).mkdir(parents=True)
        (folder / "calibration" / name).mkdir(parents=True)
        for i in range(12):  # calibration takes 32 or more
            pixels = Image.fromarray(random.integers(0, 256, (40, 36, 3), dtype=np.uint8))
            pixels.save(folder / "calibration" / name / f"{i}.png")
            if i < 2:
                pixels.save(folder / "data" / name / f"{i}.png")
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
    _shards(folder)


def _shards(folder):
    """The same images as samples, with numbers and names as classes."""
    (folder / "classnames.txt").write_text("".join(f"{name}\n" for name in NAMES))
    with tarfile.open(folder / "shards.tar", "w") as archive:
        for label, name in enumerate(NAMES):
            for i, text in enumerate((("cls", str(label)), ("json", json.dumps({"label": name, "width": 36})))):
                member = tarfile.TarInfo(f"data/{label}{i}.{text[0]}")
                member.size = len(text[1])
                archive.addfile(member, io.BytesIO(text[1].encode()))
                archive.add(folder / "data" / name / f"{i}.png", f"data/{label}{i}.png")


def _timm_folder(folder):
    """Patches of 16 pixels: at 224, the size where the configuration has none, labels take a second."""
    folder.mkdir()
    shape = {**SHAPE, "patch_size": 16}
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 5,
        "label_names": NAMES,
        "model_args": {name: value for name, value in shape.items() if name not in ("num_classes", "img_size")},
        "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "input_size": [3, 32, 32]},
    }
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    save_file(timm.create_model("vit_tiny_patch16_224", **shape).state_dict(), folder / "model.safetensors")


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


def _reducers(folder):
    """A bundle of each reducer that acts within the blocks, with its settings, and one's export."""
    from tokfilter.artifacts.reducer import REDUCERS, ReducerConfig
    from tokfilter.vit.bundle import save_bundle
    from tokfilter.vit.patch import patch

    for name in sorted(set(REDUCERS) - {"filter"}):
        torch.manual_seed(0)
        model = patch(timm.create_model("vit_tiny_patch16_224", **SHAPE).eval(), 0.7,
                      reducer=ReducerConfig(name, {"stages": (1, 2)}))  # fmt: skip
        (folder / "reducers").mkdir(exist_ok=True)
        save_bundle(model, folder / "reducers" / f"{name}.pt", class_names=NAMES)
    cli(folder, "export", "reducers/evit.pt", "-o", "reduced")


def _masks(folder):
    from small_models import small_mask_model

    from tokfilter.vit.bundle import save_bundle

    save_bundle(small_mask_model(), folder / "masks.pt", class_names=["sky", "sea", "sand"])
    cli(folder, "export", "masks.pt", "-o", "segmented")


def _optional(folder):
    """What needs more packages: a compiled model in OpenVINO's cache, engines, ONNX Runtime Web."""
    from tokfilter.benchmarks.page.onnxruntime_web import fetched_package
    from tokfilter.errors import MissingDependencyError

    if find_spec("openvino"):
        predict = ("predict", "out", "images/photo.png", "--runtime", "openvino")
        cli(folder, *predict, XDG_CACHE_HOME=str(folder / "cache"))
    if find_spec("tensorrt_rtx"):
        cli(folder, "export", "model.pt", "-o", "engines", "--rtx", "--no-verify")
    with suppress(MissingDependencyError):
        shutil.copy(fetched_package(), folder / "ort.tgz")


def _plan_directory(folder):
    """An export for the C++ library over the tests' fake TensorRT: its plan is JSON."""
    from tokfilter.artifacts.manifest import NAME, Manifest, ModelCard, entry_from_file

    folder.mkdir()
    plan = {"size": [8, 6], "classes": 5, "patches": 12, "profiles": [{"batch": [1, 2, 4], "budget": [2, 6, 12]}]}
    (folder / "model.plan").write_text(json.dumps(plan))
    details = {"batch_range": (1, 2, 4), "budget_range": (2, 6, 12), "precision": "fp32", "runtime": "tensorrt"}
    entry = entry_from_file(folder, "model.plan", "filtered", **details)
    fields = {"input_size": (3, 8, 6), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    card = ModelCard("vit", (3, 8, 6), 12, 1, 5, NAMES, 6, {"full": 1}, fields)
    manifest = Manifest(card, [entry], {"name": "model.pt", "sha256": "0" * 64}, 18, {}, {}, "2026-01-01")
    (folder / NAME).write_text(manifest.text())


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
