"""manifest.json: the files of an export directory with their checksums, and the model's properties.

Written by ``export/``; ``runtime/`` checks the sizes and SHA-256 sums of files before it uses them. Neither torch nor
an engine is needed here.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from tokfilter.artifacts.files import atomic_path, existing_file, sha256
from tokfilter.artifacts.pixels import INPUT_FORMS, InputForm
from tokfilter.errors import DataError, EngineError

__all__ = [
    "FORMAT",
    "GOLDEN_FILE",
    "NAME",
    "VERSION",
    "Entry",
    "FileRuntime",
    "Manifest",
    "ModelCard",
    "checked_path",
    "entry_from_file",
    "load_manifest",
    "save_manifest",
]

NAME: Final = "manifest.json"
GOLDEN_FILE: Final = "golden.npz"
FORMAT: Final = "tokfilter-export"
VERSION: Final = 1

Role = Literal["filtered", "full", "golden", "timing-cache", "plugin"]
Runtime = Literal["onnx", "openvino", "tensorrt", "tensorrt-rtx", "torch"]
"""Engines. OpenVINO runs the files of "onnx"; PyTorch runs model.pt, which is no file of an export."""

FileRuntime = Literal["onnx", "tensorrt", "tensorrt-rtx", "torch", "onnx-plugin", "onnx-cuda", "onnx-tensorrt8"]
Range = tuple[int, int, int]

_CARD_KEYS: Final = {"num_patches": "patches"}
"""Fields of ModelCard whose key in manifest.json is another one (version 1 of the format)."""

_ADDED_KEYS: Final = ("verified", "unverified", "kept_fp32")


@dataclass(frozen=True)
class Entry:
    """One file of an export directory.

    role: "filtered" and "full" are models, the others belong to them
    runtime: the engine that reads it; "onnx" is a graph of standard operators, "onnx-plugin" one with the node
        TokenSelect for TensorRT's plugin (before it had a name of its own, "onnx" had the node), "onnx-cuda" for ONNX
        Runtime's CUDA provider only, "onnx-tensorrt8" for the parsers of TensorRT 8 only; None for other files
    precision: fp32, fp16 or bf16, the types in the graph
    budget: the fixed number of kept patch tokens; None when the budget is an input (the length of ``slots``)
    batch_range, budget_range: (min, opt, max) that an engine was built for; None for any
    target: hardware, versions and options of an engine build, or what was fused in a graph for CUDA; plain values.
        Of engines of TensorRT 8 also "graph" (the form of the graph), "plugin_interface", "fp32_layers" (names of ONNX
        nodes); of graphs for it "tensorrt" (8.5 or 8.6) and "plugin_interface" (null: native ops)
    external: files with the external weights of a graph, name -> sha256 (graphs beyond 2 GiB)
    verified: whether an engine was compared with the golden tensors when it was built; None where that was not asked
    unverified: why it was not compared, where ``verified`` is false
    kept_fp32: layers that are fp32 in a graph or engine of lower precision because its outputs differed without:
        "groups" (name -> names of nodes), "minimal" (whether each group is needed), "probes" (models built to find out)
    """

    path: str
    role: Role
    sha256: str
    bytes: int
    runtime: FileRuntime | None = None
    precision: str | None = None
    budget: int | None = None
    batch_range: Range | None = None
    budget_range: Range | None = None
    target: dict[str, Any] = field(default_factory=dict)
    external: dict[str, str] = field(default_factory=dict)
    verified: bool | None = None
    unverified: str | None = None
    kept_fp32: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The entry with the keys of manifest.json; keys that were added to version 1 are left out where unset."""
        unset = [name for name in _ADDED_KEYS if getattr(self, name) in (None, {})]
        return {name: value for name, value in asdict(self).items() if name not in unset}


@dataclass(frozen=True)
class ModelCard:
    """Properties of the model that a runtime needs.

    input_size: (3, H, W)
    keep: default budget in tokens
    macs: multiply-accumulates per image; key "full", or the budget as text
    preprocessing: as in the bundle
    input: how the graphs and engines take images; the key is left out where it is "float"
    """

    architecture: str
    input_size: tuple[int, int, int]
    num_patches: int
    prefix_tokens: int
    classes: int
    class_names: list[str]
    keep: int
    macs: dict[str, int]
    preprocessing: dict[str, Any]
    input: InputForm = "float"

    def as_dict(self) -> dict[str, Any]:
        """The card with the keys of manifest.json."""
        card = {_CARD_KEYS.get(name, name): value for name, value in asdict(self).items()}
        return {name: value for name, value in card.items() if (name, value) != ("input", "float")}


@dataclass(frozen=True)
class Manifest:
    """Contents of an export directory.

    source: name and sha256 of the bundle
    versions: of the packages that wrote the files
    verification: results per file, or the reason why there are none
    choice: the budget that `tokfilter tune` chose on a machine, and its measurements; empty before
    """

    model: ModelCard
    files: list[Entry]
    source: dict[str, str]
    opset: int
    versions: dict[str, str]
    verification: dict[str, Any]
    created: str
    choice: dict[str, Any] = field(default_factory=dict)

    def entries(self, role: Role, runtime: FileRuntime | None = None) -> list[Entry]:
        """Files with this role, and runtime when given."""
        return [e for e in self.files if e.role == role and (runtime is None or e.runtime == runtime)]

    def text(self) -> str:
        """The manifest as JSON."""
        files = [entry.as_dict() for entry in self.files]
        content = {**asdict(self), "model": self.model.as_dict(), "files": files}
        return json.dumps({"format": FORMAT, "version": VERSION, **content}, indent=2) + "\n"


def entry_from_file(directory: Path, path: str, role: Role, **details: Any) -> Entry:
    """Describe ``directory/path``; ``details`` are the other fields of Entry."""
    file = directory / path
    return Entry(path=path, role=role, sha256=sha256(file), bytes=file.stat().st_size, **details)


def load_manifest(directory: str | Path) -> Manifest:
    """Read ``directory/manifest.json``. Raises DataError when there is none or it is not one of ours."""
    path = existing_file(Path(directory) / NAME, "an export directory's manifest (written by `tokfilter export`)")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format") != FORMAT:
            raise DataError(f"{path} is no manifest of tokfilter.")
        version = content.pop("version")
        if version != VERSION:
            raise DataError(f"{path} has manifest version {version!r}; this tokfilter reads {VERSION}. Export again.")
        files = [_entry(item) for item in content.pop("files")]
        card = content.pop("model")
        names = {key: name for name, key in _CARD_KEYS.items()}
        card = {names.get(key, key): value for key, value in card.items()}
        model = ModelCard(**{**card, "input_size": tuple(card["input_size"])})
        _check_card(model)
        return Manifest(model=model, files=files, **content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is damaged ({type(error).__name__}: {error}). Export again.") from error


def save_manifest(directory: str | Path, manifest: Manifest) -> None:
    """Write ``directory/manifest.json``, atomically."""
    with atomic_path(Path(directory) / NAME) as part:
        part.write_text(manifest.text(), encoding="utf-8")


def _entry(item: dict[str, Any]) -> Entry:
    ranges = {name: _range(item.get(name)) for name in ("batch_range", "budget_range")}
    entry = Entry(**{**item, **ranges})
    for name in (entry.path, *entry.external):
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"file {name!r} lies outside the directory")
    if entry.kept_fp32:
        _check_kept_fp32(entry.kept_fp32)
    return entry


def _check_kept_fp32(kept: dict[str, Any]) -> None:
    """Raises ValueError, KeyError, TypeError, AttributeError."""
    names = [name for nodes in kept["groups"].values() for name in nodes]
    if not all(isinstance(name, str) for name in names) or type(kept["minimal"]) is not bool:
        raise ValueError("kept_fp32 must hold groups (name -> names of nodes), minimal (true or false) and probes")
    if type(kept["probes"]) is not int:
        raise ValueError(f"kept_fp32.probes must be a count, got {kept['probes']!r}")


def _check_card(card: ModelCard) -> None:
    """The default budget in a manifest is a count, and the form of the input is known. Raises ValueError."""
    if card.input not in INPUT_FORMS:
        raise ValueError(f"model.input must be one of {', '.join(INPUT_FORMS)}, got {card.input!r}")
    if type(card.keep) is not int or not 1 <= card.keep <= card.num_patches:
        raise ValueError(f"model.keep must be a count between 1 and {card.num_patches}, got {card.keep!r}")


def _range(value: Sequence[int] | None) -> Range | None:
    if value is None:
        return None
    low, best, high = value
    return low, best, high


def checked_path(directory: str | Path, entry: Entry) -> Path:
    """Path of an entry after a check of its size and SHA-256. Raises EngineError when they differ."""
    path = Path(directory) / entry.path
    if not path.is_file():
        raise EngineError(f"{path} is missing, though {NAME} lists it. Export again.")
    changed = path.stat().st_size != entry.bytes or sha256(path) != entry.sha256
    for name, digest in entry.external.items():
        weights = path.with_name(name)
        changed = changed or not weights.is_file() or sha256(weights) != digest
    if changed:
        raise EngineError(f"{path} is not the file that {NAME} describes: its bytes have changed. Export again.")
    return path
