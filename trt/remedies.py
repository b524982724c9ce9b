"""What TensorRT's parser and builder complain of, in words that say what to do."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

__all__ = ["sentence_from_log", "sentences_from_parser"]

_PLUGIN: Final = (
    "Build the plugin library (`tokfilter plugin build`), or take native ops with --no-plugin and without "
    "--strip-functions."
)

# Words in TensorRT's message (lower case) -> what to do. The first match counts.
_REMEDIES: Final = (
    (("plugin not found", "no importer", "getplugincreator", "plugin creator"), _PLUGIN),
    (("external", "failed to open", "weights file"), "Keep the .data file beside the graph: it holds the weights."),
    (
        ("strongly typed", "mismatched type", "types of all", "must have the same type", "type mismatch"),
        "The graph mixes types: export it with --precision, which types every node.",
    ),
    (
        ("out of memory", "outofmemory", "cudaerrormemoryallocation", "insufficient memory"),
        "Free GPU memory, or ask for less: a smaller --batch or --workspace.",
    ),
    (
        ("could not find any implementation", "no implementation"),
        "Raise --workspace, or narrow the --batch and --budget ranges.",
    ),
    (("profile", "kmin", "kmax"), "Give --batch and --budget as min:opt:max with min <= opt <= max within the model."),
    (
        ("insufficient driver", "driver version", "error 35", "error: 35"),
        "Install the NVIDIA driver, or update it: there is none, or it is older than this TensorRT.",
    ),
    (
        ("no cuda-capable device", "error 100", "error: 100", "cuda initialization"),
        "Run it on a machine with an NVIDIA GPU.",
    ),
    (("unsupported sm", "sm version", "compute capability"), "This GPU is not served by this TensorRT version."),
    (
        ("cannot open shared object", "undefined symbol", "library"),
        "Build the library for this machine: `tokfilter plugin build`.",
    ),
)


def sentences_from_parser(errors: Iterable[Any]) -> str:
    """The parser's errors (``ParserError``), each with its node, and what to do about the first."""
    told = []
    for error in errors:
        node = f" at {error.node_operator()} {error.node_name()}".rstrip() if error.node_operator() else ""
        told.append(f"{error.desc().strip().rstrip('.')}{node}")
    return _with_remedy(told)


def sentence_from_log(messages: Sequence[str], what: str) -> str:
    """``what`` failed, with the logger's errors, and what to do."""
    return f"{what}: {_with_remedy(messages)}"


def _with_remedy(messages: Sequence[str]) -> str:
    said = list(dict.fromkeys(message.strip().rstrip(".") for message in messages)) or ["no reason was given"]
    text = " / ".join(said).lower()
    remedy = next((remedy for words, remedy in _REMEDIES if any(word in text for word in words)), "")
    return f"{' / '.join(said[:3])}. {remedy}".strip()
