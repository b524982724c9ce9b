"""The type of a graph that an export writes, on its way to a file."""

from typing import Any

import onnx_ir as ir

__all__ = ["Form"]

Form = tuple[str, ir.Model, dict[str, Any]]
"""Name, graph, and what the manifest says of it."""
