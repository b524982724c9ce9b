"""A matplotlib figure as an SVG element inside an HTML page: CSS variables for colours, unique ids, no own styles."""

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
"""CSS variable -> placeholder colour in matplotlib."""


def svg_from_figure(figure: Figure, name: str, title: str) -> str:
    """The figure as one SVG element inside an HTML page.

    name: prefix of its ids, unique on the page
    title: text for screen readers
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
        if element.tag == "g":  # matplotlib uses the same group ids in every figure
            element.attrib.pop("id", None)
    view = root.attrib["viewBox"]
    root.attrib = {"viewBox": view, "class": "plot", "role": "img", "aria-label": title}
    return ElementTree.tostring(root, encoding="unicode")


def _themed(value: str, name: str) -> str:
    for variable, placeholder in COLOURS.items():
        value = value.replace(placeholder, f"var(--{variable})")
    value = re.sub(r"url\(#", f"url(#{name}-", value)
    if value.startswith("#"):
        return f"#{name}-{value[1:]}"
    return f"{name}-{value}" if re.fullmatch(r"[mpchi][0-9a-f]{8,}", value) else value
