"""A matplotlib figure as an SVG element for the inside of a page: colours by CSS variables, nothing that leaks out."""

import io
import re
from typing import Final
from xml.etree import ElementTree

from matplotlib.figure import Figure

__all__ = ["COLOURS", "svg_from_figure"]

COLOURS: Final = {
    "ink": "#010101", "muted": "#020202", "rule": "#030303",
    **{f"series-{i}": f"#0404{i:02x}" for i in range(8)},
}  # fmt: skip
"""CSS variable -> the stand-in that matplotlib draws with."""


def svg_from_figure(figure: Figure, name: str, title: str) -> str:
    """The figure as one SVG element for the inside of an HTML page.

    name: prefix of its ids, unique on the page
    title: what a screen reader says
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in root.iter():
        for child in list(parent):
            if child.tag.endswith(("metadata", "style")):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {key.rpartition("}")[2]: _themed(value, name) for key, value in element.attrib.items()}
        if element.tag == "g":  # matplotlib names its groups alike in every figure
            element.attrib.pop("id", None)
    view = root.attrib["viewBox"]
    root.attrib = {"viewBox": view, "class": "plot", "role": "img", "aria-label": title}
    return ElementTree.tostring(root, encoding="unicode")


def _themed(value: str, name: str) -> str:
    for variable, stand_in in COLOURS.items():
        value = value.replace(stand_in, f"var(--{variable})")
    value = re.sub(r"url\(#", f"url(#{name}-", value)
    if value.startswith("#"):
        return f"#{name}-{value[1:]}"
    return f"{name}-{value}" if re.fullmatch(r"[mpchi][0-9a-f]{8,}", value) else value
