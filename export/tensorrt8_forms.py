"""Graphs for TensorRT 8.5 and 8.6 as files of an export, for trtexec: on JetPack 5 nothing of this package runs."""

from collections.abc import Iterable, Iterator

from tokfilter.export.forms import Form
from tokfilter.export.tensorrt8 import graph_for_tensorrt8
from tokfilter.trt.operators import ParserVersion
from tokfilter.trt.versions import WAYS

__all__ = ["forms_for_tensorrt8"]


def forms_for_tensorrt8(forms: Iterable[Form], versions: Iterable[ParserVersion]) -> Iterator[Form]:
    """Each fp32 form for each version: with the node TokenSelect for the plugin, and with native ops.

    The native form whose budget is an input is left out for 8.5, where TopK takes a constant only.
    Raises ExportError for a graph that the version does not read.
    """
    for version in versions:
        (way,) = (way for way in WAYS if way.name == version)
        for name, graph, details in forms:
            for plugin in (False, True) if details["role"] == "filtered" else (False,):
                if version == "8.5" and details["role"] == "filtered" and not plugin and "budget" not in details:
                    continue
                target = {"tensorrt": version, "plugin_interface": way.plugin if plugin else None}
                yield (
                    f"{name}{'.plugin' if plugin else ''}.trt{version.replace('.', '')}",
                    graph_for_tensorrt8(graph, plugin, version),
                    details | {"runtime": "onnx-tensorrt8", "target": target},
                )
