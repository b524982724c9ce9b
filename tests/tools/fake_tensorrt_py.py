"""Fake Python module ``tensorrt``: sessions that run by ONNX Runtime on host memory, loading, building.

Names and signatures are those of the type stubs (tensorrt-stubs 10.13.0.35.1). Confirmed by real libraries on a CPU,
2026-11-26, recorded in tests/trt/real/recorded:

* A registry answers None for a library that it refuses and for a creator that it lacks: 8.6.0, 10.15 to 11.4 (lean).
* ``deserialize_cuda_engine`` answers None for a plan that it refuses and logs the reason as an error, after a message
  of severity INFO: TensorRT-RTX 1.7.1.
* ``Builder`` raises TypeError without a driver and logs the reason as a warning: 8.6.0.
* ``Runtime`` without a driver returns an object that crashes when it is used or deleted, and logs two errors: 10.15 to
  11.4 (lean). In 8.6.0 it ends the process.
* ``parse_from_file`` answers False, the errors have node and operator; ``build_serialized_network`` answers None:
  TensorRT-RTX 1.7.1.

Confirmed by 8.6.0 on an H100, 2026-11-27 (docs/gpu.md): contexts, profiles, enqueueing, captured graphs; a second
context of one profile ends the process unless the engine was built with PROFILE_SHARING_0806.
"""

import ctypes
import weakref
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import numpy as np
from fake_cuda import HostCuda

from tokfilter.errors import EngineError

__all__ = ["SURFACE_8_6", "FakeLogger", "FakeTensorRT", "fake_builder_module", "fake_runtime_module"]

SURFACE_8_6 = {
    "": "Builder Dims OnnxParser Runtime float16 float32 get_plugin_registry",
    "Builder": "build_serialized_network create_builder_config create_network create_optimization_profile "
    "get_plugin_registry",
    "BuilderFlag": "FP16 INT8 OBEY_PRECISION_CONSTRAINTS TF32 VERSION_COMPATIBLE",
    "DataType": "BOOL FLOAT HALF INT32 INT8 UINT8",
    "HardwareCompatibilityLevel": "AMPERE_PLUS NONE",
    "IBuilderConfig": "add_optimization_profile clear_flag create_timing_cache get_timing_cache "
    "hardware_compatibility_level plugins_to_serialize set_flag set_memory_pool_limit set_preview_feature "
    "set_tactic_sources set_timing_cache",
    "ICudaEngine": "create_engine_inspector create_execution_context get_tensor_dtype get_tensor_mode get_tensor_name "
    "get_tensor_profile_shape get_tensor_shape num_io_tensors num_optimization_profiles",
    "IExecutionContext": "execute_async_v3 get_tensor_shape set_input_shape set_optimization_profile_async "
    "set_tensor_address",
    "ILayer": "get_input get_output metadata name num_inputs num_outputs precision set_output_type type",
    "ILogger": "ERROR INTERNAL_ERROR Severity WARNING",
    "INetworkDefinition": "get_input get_layer num_inputs num_layers",
    "IOptimizationProfile": "set_shape",
    "IPluginRegistry": "get_plugin_creator load_library",
    "ITensor": "dtype name shape",
    "ITimingCache": "serialize",
    "LayerType": "CONSTANT SHUFFLE",
    "MemoryPoolType": "WORKSPACE",
    "NetworkDefinitionCreationFlag": "EXPLICIT_BATCH",
    "OnnxParser": "get_error num_errors parse parse_from_file",
    "ParserError": "desc node",
    "PreviewFeature": "PROFILE_SHARING_0806",
    "Runtime": "deserialize_cuda_engine engine_host_code_allowed get_plugin_registry",
    "TensorIOMode": "INPUT OUTPUT",
}
"""Class ("" is the module) -> names that this package uses of TensorRT 8.6; a test compares them with 8.6.0."""


class Dims(list):
    pass


class FakeContext:
    """An execution context that runs the ONNX graph of the same model on the addresses that were set."""

    def __init__(self, engine):
        self.engine, self.shapes, self.addresses, self.profile = engine, {}, {}, None
        self.seen = SimpleNamespace(profile=None, enqueued=0)  # outlives the context
        engine.contexts.add(self)

    def set_optimization_profile_async(self, index, stream):
        # An H100 with TensorRT 8.6.0 and an engine without PROFILE_SHARING_0806 ended the process here.
        others = [context for context in self.engine.contexts if context is not self and context.profile == index]
        assert self.engine.shares_profiles or not others, "two contexts of one profile"
        self.profile = self.seen.profile = index
        return True

    def set_input_shape(self, name, shape):
        low, _, high = self.engine.get_tensor_profile_shape(name, self.profile)
        self.shapes[name] = shape
        return all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True))

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def get_tensor_shape(self, name):
        batch = self.shapes["images"][0]
        first = name == self.engine.output
        return Dims([batch, self.engine.width] if first else [batch, self.shapes["slots"][0]])

    def execute_async_v3(self, stream):
        self.seen.enqueued += 1
        self.engine.fake.enqueued.append(self.seen)
        if self.engine.fake.capturing is not None:
            self.engine.fake.capturing.append(self)
            return True
        return self.compute()

    def compute(self):
        images = self._array("images", self.shapes["images"], np.float32)
        slots = np.zeros(self.shapes["slots"], np.int32)
        logits, indices = self.engine.graph.run(None, {"images": images, "slots": slots})
        self._array(self.engine.output, logits.shape, np.float32)[...] = logits
        self._array("indices", indices.shape, np.int32)[...] = indices
        return True

    def _array(self, name, shape, dtype):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        buffer = (ctypes.c_uint8 * size).from_address(self.addresses[name])
        return np.frombuffer(buffer, dtype).reshape(shape)


class FakeEngine:
    num_io_tensors = 4

    def __init__(self, fake, graph, profiles):
        first, indices = graph.get_outputs()
        self.output, self.width = first.name, first.shape[1]  # logits or embedding, [batch, width]
        self.names = ("images", "slots", self.output, indices.name)
        self.fake, self.graph, self.profiles = fake, graph, profiles
        self.num_optimization_profiles, self.configs = len(profiles), []
        self.contexts, self.shares_profiles = weakref.WeakSet(), True

    def get_tensor_name(self, i):
        return self.names[i]

    def get_tensor_shape(self, name):
        shapes = {"images": [-1, 3, 32, 32], "slots": [-1], self.output: [-1, self.width], "indices": [-1, -1]}
        return Dims(shapes[name])

    def get_tensor_mode(self, name):
        return "input" if name in ("images", "slots") else "output"

    def get_tensor_dtype(self, name):
        return SimpleNamespace(name="INT32" if name in ("slots", "indices") else "FLOAT")

    def get_tensor_profile_shape(self, name, index):
        batches, budgets = self.profiles[index]
        return [(n, 3, 32, 32) for n in batches] if name == "images" else [(n,) for n in budgets]

    def create_runtime_config(self):
        return SimpleNamespace()

    def create_execution_context(self, config=None):
        self.configs.append(config)
        return FakeContext(self)


class FakeLogger:
    """TensorRT's ILogger."""

    Severity = SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, WARNING=2)


class FakeTensorRT:
    """The module tensorrt, as far as a session uses it, and the CUDA graphs of its stream."""

    ILogger, Context, Device = FakeLogger, FakeContext, HostCuda
    TensorIOMode = SimpleNamespace(INPUT="input", OUTPUT="output")
    __name__, __version__ = "tensorrt", "10.13.3"

    def __init__(self, path, profiles):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.capturing, self.enqueued, self.graphs, self.captures, self.replayed = None, [], {}, 0, []
        self.engine = FakeEngine(self, onnxruntime.InferenceSession(str(path), options), profiles)

    def begin(self, stream):
        self.capturing = []

    def end(self, stream):
        captured, self.capturing = self.capturing, None
        if not captured:
            raise EngineError("CUDA graph capture is empty")
        self.captures += 1
        self.graphs[self.captures] = captured
        return self.captures

    def drop(self, graph):
        del self.graphs[graph]

    def launch(self, graph, stream):
        self.replayed.append(graph)
        for context in self.graphs[graph]:
            context.compute()

    def close(self):
        self.graphs.clear()


def fake_runtime_module(message, version="10.13", messages_at_start=()):
    """A module that finds no plugin at first (TensorRT logs that as an error), loads it, and then rejects the plan.

    message: the error that TensorRT logs while it deserialises
    messages_at_start: what a runtime logs that does not start; ``Runtime.deleted`` has those that were deleted
    """

    class Runtime:
        deleted: ClassVar[list[str]] = []

        def __init__(self, logger):
            self.logger = logger
            for text in messages_at_start:
                logger.log(1, text)

        def __del__(self):
            self.deleted.append(version)

        def get_plugin_registry(self):
            return self

        def get_creator(self, name, version, namespace):
            # Without a space between the two names, as TensorRT-RTX 1.7.1 prints it.
            self.logger.log(
                1,
                "IPluginRegistry::getCreator: Error Code 4: API Usage Error (Cannot find plugin: "
                f"{name}{namespace}, version: {version}, namespace:{namespace}. In getCreatorInternal at "
                "/_src/runtime/dispatch/pluginRegistry.cpp:398)",
            )

        def load_library(self, path):
            return object()

        def deserialize_cuda_engine(self, data):
            self.logger.log(1, message)
            self.logger.log(3, "a message of low severity")

    module = ModuleType("tensorrt")
    module.ILogger, module.Runtime, module.__version__ = FakeLogger, Runtime, version
    return module


def fake_builder_module(version="10.13.0", layers=()):
    """A module whose builder gives the graph's bytes as the plan; ``config`` and ``libraries`` keep what was set.

    version: 8.6 has the names of ``SURFACE_8_6`` only
    layers: of the network
    """
    module = ModuleType("tensorrt")
    is_8 = version.startswith("8.")
    libraries, config = [], FakeBuilderConfig()
    registry = SimpleNamespace(load_library=lambda path: libraries.append(path) or path)
    find = "get_plugin_creator" if is_8 else "get_creator"
    setattr(registry, find, lambda name, version, namespace: libraries[-1] if libraries else None)

    class Builder:
        def __init__(self, logger):
            pass

        def create_network(self, flags):
            tensors = [
                SimpleNamespace(name="images", shape=(-1, 3, 32, 32)),
                SimpleNamespace(name="slots", shape=(-1,)),
            ]
            module.network_flags = flags
            network = SimpleNamespace(num_inputs=2, get_input=lambda i: tensors[i], graph=None)
            network.num_layers, network.get_layer = len(layers), lambda i: layers[i]
            return network

        def get_plugin_registry(self):
            return registry

        def create_builder_config(self):
            return config

        def create_optimization_profile(self):
            return SimpleNamespace(set_shape=lambda name, *shapes: config.shapes.update({name: shapes}))

        def build_serialized_network(self, network, config):
            return network.graph

    class OnnxParser:
        num_errors = 0

        def __init__(self, network, logger):
            self.network = network

        def parse_from_file(self, path):
            self.network.graph = Path(path).read_bytes()
            return True

    module.Builder, module.OnnxParser, module.ILogger, module.Runtime = Builder, OnnxParser, FakeLogger, object
    flags = {"EXPLICIT_BATCH": 0, "EXPLICIT_PRECISION": 1} if is_8 else {"STRONGLY_TYPED": 1}
    module.NetworkDefinitionCreationFlag = SimpleNamespace(**flags)
    module.float32, module.float16 = "fp32", "fp16"
    module.LayerType = SimpleNamespace(CONSTANT="constant", SHUFFLE="shuffle")
    module.MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
    module.BuilderFlag = SimpleNamespace(
        VERSION_COMPATIBLE="version compatible",
        TF32="TF32",
        FP16="FP16",
        INT8="INT8",
        OBEY_PRECISION_CONSTRAINTS="obey",
    )
    module.PreviewFeature = SimpleNamespace(PROFILE_SHARING_0806="profile sharing")
    module.HardwareCompatibilityLevel = SimpleNamespace(__members__={"NONE": 0, "AMPERE_PLUS": 1})
    module.Dims, module.__version__, module.libraries, module.config = tuple, version, libraries, config
    return module


class FakeBuilderConfig:
    """A build configuration that rejects every timing cache but an empty one."""

    def __init__(self):
        self.shapes, self.limits, self.flags, self.profiles, self.cache = {}, {}, ["TF32"], [], None
        self.add_optimization_profile = self.profiles.append
        self.set_flag, self.clear_flag = self.flags.append, self.flags.remove
        self.tactic_sources, self.preview_features = None, {}

    def set_memory_pool_limit(self, pool, size):
        self.limits[pool] = size

    def set_tactic_sources(self, sources):
        self.tactic_sources = sources

    def set_preview_feature(self, feature, on):
        self.preview_features[feature] = on

    def create_timing_cache(self, content):
        return SimpleNamespace(content=content, serialize=lambda: b"timings")

    def set_timing_cache(self, cache, ignore_mismatch):
        accepted = cache.content == b""
        self.cache = cache if accepted else self.cache
        return accepted

    def get_timing_cache(self):
        return self.cache
