"""What tests of OpenVINO share: an OpenVINO that claims another CPU, and the types that it computes in."""

from contextlib import suppress

NEEDED = "OpenVINO is not installed: pip install 'tokfilter[openvino]'"


class OtherCpu:
    """The module openvino, whose CPU has these capabilities or computes in another type."""

    def __init__(self, openvino, capabilities=None, computes=None):
        self._openvino, self._capabilities, self._computes = openvino, capabilities, computes
        self.__version__ = openvino.__version__

    def __getattr__(self, name):
        return getattr(self._openvino, name)

    def Core(self):  # noqa: N802
        return _Core(self._openvino.Core(), self._capabilities, self._computes)


class _Core:
    def __init__(self, core, capabilities, computes):
        self._core, self._capabilities, self._computes = core, capabilities, computes

    def __getattr__(self, name):
        return getattr(self._core, name)

    def get_property(self, device, name):
        claimed = self._capabilities if name == "OPTIMIZATION_CAPABILITIES" else None
        return self._core.get_property(device, name) if claimed is None else claimed

    def compile_model(self, model, device, properties):
        if self._computes is not None:
            properties = {**properties, "INFERENCE_PRECISION_HINT": self._computes}
        return self._core.compile_model(model, device, properties)


def computed_types(session) -> set[str]:
    """Types in which the linear layers of an open session run, read from the graph that OpenVINO executes."""
    found = set()
    for node in session._compiled.get_runtime_model().get_ops():
        information = node.get_rt_info()
        with suppress(RuntimeError):
            if information["layerType"].astype(str) in ("FullyConnected", "Convolution"):
                found.add(information["runtimePrecision"].astype(str))
    return found
