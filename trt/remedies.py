"""TensorRT's error messages and the remedy for each: one table for building a plan, one for loading it.

The C++ library has the table for loading as well (``runtime/cpp/src/version.cpp``); a test compares the two.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from tokfilter.trt.log import join_messages, repeats_cuda_failure

__all__ = [
    "BUILD_AGAIN",
    "BUILD_REMEDIES",
    "LOAD_REMEDIES",
    "REPORTED_ONLY",
    "Remedies",
    "build_failure",
    "parser_messages",
    "remedy",
]

Remedies = Sequence[tuple[tuple[str, ...], str]]
"""(words in TensorRT's message, lower case; the remedy). The first row with a word that is found applies."""

BUILD_REMEDIES: Final[Remedies] = (
    (
        ("plugin not found",),
        "TokenSelect needs the plugin library (`tokfilter plugin build`), or native ops: --no-plugin without "
        "--strip-functions. Another operator is not in this TensorRT: export with standard operators.",
    ),
    (
        ("failed to import initializer", "failed to open file"),
        "Keep the .data file beside the graph: it holds the weights.",
    ),
    (("failed to parse the onnx model",), "The file is damaged, or no ONNX model: export it again."),
    (
        ("same input types", "of the same type", "of same types", "identical types"),
        "The graph mixes types: export it with --precision, which types every node.",
    ),
    (
        ("out of memory", "outofmemory"),
        "Free GPU memory, or choose a smaller --batch or --workspace.",
    ),
    (("could not find any implementation",), "Raise --workspace, or narrow the --batch and --budget ranges."),
    (
        (" profile", "smaller than k "),
        "Give --batch and --budget as min:opt:max with min <= opt <= max within the model.",
    ),
    (
        ("driver version is insufficient", "error: 35"),
        "Install the NVIDIA driver, or update it: it is missing, or older than this TensorRT needs.",
    ),
    (("cuda initialization failure",), "Run it on a machine with an NVIDIA GPU."),
    (
        ("unsupported sm", "is not supported by this tensorrt release"),
        "This TensorRT version does not support this GPU.",
    ),
)

BUILD_AGAIN: Final = "Build it again on this machine: `tokfilter engine`."

LOAD_REMEDIES: Final[Remedies] = (
    (("plugin",), "The plan needs tokfilter's plugin: `tokfilter plugin build`, then `tokfilter engine`."),
    (
        ("magictag", "magic tag", "buffersize", "blobsize", "e.offset", "empty memory buffer"),
        f"The file is damaged, no plan, or a plan of another TensorRT. {BUILD_AGAIN}",
    ),
    (("driver version is insufficient",), "Install the NVIDIA driver, or update it: `tokfilter doctor` shows it."),
    (("version",), f"The plan is of another TensorRT version. {BUILD_AGAIN}"),
    (("outofmemory", "out of memory"), "Free device memory: other processes may hold it."),
    (("incompatible device",), f"The plan is for another GPU. {BUILD_AGAIN}"),
)

REPORTED_ONLY: Final = frozenset(
    {
        "out of memory",
        "outofmemory",
        "could not find any implementation",
        "unsupported sm",
        "is not supported by this tensorrt release",
        "magic tag",
        "incompatible device",
    }
)
"""Words that others reported of TensorRT on their GPUs, and that no library run by `make tensorrt` has printed yet.

All other words are in ``tests/trt/real/recorded``; a test holds both. The reports are there too, with their sources.
"""


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
        lines = [line.strip() for line in error.desc().splitlines() if not repeats_cuda_failure(line)]
        messages.append(f"{': '.join(line for line in lines if line).rstrip('.')}{node}")
    return messages
