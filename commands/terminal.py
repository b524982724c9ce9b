"""The terminal that commands print to: texts from files are printed without their control characters."""

from typing import Any

from rich.console import Console
from rich.text import Text

from tokfilter.artifacts.text import printable

__all__ = ["Terminal"]


class Terminal(Console):
    """rich's console, for every text that is not a ``Text``: what is printed, and what cells of tables hold."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """The text with control characters shown as escapes."""
        return super().render_str(printable(text), **options)
