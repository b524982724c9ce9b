"""Checks of a manifest's content before any of it is used: a manifest is a file from somewhere, and nobody signed it.

Every text that becomes part of a name or path is of a closed set or a file name, numbers are bounded, unknown keys are
refused. ``manifest.schema.json`` states the same for other readers, and a test compares both. Checks between fields
(``_check_card``, ``_check_files``) are here only.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tokfilter.artifacts.files import is_file_name
from tokfilter.artifacts.limits import CROP_MODES, INTERPOLATIONS, MAX_COUNT, MAX_SIZE, MAX_STAGES, MAX_TEXT
from tokfilter.artifacts.reducer import REDUCERS, ReducerConfig
from tokfilter.artifacts.value_checks import (
    Check,
    anything,
    either,
    expect,
    flag,
    mapping,
    number,
    one_of,
    optional,
    pattern,
    plain,
    record,
    sequence,
    text,
    whole,
)

__all__ = ["ClosedSets", "check_manifest"]


@dataclass(frozen=True)
class ClosedSets:
    """The values that are known, from the Literals of ``artifacts.manifest``."""

    roles: tuple[str, ...]
    runtimes: tuple[str, ...]
    precisions: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def check_manifest(content: Any, known: ClosedSets) -> None:
    """Check the content of manifest.json, version 1. Raises ValueError with the place and what is expected there."""
    record(
        {
            "format": one_of(("tokfilter-export",)),
            "version": whole(1, 1),
            "model": _model(known),
            "files": sequence(_entry(known), 10_000),
            "source": record({}, {"name": _file_name, "sha256": _digest}),
            "opset": whole(0, 1000),
            "versions": mapping(_word, text(200), 100),
            "verification": record({}, {"skipped": text(MAX_TEXT), "checks": sequence(_result, 100_000)}, plain),
            "created": text(100),
        },
        {"choice": record({}, {"tokens": whole(1, MAX_SIZE)}, plain)},
    )(content, "")
    _check_card(content["model"])
    _check_files(content["files"])
    tokens, patches = content.get("choice", {}).get("tokens", 1), content["model"]["patches"]
    if tokens > patches:
        raise ValueError(f"choice.tokens must be a count between 1 and {patches}, got {tokens}")


def _model(known: ClosedSets) -> Check:
    size = sequence(whole(1, MAX_SIZE), 3, least=3)
    channels = sequence(number(-1e6, 1e6), 3, least=3)
    return record(
        {
            "architecture": _architecture,
            "input_size": size,
            "patches": whole(1, MAX_SIZE),
            "prefix_tokens": whole(0, MAX_SIZE),
            "classes": whole(1, MAX_SIZE),
            "class_names": sequence(text(MAX_TEXT), MAX_SIZE),
            "keep": anything,  # a count up to the number of patches: _check_card
            "macs": mapping(_full_or_count, whole(0, MAX_COUNT), 10_000),
            "preprocessing": record(
                {"input_size": size, "mean": channels, "std": channels},
                {
                    "interpolation": one_of(INTERPOLATIONS),
                    "crop_pct": number(0.01, MAX_SIZE),
                    "crop_mode": one_of(CROP_MODES),
                },
            ),
        },
        {
            "input": one_of(known.inputs),
            "output": record({"name": one_of(known.outputs), "shape": sequence(whole(1, MAX_SIZE), 3, least=1)}, {}),
            "reducer": _reducer,
            "choices": sequence(_choice, MAX_STAGES),
        },
    )


def _entry(known: ClosedSets) -> Check:
    sizes = optional(_range)
    return record(
        {"path": _file_name, "role": one_of(known.roles), "sha256": _digest, "bytes": whole(0, MAX_COUNT)},
        {
            "runtime": optional(one_of(known.runtimes)),
            "precision": optional(one_of(known.precisions)),
            "budget": optional(whole(1, MAX_SIZE)),
            "batch_range": sizes,
            "budget_range": sizes,
            "target": record(
                {},
                {
                    "plugin": optional(_file_name),
                    "version": optional(_line),
                    "gpu": optional(_line),
                    "compute_capabilities": either(_word, sequence(_word, 100)),
                    "fp32_layers": sequence(text(MAX_TEXT), MAX_SIZE),
                },
                plain,
            ),
            "external": mapping(_file_name, _digest, 1000),
            "verified": optional(flag),
            "unverified": optional(text(MAX_TEXT)),
            "kept_fp32": _kept_fp32,
        },
    )


def _kept_fp32(value: Any, place: str) -> None:
    if value != {}:
        groups = mapping(text(MAX_TEXT), sequence(text(MAX_TEXT), MAX_SIZE), MAX_SIZE)
        record({"groups": groups, "minimal": flag, "probes": whole(0, MAX_COUNT)}, {})(value, place)


def _check_card(card: Mapping[str, Any]) -> None:
    patches, classes, names = card["patches"], card["classes"], card["class_names"]
    _, high, wide = size = card["input_size"]
    fields = card["preprocessing"]
    whole(1, patches)(card["keep"], "model.keep")
    if len(names) not in (0, classes):
        raise ValueError(f"model.class_names must have {classes} names or none, got {len(names)}")
    if size[0] != 3 or fields["input_size"] != size:
        raise ValueError(
            f"model.input_size must be [3, height, width], the same in preprocessing, got {size} and "
            f"{fields['input_size']}"
        )
    output = card.get("output", {"name": "masks", "shape": (classes, 1, 1)})
    if output["name"] == "embedding":
        if list(output["shape"]) != [classes] or names:
            raise ValueError(
                f"model.output.shape of an embedding must be [{classes}], without class names, got {output['shape']} "
                f"and {len(names)} names"
            )
        output = {"shape": (classes, 1, 1)}
    if len(output["shape"]) != 3:
        raise ValueError(f"model.output.shape of masks must be [masks, height, width], got {output['shape']}")
    masks, mask_high, mask_wide = output["shape"]
    if masks != classes or mask_high > high or mask_wide > wide:
        raise ValueError(
            f"model.output.shape must be [{classes} masks, height, width], at most as large as the image, got "
            f"{[masks, mask_high, mask_wide]}"
        )
    if min(abs(value) for value in fields["std"]) < 1e-6:
        raise ValueError(f"model.preprocessing.std must not be 0, got {fields['std']}")
    if fields.get("crop_pct", 1) > min(high, wide):
        raise ValueError(f"model.preprocessing.crop_pct must be at most {min(high, wide)}, got {fields['crop_pct']}")


def _check_files(files: Sequence[Mapping[str, Any]]) -> None:
    seen = {"manifest.json"}
    for index, entry in enumerate(files):
        for name in (entry["path"], *entry.get("external", {})):
            if name in seen:
                raise ValueError(f"files[{index}] lists {name!r}, which is the manifest or stands in the list already")
            seen.add(name)


def _result(value: Any, place: str) -> None:
    record({"passed": flag, "relative": number(0, math.inf)}, {}, plain)(value, place)


WORD: Final = r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}"
ARCHITECTURE: Final = r"[A-Za-z0-9_][A-Za-z0-9_.:/@+-]{0,199}"

_word = pattern(WORD, "a word of letters, digits and _ . + -")
_architecture = pattern(ARCHITECTURE, "a name of letters, digits and _ . : / @ + -")
_digest = pattern("[0-9a-f]{64}", "64 hexadecimal digits")
_line = pattern("[^\x00-\x1f\x7f-\x9f]{0,200}", "one line of at most 200 characters")
_full_or_count = pattern("full|[1-9][0-9]{0,6}", '"full" or a count')


def _reducer(value: Any, place: str) -> None:
    record({"name": one_of(tuple(REDUCERS)), "settings": plain}, {})(value, place)
    try:
        ReducerConfig(value["name"], value["settings"])
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def _choice(value: Any, place: str) -> None:
    sequence(whole(0, MAX_STAGES), 2, least=2)(value, place)


def _file_name(value: Any, place: str) -> None:
    known = isinstance(value, str) and is_file_name(value)
    expect(known, place, "the name of a file inside the directory", value)


def _range(value: Any, place: str) -> None:
    sequence(whole(1, MAX_SIZE), 3, least=3)(value, place)
    expect(value == sorted(value), place, "[low, best, high], ascending", value)
