"""manifest.json: the files of an export directory with their checksums, and the model's properties.

Written by ``export/``; ``runtime/`` checks the sizes and SHA-256 sums of files before it uses them. Neither torch nor
an engine is needed here.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

from tokfilter.artifacts.files import atomic_path, existing_file, inside, sha256
from tokfilter.artifacts.json_file import json_from_bytes
from tokfilter.artifacts.limits import MAX_MANIFEST
from tokfilter.artifacts.manifest_checks import ClosedSets, check_manifest
from tokfilter.artifacts.pixels import INPUT_FORMS, InputForm
from tokfilter.artifacts.reducer import ReducerConfig
from tokfilter.errors import DataError

__all__ = [
    "FORMAT",
    "GOLDEN_FILE",
    "NAME",
    "VERSION",
    "Entry",
    "FileRuntime",
    "Manifest",
    "ModelCard",
    "ModelOutput",
    "Precision",
    "entry_from_file",
    "load_manifest",
    "manifest_from_bytes",
    "output_of",
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
Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]
Range = tuple[int, int, int]
Output = Literal["masks", "embedding"]
"""First outputs other than the logits of classes."""

_CARD_KEYS: Final = {"num_patches": "patches"}
"""Fields of ModelCard whose key in manifest.json is another one (version 1 of the format)."""

_FIELDS: Final = {key: name for name, key in _CARD_KEYS.items()}

_UNSET: Final[tuple[tuple[str, Any], ...]] = (
    ("input", "float"),
    ("output", None),
    ("reducer", ReducerConfig().as_dict()),
    ("choices", []),
)
"""Keys of a card that are left out with these values."""

_ADDED_KEYS: Final = ("verified", "unverified", "kept_fp32")

_KNOWN: Final = ClosedSets(get_args(Role), get_args(FileRuntime), get_args(Precision), INPUT_FORMS, get_args(Output))
"""A value that is added to a Literal is known to the reader; ``manifest.schema.json`` has to name it too (a test)."""


@dataclass(frozen=True)
class Entry:
    """One file of an export directory.

    role: "filtered" and "full" are models, the others belong to them
    runtime: the engine that reads it; "onnx" is a graph of standard operators, "onnx-plugin" one with the node
        TokenSelect for TensorRT's plugin (before it had a name of its own, "onnx" had the node), "onnx-cuda" for ONNX
        Runtime's CUDA provider only, "onnx-tensorrt8" for the parsers of TensorRT 8 only; None for other files
    precision: fp32, fp16 or bf16, the types in the graph; int8 or fp8, those of its Linear layers
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
class ModelOutput:
    """The first output of a model that gives something else than class logits.

    name: masks, [B, M, H', W'], logits; or embedding, [B, C]
    shape: of one image: (M, H', W'), or (C,)
    """

    name: Output
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))  # JSON has lists


def output_of(name: Literal["logits"] | Output, shape: tuple[int, ...]) -> ModelOutput | None:
    """The entry ``output`` of a card for a model's output and its shape for one image; None for logits."""
    return None if name == "logits" else ModelOutput(name, shape)


@dataclass(frozen=True)
class ModelCard:
    """Properties of the model that a runtime needs.

    input_size: (3, H, W)
    keep: default budget in tokens
    macs: multiply-accumulates per image; key "full", or the budget as text
    preprocessing: as in the bundle
    classes: classes; where there is an ``output`` its masks, or numbers of an embedding
    input: how the graphs and engines take images; the key is left out where it is "float"
    output: what the graphs and engines return first; None and left out for logits [B, classes]
    reducer: name and settings (``artifacts/reducer.py``); the key is left out for the filter
    choices: [block, stage] of each choice of tokens inside the blocks, blocks counted from 1 and stages from 0; left
        out where there are none
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
    output: ModelOutput | None = None
    reducer: dict[str, Any] = field(default_factory=lambda: ReducerConfig().as_dict())
    choices: list[list[int]] = field(default_factory=list)

    @property
    def output_name(self) -> str:
        """Name of the first output."""
        return "logits" if self.output is None else self.output.name

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the first output for one image."""
        return (self.classes,) if self.output is None else self.output.shape

    @property
    def embeds(self) -> bool:
        """Whether the model gives embeddings in place of class logits."""
        return self.output_name == "embedding"

    def require_classifier(self, what: str) -> None:
        """Raise DataError where the model gives masks or embeddings.

        what: the subject of the message, such as "the service"
        """
        if self.embeds:
            raise DataError(
                f"{what} takes models that classify, and this one gives embeddings of {self.classes} numbers "
                "(num_classes=0): run it with tokfilter.open_session, `tokfilter predict` or `tokfilter serve`."
            )
        self.require_one_row(what)

    def require_one_row(self, what: str) -> None:
        """Raise DataError where the model gives masks, not logits or an embedding [B, C]; ``what`` as above."""
        if self.output is not None and not self.embeds:
            raise DataError(
                f"{what} takes models that classify, and this one gives masks {list(self.output.shape)}: run it with "
                "tokfilter.open_session or `tokfilter predict`."
            )

    def as_dict(self) -> dict[str, Any]:
        """The card with the keys of manifest.json."""
        card = {_CARD_KEYS.get(name, name): value for name, value in asdict(self).items()}
        return {name: value for name, value in card.items() if (name, value) not in _UNSET}


@dataclass(frozen=True)
class Manifest:
    """Contents of an export directory.

    source: name and sha256 of the bundle
    versions: of the packages that wrote the files
    verification: results per file, or the reason why there are none; "damaged": images of --verify-images that were
        left out, with the reason; "quantization": int8 or fp8 -> images, layers, and
        top-1 against fp32 at each budget (docs/int8.md)
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
        """The manifest as JSON. Raises DataError for what ``load_manifest`` would refuse."""
        files = [entry.as_dict() for entry in self.files]
        content = {**asdict(self), "model": self.model.as_dict(), "files": files}
        try:
            text = json.dumps({"format": FORMAT, "version": VERSION, **content}, indent=2, allow_nan=False)
            check_manifest(_content(text.encode()), _KNOWN)
        except ValueError as error:
            raise DataError(f"{NAME} would not be readable: {error}.") from error
        return text + "\n"


def entry_from_file(directory: Path, path: str, role: Role, **details: Any) -> Entry:
    """Describe ``directory/path``; ``details`` are the other fields of Entry."""
    file = inside(directory, path)
    return Entry(path=path, role=role, sha256=sha256(file), bytes=file.stat().st_size, **details)


def load_manifest(directory: str | Path) -> Manifest:
    """Read ``directory/manifest.json``. Raises DataError when there is none or it is not one of ours."""
    if Path(directory).is_file():
        raise DataError(
            f"{directory} is a file: expected an export directory (`tokfilter export model.pt -o out/` writes one)."
        )
    path = existing_file(Path(directory) / NAME, "an export directory's manifest (written by `tokfilter export`)")
    with path.open("rb") as file:
        return manifest_from_bytes(file.read(MAX_MANIFEST + 1), path)


def manifest_from_bytes(encoded: bytes, path: Path) -> Manifest:
    """The manifest that a file holds; ``path`` is for messages. Raises DataError."""
    try:
        content = _content(encoded)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise DataError(f"{path} is no manifest of tokfilter.")
        if content.get("version") != VERSION:
            raise DataError(
                f"{path} has manifest version {content.get('version')!r:.80}; this tokfilter reads {VERSION}. Export "
                "again."
            )
        check_manifest(content, _KNOWN)
    except ValueError as error:  # no JSON, no UTF-8, nested too deep; or refused by a check
        raise DataError(f"{path} is damaged ({error}). Export again.") from error
    card = {_FIELDS.get(key, key): value for key, value in content["model"].items()}
    others = {key: value for key, value in content.items() if key not in ("format", "version", "model", "files")}
    return Manifest(
        model=ModelCard(**{**card, "input_size": tuple(card["input_size"]), "output": _output(card.get("output"))}),
        files=[_entry(item) for item in content["files"]],
        **others,
    )


def _content(encoded: bytes) -> Any:
    """What the file holds. Raises ValueError."""
    if len(encoded) > MAX_MANIFEST:
        raise ValueError(f"it must have at most {MAX_MANIFEST >> 20} MiB, as every manifest has")

    return json_from_bytes(encoded)


def save_manifest(directory: str | Path, manifest: Manifest) -> None:
    """Write ``directory/manifest.json``, atomically."""
    with atomic_path(Path(directory) / NAME) as part:
        part.write_text(manifest.text(), encoding="utf-8")


def _entry(item: dict[str, Any]) -> Entry:
    ranges = {name: _range(item.get(name)) for name in ("batch_range", "budget_range")}
    return Entry(**{**item, **ranges})


def _output(item: dict[str, Any] | None) -> ModelOutput | None:
    return None if item is None else ModelOutput(**item)


def _range(value: Sequence[int] | None) -> Range | None:
    if value is None:
        return None
    low, best, high = value
    return low, best, high
