"""A network on its way to an engine: parse an ONNX graph, add a profile, build."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokfilter.errors import EngineError, MissingDependencyError
from tokfilter.trt.log import error_log, logged_errors, start_failure
from tokfilter.trt.module import name_and_version
from tokfilter.trt.remedies import build_failure, parser_messages
from tokfilter.trt.versions import creation_flags, way_of

if TYPE_CHECKING:
    import tensorrt as trt

__all__ = ["Network", "Shapes"]

Shapes = Mapping[str, tuple[Sequence[int], Sequence[int], Sequence[int]]]
"""Input -> its (min, opt, max) shape."""


class Network:
    """Builder, network and build configuration.

    Precision comes from the graph's types alone, in TensorRT 8 from ``trt/layers.py``.
    Raises EngineError for a version that is not supported, MissingDependencyError where TensorRT has no GPU to build on
    (TensorRT-RTX needs none).
    """

    builder: "trt.Builder"
    definition: "trt.INetworkDefinition"
    config: "trt.IBuilderConfig"

    def __init__(self, module: Any) -> None:
        self.module, self.log, self.way = module, error_log(module), way_of(module)
        if not self.way.python:
            raise EngineError(
                f"TensorRT {module.__version__} builds with trtexec, from graphs that `tokfilter export` wrote for it: "
                "docs/tensorrt-8.md has the commands. Or install TensorRT 8.6 or 10.3 and later."
            )
        logged_errors(module)
        try:
            self.builder = module.Builder(self.log)
        except (TypeError, RuntimeError) as error:  # the binding got a null pointer, and reports no more
            reason = start_failure(module, error)
            raise MissingDependencyError(
                f"{name_and_version(module)} builds engines on the GPU that runs them, and none can be used here "
                f"({reason}). Run the same command on that machine, with an NVIDIA driver (in a container: --gpus "
                "all); --rtx builds without a GPU."
            ) from error
        self.definition = self.builder.create_network(creation_flags(module))
        self.config = self.builder.create_builder_config()

    def parse(self, graph: Path | bytes) -> None:
        """Read an ONNX file, or a serialised graph without external data. Raises EngineError."""
        parser: trt.OnnxParser = self.module.OnnxParser(self.definition, self.log)
        if isinstance(graph, Path):
            name, parsed = graph.name, parser.parse_from_file(str(graph))
        else:
            name, parsed = "the graph", parser.parse(graph)
        if not parsed:
            messages = parser_messages(parser.get_error(index) for index in range(parser.num_errors))
            raise EngineError(build_failure(f"{name_and_version(self.module)} cannot read {name}", messages))

    def add_profile(self, shapes: Shapes) -> None:
        """An optimization profile: the range of shapes that the engine serves."""
        profile = self.builder.create_optimization_profile()
        for name, sizes in shapes.items():
            low, best, high = (self.module.Dims(list(shape)) for shape in sizes)
            profile.set_shape(name, low, best, high)
        self.config.add_optimization_profile(profile)

    def build(self, name: str = "the graph") -> "trt.IHostMemory":
        """The serialised engine (plan). Raises EngineError."""
        plan = self.builder.build_serialized_network(self.definition, self.config)
        if plan is None:
            messages = list(self.log.errors)
            logged_errors(self.module)
            raise EngineError(build_failure(f"{name_and_version(self.module)} cannot build {name}", messages))
        return plan
