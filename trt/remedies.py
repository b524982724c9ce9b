"""TensorRT's error messages and the remedy for each: one table for building a plan, one for loading it.

The C++ library has the table for loading as well (``runtime/cpp/src/version.cpp``); a test compares the two.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from tokfilter.trt.log import join_messages

__all__ = ["BUILD_AGAIN", "BUILD_REMEDIES", "LOAD_REMEDIES", "Remedies", "build_failure", "parser_messages", "remedy"]

Remedies = Sequence[tuple[tuple[str, ...], str]]
"""(words in TensorRT's message, lower case; the remedy). The first row with a word that is found applies."""

BUILD_REMEDIES: Final[Remedies] = (
    (
        ("plugin not found", "no importer", "getplugincreator", "plugin creator"),
        "Build the plugin library (`tokfilter plugin build`), or take native ops with --no-plugin and without "
        "--strip-functions.",
    ),
    (("external", "failed to open", "weights file"), "Keep the .data file beside the graph: it holds the weights."),
    (
        ("strongly typed", "mismatched type", "types of all", "must have the same type", "type mismatch"),
        "The graph mixes types: export it with --precision, which types every node.",
    ),
    (
        ("out of memory", "outofmemory", "cudaerrormemoryallocation", "insufficient memory"),
        "Free GPU memory, or choose a smaller --batch or --workspace.",
    ),
    (
        ("could not find any implementation", "no implementation"),
        "Raise --workspace, or narrow the --batch and --budget ranges.",
    ),
    (("profile", "kmin", "kmax"), "Give --batch and --budget as min:opt:max with min <= opt <= max within the model."),
    (
        ("insufficient driver", "driver version", "error 35", "error: 35"),
        "Install the NVIDIA driver, or update it: it is missing, or older than this TensorRT needs.",
    ),
    (
        ("no cuda-capable device", "error 100", "error: 100", "cuda initialization"),
        "Run it on a machine with an NVIDIA GPU.",
    ),
    (("unsupported sm", "sm version", "compute capability"), "This TensorRT version does not support this GPU."),
    (
        ("cannot open shared object", "undefined symbol", "library"),
        "Build the library for this machine: `tokfilter plugin build`.",
    ),
)

BUILD_AGAIN: Final = "Build it again on this machine: `tokfilter engine`."

LOAD_REMEDIES: Final[Remedies] = (
    (("plugin",), "The plan needs tokfilter's plugin: `tokfilter plugin build`, then `tokfilter engine`."),
    (("version",), f"The plan is of another TensorRT version. {BUILD_AGAIN}"),
    (("outofmemory", "out of memory"), "Free device memory: other processes may hold it."),
    (("incompatible device", "compute"), f"The plan is for another GPU. {BUILD_AGAIN}"),
)


def remedy(messages: str, table: Remedies, default: str = "") -> str:
    """The remedy for TensorRT's messages."""
    lower = messages.lower()
    return next((text for words, text in table if any(word in lower for word in words)), default)


def build_failure(what: str, messages: Sequence[str]) -> str:
    """An error message: ``what`` failed, the first three of TensorRT's messages, and the remedy."""
    distinct = list(dict.fromkeys(message.strip() for message in messages))
    return f"{what}: {join_messages(distinct[:3])}. {remedy(join_messages(distinct), BUILD_REMEDIES)}".strip()


def parser_messages(errors: Iterable[Any]) -> list[str]:
    """The ONNX parser's errors (``ParserError``), each with its node, which 8.6 names in the description only."""
    messages = []
    for error in errors:
        operator = error.node_operator() if hasattr(error, "node_operator") else ""
        node = f" at {operator} {error.node_name()}".rstrip() if operator else ""
        messages.append(f"{error.desc().strip().rstrip('.')}{node}")
    return messages
