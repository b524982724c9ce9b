"""Checks of a manifest's content before any of it is used: a manifest is a file from somewhere, and nobody signed it.

Every text that becomes part of a name or path is of a closed set or a file name, numbers are bounded, unknown keys are
refused. ``manifest.schema.json`` states the same for other readers, and a test compares both. Checks between fields
(``_check_card``, ``_check_files``) are here only.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tokfilter.artifacts.files import is_file_name
from tokfilter.artifacts.limits import CROP_MODES, INTERPOLATIONS, MAX_COUNT, MAX_SIZE, MAX_STAGES, MAX_TEXT
from tokfilter.artifacts.reducer import REDUCERS, ReducerConfig

__all__ = ["ClosedSets", "check_manifest"]

_DEPTH: Final = 16

Check = Callable[[Any, str], None]
"""(value, its place in the manifest). Raises ValueError with what is expected and what is there."""


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
    _record(
        {
            "format": _one_of(("tokfilter-export",)),
            "version": _whole(1, 1),
            "model": _model(known),
            "files": _sequence(_entry(known), 10_000),
            "source": _record({}, {"name": _file_name, "sha256": _digest}),
            "opset": _whole(0, 1000),
            "versions": _mapping(_word, _text(200), 100),
            "verification": _record({}, {"skipped": _text(MAX_TEXT), "checks": _sequence(_result, 100_000)}, _plain),
            "created": _text(100),
        },
        {"choice": _record({}, {"tokens": _whole(1, MAX_SIZE)}, _plain)},
    )(content, "")
    _check_card(content["model"])
    _check_files(content["files"])
    tokens, patches = content.get("choice", {}).get("tokens", 1), content["model"]["patches"]
    if tokens > patches:
        raise ValueError(f"choice.tokens must be a count between 1 and {patches}, got {tokens}")


def _model(known: ClosedSets) -> Check:
    size = _sequence(_whole(1, MAX_SIZE), 3, least=3)
    channels = _sequence(_number(-1e6, 1e6), 3, least=3)
    return _record(
        {
            "architecture": _architecture,
            "input_size": size,
            "patches": _whole(1, MAX_SIZE),
            "prefix_tokens": _whole(0, MAX_SIZE),
            "classes": _whole(1, MAX_SIZE),
            "class_names": _sequence(_text(MAX_TEXT), MAX_SIZE),
            "keep": _anything,  # a count up to the number of patches: _check_card
            "macs": _mapping(_full_or_count, _whole(0, MAX_COUNT), 10_000),
            "preprocessing": _record(
                {"input_size": size, "mean": channels, "std": channels},
                {
                    "interpolation": _one_of(INTERPOLATIONS),
                    "crop_pct": _number(0.01, MAX_SIZE),
                    "crop_mode": _one_of(CROP_MODES),
                },
            ),
        },
        {
            "input": _one_of(known.inputs),
            "output": _record(
                {"name": _one_of(known.outputs), "shape": _sequence(_whole(1, MAX_SIZE), 3, least=1)}, {}
            ),
            "reducer": _reducer,
            "choices": _sequence(_choice, MAX_STAGES),
        },
    )


def _entry(known: ClosedSets) -> Check:
    sizes = _optional(_range)
    return _record(
        {"path": _file_name, "role": _one_of(known.roles), "sha256": _digest, "bytes": _whole(0, MAX_COUNT)},
        {
            "runtime": _optional(_one_of(known.runtimes)),
            "precision": _optional(_one_of(known.precisions)),
            "budget": _optional(_whole(1, MAX_SIZE)),
            "batch_range": sizes,
            "budget_range": sizes,
            "target": _record(
                {},
                {
                    "plugin": _optional(_file_name),
                    "version": _optional(_line),
                    "gpu": _optional(_line),
                    "compute_capabilities": _either(_word, _sequence(_word, 100)),
                    "fp32_layers": _sequence(_text(MAX_TEXT), MAX_SIZE),
                },
                _plain,
            ),
            "external": _mapping(_file_name, _digest, 1000),
            "verified": _optional(_flag),
            "unverified": _optional(_text(MAX_TEXT)),
            "kept_fp32": _kept_fp32,
        },
    )


def _kept_fp32(value: Any, place: str) -> None:
    if value != {}:
        groups = _mapping(_text(MAX_TEXT), _sequence(_text(MAX_TEXT), MAX_SIZE), MAX_SIZE)
        _record({"groups": groups, "minimal": _flag, "probes": _whole(0, MAX_COUNT)}, {})(value, place)


def _check_card(card: Mapping[str, Any]) -> None:
    patches, classes, names = card["patches"], card["classes"], card["class_names"]
    _, high, wide = size = card["input_size"]
    fields = card["preprocessing"]
    if not _is_whole(card["keep"]) or not 1 <= card["keep"] <= patches:
        raise ValueError(f"model.keep must be a count between 1 and {patches}, got {_shown(card['keep'])}")
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
    _record({"passed": _flag, "relative": _number(0, math.inf)}, {}, _plain)(value, place)


def _record(required: Mapping[str, Check], optional: Mapping[str, Check], others: Check | None = None) -> Check:
    """An object with these keys. ``others`` checks the values of further keys; None refuses them."""

    def check(value: Any, place: str) -> None:
        _expect(isinstance(value, dict), place, "an object", value)
        missing = [key for key in required if key not in value]
        if missing:
            raise ValueError(f"{place or 'it'} lacks {missing[0]}")
        for key, item in value.items():
            found = required.get(key) or optional.get(key) or others
            if found is None:
                raise ValueError(
                    f"{place or 'it'} has the unknown key {_shown(key)}; a newer tokfilter may have written it: update"
                )
            if found is others:
                _expect(len(key) <= 200, place, "keys of at most 200 characters", key)
            found(item, f"{place}.{key[:200]}".lstrip("."))

    return check


def _mapping(keys: Check, values: Check, most: int) -> Check:
    def check(value: Any, place: str) -> None:
        _expect(isinstance(value, dict) and len(value) <= most, place, f"an object of at most {most} keys", value)
        for key, item in value.items():
            keys(key, f"a key of {place}")
            values(item, f"{place}[{_shown(key)}]")

    return check


def _sequence(items: Check, most: int, least: int = 0) -> Check:
    expected = f"{most} values" if least == most else f"a list of at most {most} values"

    def check(value: Any, place: str) -> None:
        _expect(isinstance(value, list) and least <= len(value) <= most, place, expected, value)
        for index, item in enumerate(value):
            items(item, f"{place}[{index}]")

    return check


def _one_of(names: tuple[str, ...]) -> Check:
    expected = f"one of {', '.join(names)} (a newer tokfilter may know others: update)"
    return lambda value, place: _expect(isinstance(value, str) and value in names, place, expected, value)


def _whole(low: int, high: int) -> Check:
    return lambda value, place: _expect(
        _is_whole(value) and low <= value <= high, place, f"a count between {low} and {high}", value
    )


def _number(low: float, high: float) -> Check:
    def check(value: Any, place: str) -> None:
        known = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
        _expect(known, place, f"a number from {low:g} to {high:g}", value)

    return check


def _text(most: int) -> Check:
    return lambda value, place: _expect(
        isinstance(value, str) and len(value) <= most, place, f"text of at most {most} characters", value
    )


def _optional(check: Check) -> Check:
    return lambda value, place: None if value is None else check(value, place)


def _either(text: Check, other: Check) -> Check:
    return lambda value, place: (text if isinstance(value, str) else other)(value, place)


def _pattern(pattern: str, expected: str) -> Check:
    compiled = re.compile(pattern)
    return lambda value, place: _expect(
        isinstance(value, str) and compiled.fullmatch(value) is not None, place, expected, value
    )


WORD: Final = r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}"
ARCHITECTURE: Final = r"[A-Za-z0-9_][A-Za-z0-9_.:/@+-]{0,199}"

_word = _pattern(WORD, "a word of letters, digits and _ . + -")
_architecture = _pattern(ARCHITECTURE, "a name of letters, digits and _ . : / @ + -")
_digest = _pattern("[0-9a-f]{64}", "64 hexadecimal digits")
_line = _pattern("[^\x00-\x1f\x7f-\x9f]{0,200}", "one line of at most 200 characters")
_full_or_count = _pattern("full|[1-9][0-9]{0,6}", '"full" or a count')


def _reducer(value: Any, place: str) -> None:
    _record({"name": _one_of(tuple(REDUCERS)), "settings": _plain}, {})(value, place)
    try:
        ReducerConfig(value["name"], value["settings"])
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def _choice(value: Any, place: str) -> None:
    _sequence(_whole(0, MAX_STAGES), 2, least=2)(value, place)


def _file_name(value: Any, place: str) -> None:
    known = isinstance(value, str) and is_file_name(value)
    _expect(known, place, "the name of a file inside the directory", value)


def _flag(value: Any, place: str) -> None:
    _expect(isinstance(value, bool), place, "true or false", value)


def _range(value: Any, place: str) -> None:
    _sequence(_whole(1, MAX_SIZE), 3, least=3)(value, place)
    _expect(value == sorted(value), place, "[low, best, high], ascending", value)


def _anything(value: Any, place: str) -> None: ...


def _plain(value: Any, place: str, depth: int = 0) -> None:
    """Any value of JSON, nested at most 16 deep, texts bounded."""
    _expect(depth < _DEPTH, place, f"values nested at most {_DEPTH} deep", "more")
    if isinstance(value, str):
        _text(MAX_TEXT)(value, place)
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _plain(item, place, depth + 1)
    if isinstance(value, dict):
        for key in value:
            _text(MAX_TEXT)(key, place)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _expect(fits: bool, place: str, expected: str, value: Any) -> None:
    if not fits:
        raise ValueError(f"{place or 'it'} must be {expected}, got {_shown(value)}")


def _shown(value: Any) -> str:
    """The value as ASCII, cut short, without building the text of a large one."""
    if isinstance(value, list | dict):
        return f"a {'list' if isinstance(value, list) else 'object'} of {len(value)}"
    if isinstance(value, int) and abs(value) > MAX_COUNT:
        return "a larger number"
    text = ascii(value[:80] if isinstance(value, str) else value)
    return text if len(text) <= 80 else f"{text[:77]}..."
