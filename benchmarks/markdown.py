"""Lines of Markdown tables."""

__all__ = ["line", "rule"]


def line(*cells: str) -> str:
    """One row."""
    return "| " + " | ".join(cells) + " |"


def rule(columns: int) -> str:
    """What stands under the heading."""
    return "|" + "---|" * columns
