"""Choose a model file of an export directory by role, runtime, precision and budget."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tokfilter.artifacts.files import existing_file, sha256
from tokfilter.artifacts.manifest import Entry, FileRuntime, Manifest, Runtime, load_manifest
from tokfilter.errors import DataError, EngineError
from tokfilter.runtime.openvino_engine import PRECISIONS
from tokfilter.runtime.session import Budgets, TensorSpec

__all__ = [
    "ModelFile",
    "Role",
    "budgets_from_model_file",
    "budgets_from_tensors",
    "check_bundle",
    "entry_at",
    "file_kinds",
    "file_precision",
    "find_bundle",
    "find_entry",
    "find_model_file",
    "model_file_at",
]

Role = Literal["filtered", "full"]


@dataclass(frozen=True)
class ModelFile:
    """One model file with its directory and manifest.

    entry: as in the manifest, but for ``precision``: OpenVINO computes the fp32 file in another one
    bundle: model.pt where PyTorch runs it; ``entry`` then names no file of the directory
    """

    directory: Path
    manifest: Manifest
    entry: Entry
    bundle: Path | None = None


def find_model_file(
    directory: str | Path,
    role: Role = "filtered",
    runtime: Runtime = "onnx",
    precision: str = "fp32",
    tokens: int | None = None,
    provider: str = "cpu",
    bundle: str | Path | None = None,
) -> ModelFile:
    """The file of a role, runtime and precision that serves ``tokens``, where a budget is given.

    provider: of ONNX Runtime; for cuda, a graph fused for it (`tokfilter export --cuda`) comes before the plain one
    bundle: model.pt for PyTorch; None looks for the one that was exported (``find_bundle``)
    Raises DataError where ``directory`` is no export directory, EngineError where it has no such file.
    """
    manifest = load_manifest(directory)
    entry = find_entry(manifest, role, runtime, precision, tokens, provider)
    weights = find_bundle(directory, manifest, bundle) if runtime == "torch" else None
    return ModelFile(Path(directory), manifest, entry, weights)


def model_file_at(
    directory: Path, path: str, role: Role, runtime: Runtime, precision: str, bundle: str | Path | None = None
) -> ModelFile:
    """The file that the manifest lists as ``path``; for PyTorch, which has none, as ``find_model_file``."""
    if runtime == "torch":
        return find_model_file(directory, role, runtime, precision, bundle=bundle)
    manifest = load_manifest(directory)
    entry = next(entry for entry in manifest.files if entry.path == path)
    return ModelFile(directory, manifest, entry_at(entry, runtime, precision))


def find_bundle(directory: str | Path, manifest: Manifest, bundle: str | Path | None = None) -> Path:
    """model.pt of an export: ``bundle``, else the exported file in the directory or beside it. Raises DataError.

    The session that opens it compares its checksum with the manifest's.
    """
    if bundle is not None:
        return existing_file(bundle, "the bundle (model.pt)")
    name = manifest.source.get("name", "")
    if name == Path(name).name:  # a name, not a path
        for folder in (Path(directory), Path(directory).absolute().parent):
            if name and (folder / name).is_file():
                return folder / name
    raise DataError(
        f"PyTorch runs the bundle that was exported, and {name or 'model.pt'!r} is neither in {directory} nor beside "
        "it. Give it as --bundle model.pt."
    )


def check_bundle(path: Path, manifest: Manifest) -> str:
    """SHA-256 of model.pt. Raises EngineError where it is another one than the export was made from."""
    digest = sha256(path)
    if digest != manifest.source.get("sha256"):
        raise EngineError(
            f"{path} is not the bundle of this export: its checksum differs. Export it again, or use that bundle."
        )
    return digest


def find_entry(
    manifest: Manifest,
    role: Role,
    runtime: Runtime,
    precision: str,
    tokens: int | None = None,
    provider: str = "cpu",
) -> Entry:
    """As ``find_model_file``; a graph made for exactly ``tokens`` comes before one with a budget at run time.

    For PyTorch the entry stands for the bundle, which runs at any budget.
    """
    if runtime == "torch":
        name = f"{manifest.source.get('name', 'model.pt')} ({role})"
        return Entry(name, role, manifest.source.get("sha256", ""), 0, runtime="torch", precision=precision)
    for kind in file_kinds(runtime, provider):
        candidates = [e for e in manifest.entries(role, kind) if e.precision == file_precision(runtime, precision)]
        exact = [e for e in candidates if tokens is not None and e.budget == tokens]
        elastic = [e for e in candidates if e.budget is None and _serves(e, tokens)]
        fixed = [e for e in candidates if e.budget is not None and tokens is None]
        for group in (exact, elastic, fixed):
            if group:
                return entry_at(group[0], runtime, precision)
    at = "" if tokens is None or role == "full" else f" at {tokens} tokens"
    kind, in_file = file_kinds(runtime, provider)[-1], file_precision(runtime, precision)
    others = sorted({str(e.precision) for e in manifest.entries(role, kind) if _serves(e, tokens)} - {in_file})
    there = f"Choose what is there: --precision {' or '.join(others)}. " if others else ""
    raise EngineError(
        f"the export directory has no {role} {kind} model in {in_file}{at}; it has {_inventory(manifest)}. {there}"
        + ("Export again with these options." if kind == "onnx" else "Build it from the graphs: `tokfilter engine`.")
    )


def file_kinds(runtime: Runtime, provider: str = "cpu") -> tuple[FileRuntime, ...]:
    """The kinds of files that an engine runs, the preferred one first."""
    if runtime == "openvino":
        return ("onnx",)
    return ("onnx-cuda", "onnx") if (runtime, provider) == ("onnx", "cuda") else (runtime,)


def file_precision(runtime: Runtime, precision: str) -> str:
    """Precision of the file that an engine runs: OpenVINO computes the fp32 file in fp16 or bf16."""
    if runtime != "openvino":
        return precision
    return "int8" if precision.startswith("int8") else "fp32"


def entry_at(entry: Entry, runtime: Runtime, precision: str) -> Entry:
    """The entry with the precision that the engine computes in, which decides on tolerances."""
    in_fact = PRECISIONS[precision][2] if runtime == "openvino" and precision in PRECISIONS else entry.precision
    return entry if in_fact == entry.precision else replace(entry, precision=in_fact)


def budgets_from_model_file(model_file: ModelFile, elastic: bool) -> Budgets:
    """Budgets of a file; the default is the one that `tokfilter tune` chose, else the model's own.

    elastic: whether the budget is an input of the graph
    """
    card, entry = model_file.manifest.model, model_file.entry
    if entry.role == "full":
        return Budgets(card.num_patches, card.num_patches, card.num_patches, card.num_patches)
    if not elastic:
        fixed = entry.budget if entry.budget is not None else card.keep
        return Budgets(fixed, fixed, fixed, card.num_patches)
    low, _, high = entry.budget_range or (1, card.keep, card.num_patches)
    wanted = int(model_file.manifest.choice.get("tokens", card.keep))
    return Budgets(low, high, min(max(wanted, low), high), card.num_patches)


def budgets_from_tensors(
    model_file: ModelFile, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], path: str
) -> Budgets:
    """As ``budgets_from_model_file``, from the inputs and outputs of the graph at ``path``.

    Raises EngineError where these are not the ones of an export.
    """
    names, first = [spec.name for spec in inputs], model_file.manifest.model.output_name
    if names not in (["images"], ["images", "slots"]) or [spec.name for spec in outputs[:1]] != [first]:
        raise EngineError(
            f"{path} must have the inputs images and optionally slots, and {first} as its first output; it has "
            f"{names} and {[spec.name for spec in outputs]}. Export with tokfilter."
        )
    return budgets_from_model_file(model_file, elastic="slots" in names)


def _serves(entry: Entry, tokens: int | None) -> bool:
    if tokens is None or entry.budget_range is None:
        return True
    low, _, high = entry.budget_range
    return low <= tokens <= high


def _inventory(manifest: Manifest) -> str:
    models = [e for e in manifest.files if e.runtime is not None]
    return ", ".join(f"{e.path} ({e.role}, {e.runtime}, {e.precision})" for e in models) or "no models"
