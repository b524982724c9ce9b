"""What the PyTorch session can open: a bundle (model.pt), or a patched model in memory; with its description."""

import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tokfilter.artifacts.bundle import Bundle
from tokfilter.artifacts.files import existing_file, sha256
from tokfilter.artifacts.golden import GoldenArrays
from tokfilter.artifacts.manifest import Entry, Manifest, ModelCard, output_of
from tokfilter.runtime.model_files import ModelFile, Role, check_bundle
from tokfilter.vit.bundle import load_bundle, model_from_bundle
from tokfilter.vit.golden import later_from_model
from tokfilter.vit.info import preprocessing_from_backbone
from tokfilter.vit.model import FilteredViT, check_patched

__all__ = ["golden_from_bundle", "opened_bundle", "opened_model"]


def opened_bundle(
    path: Path, role: Role, precision: str, manifest: Manifest | None
) -> tuple[FilteredViT, ModelFile, GoldenArrays]:
    """The model of a bundle, its description and its golden tensors.

    manifest: of the export whose bundle it must be; None for a bundle alone
    Raises EngineError for another export's bundle, DataError, BundleError.
    """
    existing_file(path, "a bundle (model.pt)")
    digest = sha256(path) if manifest is None else check_bundle(path, manifest)
    bundle = load_bundle(path)
    model = model_from_bundle(bundle)
    entry = Entry(f"{path.name} ({role})", role, digest, path.stat().st_size, runtime="torch", precision=precision)
    # The card of an export may describe graphs that take pixels; the model takes normalised images.
    manifest = _manifest(
        _card(model), {"name": path.name, "sha256": digest}, {} if manifest is None else manifest.choice
    )
    return model, ModelFile(path.parent, manifest, entry, path), golden_from_bundle(bundle, model)


def opened_model(model: FilteredViT, role: Role, precision: str) -> tuple[FilteredViT, ModelFile]:
    """A copy of a patched model, and its description. Raises UnsupportedModelError for what is not such a model."""
    check_patched(model)
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    entry = Entry(f"{type(model).__name__} ({role})", role, "", weights, runtime="torch", precision=precision)
    return copy.deepcopy(model), ModelFile(Path(), _manifest(_card(model), {}, {}), entry)


def golden_from_bundle(bundle: Bundle, model: FilteredViT) -> GoldenArrays:
    """A bundle's golden tensors as arrays; what its model keeps behind the first choice is computed here."""
    golden = bundle.golden
    logits = {k: value.numpy() for k, value in golden.logits.items()}
    later = later_from_model(model, golden.images, golden.indices)
    return GoldenArrays(golden.images.numpy(), golden.scores.numpy(), golden.full.numpy(), logits, later)


def _card(model: FilteredViT) -> ModelCard:
    """Without MACs: counting them takes a second for each budget, and they belong to an export."""
    info = model.info
    preprocessing = preprocessing_from_backbone(model.backbone) if info is None else info.preprocessing
    architecture = None if info is None else info.architecture
    return ModelCard(
        architecture=type(model.backbone).__name__ if architecture is None else architecture.name,
        input_size=preprocessing.input_size,
        num_patches=model.num_patches,
        prefix_tokens=model.prefix_tokens,
        classes=model.output_shape[0],
        class_names=[] if info is None else list(info.class_names),
        keep=model.keep_tokens,
        macs={},
        preprocessing=asdict(preprocessing),
        output=output_of(model.output_name, model.output_shape),
    )


def _manifest(card: ModelCard, source: dict[str, str], choice: dict[str, Any]) -> Manifest:
    return Manifest(card, [], source, opset=0, versions={}, verification={}, created="", choice=choice)
