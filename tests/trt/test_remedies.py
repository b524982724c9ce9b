"""TensorRT's messages and their remedies, in Python and in the C++ library."""

import re
from types import SimpleNamespace

import pytest
from paths import ROOT

from tokfilter.trt.remedies import BUILD_AGAIN, LOAD_REMEDIES, build_failure, parser_messages


@pytest.mark.parametrize(
    ("message", "remedy"),
    [
        ("Plugin not found, are the plugin name, version, and namespace correct?", "tokfilter plugin build"),
        ("CUDA out of memory", "smaller --batch or --workspace"),
        ("Could not find any implementation for node {ForeignNode[...]}", "Raise --workspace"),
        ("Error Code 4: API Usage Error: optimization profile 0 is invalid", "min:opt:max"),
        ("CUDA initialization failure with error: 35", "Install the NVIDIA driver"),
        ("Failed to open file: model.onnx.data", r"\.data file beside the graph"),
    ],
)
def test_messages_come_with_a_remedy(message, remedy):
    text = build_failure("TensorRT cannot build model.onnx", [message, message])
    assert text.startswith(f"TensorRT cannot build model.onnx: {message.rstrip('.')}.")
    assert text.count(message) == 1
    assert re.search(remedy, text)


def test_a_parser_error_names_its_node():
    error = SimpleNamespace(desc=lambda: "Unsupported.", node_name=lambda: "blocks.0/Foo", node_operator=lambda: "Foo")
    assert parser_messages([error]) == ["Unsupported at Foo blocks.0/Foo"]
    assert build_failure("It", []) == "It: no reason given."


def test_the_cpp_library_has_the_same_table_for_loading():
    source = (ROOT / "runtime/cpp/src/version.cpp").read_text()
    (again,) = re.findall(r'constexpr auto kBuildAgain = "([^"]*)";', source)
    table = source[source.index("kRemedies{{") : source.index("}};")]
    rows = re.findall(r'\{"([^"]+)",\s*((?:"[^"]*"\s*)+)\}', table)
    found = [(word, "".join(re.findall(r'"([^"]*)"', text))) for word, text in rows]
    assert again == BUILD_AGAIN
    assert found == [(word, text) for words, text in LOAD_REMEDIES for word in words]
