"""A manifest is a file from somewhere: every field with every hostile value ends in a sentence, and writes nowhere."""

import copy
import json
import string
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokfilter.artifacts import limits, manifest_checks
from tokfilter.artifacts.files import FILE_NAME, is_file_name
from tokfilter.artifacts.manifest import (
    NAME,
    FileRuntime,
    Manifest,
    Output,
    Precision,
    Role,
    load_manifest,
    manifest_from_bytes,
)
from tokfilter.artifacts.pixels import INPUT_FORMS
from tokfilter.artifacts.reducer import REDUCERS
from tokfilter.errors import DataError
from tokfilter.runtime import preprocess

SCHEMA = json.loads(Path(manifest_checks.__file__).with_name("manifest.schema.json").read_text(encoding="utf-8"))
DIGEST = "0123456789abcdef" * 4

GOOD = {
    "format": "tokfilter-export",
    "version": 1,
    "model": {
        "architecture": "vit_tiny_patch16_224.augreg_in21k",
        "input_size": [3, 32, 32],
        "patches": 16,
        "prefix_tokens": 1,
        "classes": 2,
        "class_names": ["ant", "bee"],
        "keep": 8,
        "macs": {"full": 9, "8": 5},
        "preprocessing": {
            "input_size": [3, 32, 32],
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "interpolation": "bicubic",
            "crop_pct": 0.9,
            "crop_mode": "center",
        },
        "input": "uint8",
        "output": {"name": "masks", "shape": [2, 8, 16]},
    },
    "files": [
        {
            "path": "model.plan",
            "role": "filtered",
            "sha256": DIGEST,
            "bytes": 5,
            "runtime": "tensorrt",
            "precision": "fp16",
            "budget": None,
            "batch_range": [1, 4, 8],
            "budget_range": [1, 8, 16],
            "target": {
                "plugin": "libtokfilter_plugin.so",
                "version": "10.3.0",
                "gpu": "Orin, 8.7",
                "compute_capabilities": ["SM89"],
                "fp32_layers": ["head"],
            },
            "external": {"model.data": DIGEST},
            "verified": True,
            "unverified": "no GPU",
            "kept_fp32": {"groups": {"head": ["a"]}, "minimal": True, "probes": 3},
        },
    ],
    "source": {"name": "model.pt", "sha256": DIGEST},
    "opset": 18,
    "versions": {"onnx": "1.17"},
    "verification": {"checks": [{"passed": True, "relative": 1e-6}]},
    "created": "2026-01-01T00:00:00Z",
    "choice": {"tokens": 8},
}


def places(value, place=()):
    """Every place in the content, inner ones too."""
    yield place
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*place, key))


PLACES = [place for place in places(GOOD) if place]


def changed(place, value):
    content = copy.deepcopy(GOOD)
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return content


def written(folder, content):
    (folder / NAME).write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("out")


def test_the_good_one_is_good(folder):
    jsonschema = pytest.importorskip("jsonschema")
    manifest = load_manifest(written(folder, GOOD))
    assert json.loads(manifest.text()) == GOOD
    jsonschema.validate(GOOD, SCHEMA)
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


HOSTILE = [
    "../../../../victim/evil",
    "/etc/passwd",
    "..",
    ".",
    "",
    "a/b",
    "a\\b",
    "a\x00b",
    "a\nb",
    "name\n",
    "\x1b]0;owned\x07",
    "\x9b31m",
    "\u202egnp.exe",
    "\ud800",
    "x" * 256,
    "é" * 200,
    "x" * 5000,
    "fp99",
    "$(reboot)",
    "[red]",
    None,
    True,
    False,
    0,
    -1,
    1.5,
    1e308,
    2**20 + 1,
    2**63,
    10**30,
    [],
    {},
    [[]],
    {"a": 1},
    [1, 2],
    [3, 2, 1],
    [1, 1, 2**21],
    {"../x": DIGEST},
]

TEXTS = st.text(st.characters(codec=None, exclude_categories=()), max_size=40)
VALUES = st.one_of(
    st.sampled_from(HOSTILE),
    TEXTS,
    st.text(string.printable, max_size=300),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.recursive(
        st.none() | st.booleans() | TEXTS, lambda s: st.lists(s, max_size=4) | st.dictionaries(TEXTS, s, max_size=4)
    ),
)


def names_of(manifest: Manifest):
    """Every text of a manifest that becomes part of a name or path."""
    for entry in manifest.files:
        yield from (entry.path, entry.role, entry.runtime or "", entry.precision or "", *entry.external)
        yield entry.target.get("plugin") or ""
    yield manifest.source.get("name", "")


def check(folder, content):
    """Read or refused with a sentence; what was read names files inside the folder only. Whether it was read."""
    try:
        manifest = load_manifest(written(folder, content))
    except DataError as error:
        message = str(error)
        assert message.count("\n") == 0 and len(message) < 700 and message.isprintable(), message
        return False
    for name in names_of(manifest):
        assert name == "" or is_file_name(name)
        assert (folder / name).parent in (folder, folder.parent if name == "" else folder)
    assert load_manifest(written(folder, json.loads(manifest.text()))) == manifest
    return True


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)))
def test_every_hostile_value_at_every_place(folder, place):
    for value in HOSTILE:
        check(folder, changed(place, value))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(PLACES), VALUES)
def test_any_value_at_any_place(folder, place, value):
    check(folder, changed(place, value))


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes(folder, content):
    (folder / NAME).write_bytes(content)
    with pytest.raises(DataError, match="Export again|no manifest of tokfilter"):
        load_manifest(folder)


@pytest.mark.parametrize("depth", [900, 100_000])
@pytest.mark.parametrize(("start", "end"), [("[", "]"), ('{"a":', "}")])
def test_deep_nesting(folder, depth, start, end):
    (folder / NAME).write_text(start * depth + "1" + end * depth)
    with pytest.raises(DataError):
        load_manifest(folder)
    deep = changed(("choice", "more"), 0)
    text = json.dumps(deep).replace('"more": 0', '"more": ' + start * depth + "1" + end * depth)
    (folder / NAME).write_text(text)
    with pytest.raises(DataError, match="nested at most 16 deep|nested too deeply"):
        load_manifest(folder)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "9" * 5000])
def test_numbers_that_are_none(folder, number):
    (folder / NAME).write_text(json.dumps(GOOD).replace('"opset": 18', f'"opset": {number}'))
    with pytest.raises(DataError, match=r"damaged"):
        load_manifest(folder)


def test_a_manifest_of_any_size_is_not_read(folder):
    for size, words in (((64 << 20) + 1, "at most 64 MiB"), (1 << 40, "is a sparse file")):
        with (folder / NAME).open("wb") as file:
            file.truncate(size)
        with pytest.raises(DataError, match=words):
            load_manifest(folder)
    (folder / NAME).unlink()


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("files", 0, "precision"), "int3", r"files\[0\].precision must be one of fp32, .*update"),
        (("files", 0, "runtime"), "vulkan", r"files\[0\].runtime must be one of onnx, .*update"),
        (("files", 0, "surprise"), 1, r"files\[0\] has the unknown key 'surprise'; a newer tokfilter .*update"),
        (("surprise",), 1, "it has the unknown key 'surprise'"),
        (("files", 0, "external"), {"manifest.json": DIGEST}, "'manifest.json', which is the manifest"),
        (("files", 0, "external"), {"model.plan": DIGEST}, "'model.plan', which .* in the list already"),
        (("files", 0, "bytes"), 2**63, "bytes must be a count between 0 and 9223372036854775807, got a larger number"),
        (("model", "class_names"), ["one"], "must have 2 names or none, got 1"),
        (("model", "input_size"), [1, 32, 32], "the same in preprocessing"),
        (("model", "preprocessing", "std"), [0.5, 0, 0.5], "std must not be 0"),
        (("model", "preprocessing", "crop_pct"), 33, "crop_pct must be at most 32"),
        (("model", "preprocessing", "crop_pct"), 1e-9, "from 0.01"),
        (("model", "preprocessing", "interpolation"), "cubic", "one of nearest, bilinear"),
        (("model", "keep"), 17, "a count between 1 and 16"),
        (("choice", "tokens"), 17, "a count between 1 and 16"),
        (("files", 0, "target", "plugin"), "../evil.so", "target.plugin must be the name of a file"),
        (("files", 0, "target", "gpu"), "a\n\n# evil", "one line"),
        (("verification", "checks"), [{}], r"checks\[0\] lacks passed"),
    ],
)
def test_what_is_said(folder, place, value, words):
    with pytest.raises(DataError, match=words):
        load_manifest(written(folder, changed(place, value)))


def test_what_would_not_be_read_is_not_written(folder):
    manifest = load_manifest(written(folder, GOOD))
    manifest.files[0].target["plugin"] = "../x"
    with pytest.raises(DataError, match="would not be readable"):
        manifest.text()


def agrees_with_schema(content):
    """The schema refuses nothing that the checks accept; checks between fields are not in it."""
    jsonschema = pytest.importorskip("jsonschema")
    known = manifest_checks.ClosedSets(
        get_args(Role), get_args(FileRuntime), get_args(Precision), INPUT_FORMS, get_args(Output)
    )
    try:
        manifest_checks.check_manifest(content, known)
        accepted = True
    except ValueError:
        accepted = False
    valid = jsonschema.Draft202012Validator(SCHEMA).is_valid(content)
    assert valid or not accepted
    return accepted, valid


BETWEEN = {"class_names", "input_size", "std", "crop_pct", "keep", "tokens", "patches", "classes"}
"""Fields that depend on others, or on the order of their values."""


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)))
def test_the_schema_says_the_same(place):
    for value in HOSTILE:
        if value in ("\ud800", "é" * 200, "name\n") or isinstance(value, float):
            # No JSON text; 400 bytes of UTF-8, which no pattern counts; Python's $ matches before a last line break;
            # 1.0 is an integer in JSON Schema.
            continue
        accepted, valid = agrees_with_schema(changed(place, value))
        if not BETWEEN & {str(key) for key in place} and value not in ([3, 2, 1], [[]], {"a": 1}):
            assert accepted == valid, value


def test_closed_sets_of_the_schema():
    """A value that is added to a Literal is added to the schema."""
    entry, model = (SCHEMA["properties"][name] for name in ("files", "model"))
    fields = entry["items"]["properties"]
    assert set(fields["role"]["enum"]) == set(get_args(Role))
    assert set(fields["runtime"]["enum"]) == {*get_args(FileRuntime), None}
    assert set(fields["precision"]["enum"]) == {*get_args(Precision), None}
    assert set(model["properties"]["input"]["enum"]) == set(INPUT_FORMS)
    assert set(model["properties"]["output"]["properties"]["name"]["enum"]) == set(get_args(Output))
    preprocessing = model["properties"]["preprocessing"]["properties"]
    assert tuple(preprocessing["interpolation"]["enum"]) == limits.INTERPOLATIONS == tuple(preprocess._FILTERS)
    assert tuple(preprocessing["crop_mode"]["enum"]) == limits.CROP_MODES == get_args(preprocess.CropMode)
    assert SCHEMA["$defs"]["fileName"]["pattern"] == FILE_NAME


@pytest.mark.parametrize(
    ("reducer", "accepted"),
    [
        ({"name": "evit", "settings": {"stages": [2, 3], "fuse": False}}, True),
        ({"name": "evit", "settings": {"stages": [3, 2]}}, False),
        ({"name": "magic", "settings": {}}, False),
        ({"name": "evit"}, False),
    ],
)
def test_a_reducer_is_one_of_a_closed_set(reducer, accepted):
    content = json.dumps({**GOOD, "model": {**GOOD["model"], "reducer": reducer}}).encode()
    if accepted:
        assert manifest_from_bytes(content, Path("manifest.json")).model.reducer == reducer
    else:
        with pytest.raises(DataError, match="reducer"):
            manifest_from_bytes(content, Path("manifest.json"))


def test_the_schema_knows_every_reducer():
    assert SCHEMA["properties"]["model"]["properties"]["reducer"]["properties"]["name"]["enum"] == list(REDUCERS)


@pytest.mark.parametrize(
    ("old", "new"),
    [('"opset": 18', '"opset": 18, "opset": 18'), ('"opset": 18', '"opset": 18, "choice": {"more": 1e999}')],
)
def test_a_key_twice_and_numbers_that_become_infinity_are_refused(folder, old, new):
    content = {key: value for key, value in GOOD.items() if key != "choice"}
    (folder / NAME).write_text(json.dumps(content).replace(old, new))
    with pytest.raises(DataError, match="more than once|larger than any number"):
        load_manifest(folder)
