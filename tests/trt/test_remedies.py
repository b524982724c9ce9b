"""TensorRT's messages, as real libraries print them, and their remedies, in Python and in the C++ library."""

import re

import pytest
from paths import ROOT
from tensorrt_records import every_line, logged, parser_errors, reported

from tokfilter.trt.remedies import (
    BUILD_AGAIN,
    BUILD_REMEDIES,
    LOAD_REMEDIES,
    REPORTED_ONLY,
    build_failure,
    parser_messages,
    remedy,
)

WORDS = {word for table in (BUILD_REMEDIES, LOAD_REMEDIES) for words, _ in table for word in words}
TYPES = "export it with --precision"
RANGES = "min <= opt <= max within the model"
DAMAGED = "The file is damaged, no plan"


@pytest.mark.parametrize(
    ("probe", "expected"),
    [
        ("an unknown operator", "Another operator is not in this TensorRT"),
        ("TokenSelect without the function", "tokfilter plugin build"),
        ("no weights", "Keep the .data file beside the graph"),
        ("weights that are too short", "Keep the .data file beside the graph"),
        ("no graph", "no ONNX model"),
        ("mixed types, Add", TYPES),
        ("mixed types, MatMul", TYPES),
        ("mixed types, Concat", TYPES),
        ("mixed types, Where", TYPES),
        ("mixed types, LayerNormalization", TYPES),
    ],
)
def test_what_the_real_parser_prints_has_a_remedy(probe, expected):
    messages = parser_messages(parser_errors(f"parse, {probe}"))
    text = build_failure("TensorRT cannot read model.onnx", messages)
    assert expected in text
    assert "\n" not in text and "cudaError" not in text


@pytest.mark.parametrize(
    ("library", "probe", "expected"),
    [
        ("rtx", "build, no profile", RANGES),
        ("rtx", "build, min above opt", RANGES),
        ("rtx", "build, min above max", RANGES),
        ("rtx", "build, a profile of another rank", RANGES),
        ("rtx", "build, a profile outside the model", RANGES),
        ("rtx", "build, top k of too few", RANGES),
        ("rtx", "build, a shape that does not divide", RANGES),
        ("rtx", "build, for this machine", "Install the NVIDIA driver"),
        ("10.15.1.29", "Runtime", "Install the NVIDIA driver"),
        ("11.4.0.106", "Runtime", "Install the NVIDIA driver"),
    ],
)
def test_what_the_real_builder_prints_has_a_remedy(library, probe, expected):
    messages = logged(library, probe)
    assert expected in build_failure("TensorRT cannot build model.onnx", [*messages, *messages])


@pytest.mark.parametrize(
    ("probe", "expected"),
    [
        ("empty", DAMAGED),
        ("garbage", DAMAGED),
        ("much garbage", DAMAGED),
        ("the first 8 bytes", DAMAGED),
        ("the first 100 bytes", DAMAGED),
        ("cut in the middle", DAMAGED),
        ("another magic number", DAMAGED),
        ("another offset", DAMAGED),
        ("another size", DAMAGED),
        ("intact, without a driver", "Install the NVIDIA driver"),
    ],
)
def test_what_a_real_runtime_prints_of_a_plan_has_a_remedy(probe, expected):
    assert expected in remedy(logged("rtx", f"plan, {probe}")[0], LOAD_REMEDIES)


def test_a_plugin_that_the_registry_lacks_has_a_remedy():
    (asked,) = [line for line in logged("rtx", "load_library, missing") if "getCreator:" in line]
    assert "needs tokfilter's plugin" in remedy(asked, LOAD_REMEDIES)


@pytest.mark.parametrize(
    ("index", "expected"),
    list(
        enumerate(
            [
                "for another GPU",
                "of another TensorRT version",
                "of another TensorRT version",
                DAMAGED,
                DAMAGED,
                "needs tokfilter's plugin",
                "Free device memory",
                "Free device memory",
            ]
        )
    ),
)
def test_what_others_reported_of_plans_has_a_remedy(index, expected):
    assert expected in remedy(reported()[index]["line"], LOAD_REMEDIES, BUILD_AGAIN)


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (6, "smaller --batch or --workspace"),
        (7, "smaller --batch or --workspace"),
        (8, "Raise --workspace"),
        (9, "does not support this GPU"),
        (10, "does not support this GPU"),
    ],
)
def test_what_others_reported_of_builds_has_a_remedy(index, expected):
    line = reported()[index]["line"]
    text = build_failure("TensorRT cannot build model.onnx", [line, line])
    assert text.startswith(f"TensorRT cannot build model.onnx: {line.rstrip('.')}. ")
    assert text.count(line) == 1 and expected in text


def test_words_that_no_real_library_printed_here_are_marked():
    printed = every_line().lower()
    assert {word for word in WORDS if word not in printed} == REPORTED_ONLY


def test_marked_words_have_a_source():
    lines = "\n".join(report["line"] for report in reported()).lower()
    assert {word for word in REPORTED_ONLY if word not in lines} == set()
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+#\d+", report["source"]) and report["version"] for report in reported())


def test_a_parser_error_names_its_node_without_what_repeats():
    (error,) = parser_errors("parse, mixed types, Add")
    (message,) = parser_messages([error])
    assert message.startswith("Invalid Node - node_of_y: ITensor::getDimensions: Error Code 4: API Usage Error (")
    assert message.endswith("at Add")
    assert build_failure("It", []) == "It: no reason given."


def test_the_cpp_library_has_the_same_table_for_loading():
    source = (ROOT / "runtime/cpp/src/version.cpp").read_text()
    strings = r'((?:"[^"]*"\s*)+)'
    constants = {name: joined(text) for name, text in re.findall(rf"constexpr auto (\w+) =\s*{strings};", source)}
    table = source[source.index("kRemedies{{") : source.index("}};")]
    rows = re.findall(rf'\{{"([^"]+)",\s*(?:{strings}|(\w+))\}}', table)
    found = [(word, joined(text) if text else constants[name]) for word, text, name in rows]
    assert constants["kBuildAgain"] == BUILD_AGAIN
    assert found == [(word, text) for words, text in LOAD_REMEDIES for word in words]


def test_the_lines_in_the_test_of_the_cpp_library_are_real():
    source = (ROOT / "tests/runtime/cpp/native/test_version.cpp").read_text()
    parts = re.findall(r'helps\("([^"]+)"', source)
    printed = every_line() + "\n".join(report["line"] for report in reported())
    assert len(parts) >= len(LOAD_REMEDIES) and [part for part in parts if part not in printed] == []


def joined(literals):
    return "".join(re.findall(r'"([^"]*)"', literals))
