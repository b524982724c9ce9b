"""Text from files made safe to print: a class name may hold the escape sequences that rewrite a terminal."""

import re
import shlex
from typing import Final

__all__ = ["printable", "quoted_file"]

_UNSAFE: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters except tabs and line breaks, marks of direction, and bytes of names that are not UTF-8."""


def printable(text: str) -> str:
    """The text with control characters and marks of direction shown as escapes (``\\x1b``); line breaks stay."""
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def quoted_file(name: str) -> str:
    """A file name as one word of a shell command in a page or script, also where it starts with a hyphen."""
    return shlex.quote(f"./{name}" if name.startswith("-") else name)
