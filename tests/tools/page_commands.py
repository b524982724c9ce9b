"""Commands in the blocks of a Markdown page, as a reader copies them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r"(?:^    .*\n?)+|^```(?:sh|bash|console)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_STARTS = ("tokfilter ", "pip install", "make ", "python -m ", "python3 -m ", ".venv/bin/")


@dataclass(frozen=True)
class Line:
    """One command; ``words`` without its comment; ``before``: the page up to the end of its line."""

    words: list[str]
    comment: str
    before: str

    @property
    def text(self) -> str:
        return shlex.join(self.words)


def lines_of(page: Path) -> list[Line]:
    """The commands of tokfilter, pip, make and Python modules in a page."""
    text = page.read_text(encoding="utf-8")
    return [line for block in _BLOCK.finditer(text) for line in _lines(text, block)]


def _lines(text: str, block: re.Match[str]) -> Iterator[Line]:
    for found in re.finditer(r"(?:.*\\\n)*.*", block[0]):
        code = re.sub(r"\\\n", " ", found[0]).strip()
        code = re.sub(r"^(?:[A-Z_]+=\S+ )*(?:torchrun \S+ \d+ -m tokfilter\.cli )?", "", code)
        if code.startswith(_STARTS):
            command, _, comment = re.sub(r"\s+#\s", "\0", code, count=1).partition("\0")
            for part in re.split(r"\s+&&\s+|\s+\|\s+|;\s+", command):
                if part.startswith(_STARTS):
                    yield Line(shlex.split(part), comment, text[: block.start() + found.end()])


def spans_of(page: Path) -> list[list[str]]:
    """Words of the commands of tokfilter that stand inside sentences, often without their arguments."""
    text = _BLOCK.sub("", page.read_text(encoding="utf-8"))
    return [span.split() for span in re.findall(r"`tokfilter ([a-z][^`]*)`", text)]
