"""What a real TensorRT does, one function a process: ``tensorrt_probes.py MODULE FUNCTION JSON``.

Prints one JSON object a line: {"log": [severity, message]} as TensorRT logs, then {"result": ...} or {"raised": ...}.
A function gets the module and the arguments; what a crash leaves behind is printed already.
"""

import ctypes
import importlib
import json
import sys
from pathlib import Path
from typing import Any

Given = dict[str, Any]


def say(**what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def logger(trt: Any) -> Any:
    class Log(trt.ILogger):
        def __init__(self):
            trt.ILogger.__init__(self)

        def log(self, severity, message):
            if severity not in (trt.ILogger.Severity.VERBOSE, trt.ILogger.Severity.INFO):
                say(log=[severity.name, message.strip()])

    return Log()


def kept_for_ever(value: Any) -> Any:
    """The value, never deleted: to delete a Runtime that did not start is a crash."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))
    return value


def creator_of(trt: Any, registry: Any, version: str = "1") -> Any:
    get = getattr(registry, "get_creator", None) or registry.get_plugin_creator  # 8.x has the latter only
    return get("TokenSelect", version, "tokfilter")


# --- import and registry


def imported(trt: Any, given: Given) -> Any:
    classes = ("Builder", "OnnxParser", "Refitter", "Runtime", "IPluginV3", "TensorRTPhase")
    return {"version": trt.__version__, "has": [name for name in classes if hasattr(trt, name)]}


def numpy_types(trt: Any, given: Given) -> Any:
    """``nptype`` of every data type."""
    import numpy as np

    if not hasattr(trt, "nptype"):
        return None
    found = {}
    for name, value in trt.DataType.__members__.items():
        try:
            found[name] = np.dtype(trt.nptype(value)).name
        except TypeError as error:
            found[name] = str(error)
    return found


def registry(trt: Any, given: Given) -> Any:
    """Creators that the library has by itself."""
    found = trt.get_plugin_registry()
    creators = found.all_creators if hasattr(found, "all_creators") else found.plugin_creator_list
    return sorted(f"{x.plugin_namespace}::{x.name} {x.plugin_version}" for x in creators)


# --- without a driver


def builder(trt: Any, given: Given) -> Any:
    return type(trt.Builder(logger(trt))).__name__


def runtime(trt: Any, given: Given) -> Any:
    return type(kept_for_ever(trt.Runtime(logger(trt)))).__name__


def runtime_deleted(trt: Any, given: Given) -> Any:
    made = trt.Runtime(logger(trt))
    say(made=True)
    del made
    return "deleted"


def runtime_used(trt: Any, given: Given) -> Any:
    made = kept_for_ever(trt.Runtime(logger(trt)))
    say(made=True)
    return made.deserialize_cuda_engine(b"no plan") is None


# --- tokfilter's plugin


def plugin(trt: Any, given: Given) -> Any:
    """Load, ask for the creator, its fields; load again; unload."""
    registry = trt.get_plugin_registry()
    before = creator_of(trt, registry) is not None
    handle = registry.load_library(given["plugin"])
    if handle is None:
        return {"loaded": False}
    creator = creator_of(trt, registry)
    seen = {
        "loaded": True,
        "registered before": before,
        "identity": [creator.plugin_namespace, creator.name, creator.plugin_version],
        "fields": [[field.name, field.type.name, field.size] for field in creator.field_names],
        "version 2": creator_of(trt, registry, "2") is not None,
        "loaded again": registry.load_library(given["plugin"]) is not None,
    }
    del creator
    registry.deregister_library(handle)
    return {**seen, "registered after deregister_library": creator_of(trt, registry) is not None}


def creation(trt: Any, given: Given) -> Any:
    """Whether a plugin is created, for each of the cases: {case: [[name, type, value], ...]}."""
    registry = trt.get_plugin_registry()
    registry.load_library(given["plugin"])
    return created_by(trt, creator_of(trt, registry), given["arguments"][0])


def created_by(trt: Any, creator: Any, cases: dict[str, Any]) -> dict[str, Any]:
    phase = [trt.TensorRTPhase.BUILD] if hasattr(trt, "TensorRTPhase") else []
    created: dict[str, Any] = {}
    for case, fields in cases.items():
        if not all(hasattr(trt.PluginFieldType, kind) for _, kind, _ in fields):
            created[case] = "no such type"  # INT64 in 8.6
            continue
        # A PluginField keeps the address of its data only.
        held = [(name, kind, data(kind, value)) for name, kind, value in fields]
        made = [trt.PluginField(name, x, getattr(trt.PluginFieldType, kind)) for name, kind, x in held]
        created[case] = creator.create_plugin("filter", trt.PluginFieldCollection(made), *phase) is not None
    return created


def data(kind: str, value: Any) -> Any:
    import numpy as np

    types = {"INT32": np.int32, "INT64": np.int64, "FLOAT32": np.float32}
    return value.encode() if kind == "CHAR" else np.array(value, types[kind])


def library(trt: Any, given: Given) -> Any:
    """Whether the registry takes a file as a plugin library."""
    return trt.get_plugin_registry().load_library(given["library"]) is not None


def opened(trt: Any, given: Given) -> Any:
    """dlopen of the library that registers itself, the way hosts without ``load_library`` do it."""
    ctypes.CDLL(given["library"])
    return creator_of(trt, trt.get_plugin_registry()) is not None


# --- with a driver


def write_plan(trt: Any, given: Given) -> Any:
    """A plan of one layer, for this version and this GPU."""
    builder = trt.Builder(logger(trt))
    explicit = getattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)  # 8.x and 10.x
    network = builder.create_network(0 if explicit is None else 1 << int(explicit))
    layer = network.add_activation(network.add_input("x", trt.float32, (1, 4)), trt.ActivationType.RELU)
    network.mark_output(layer.get_output(0))
    plan = builder.build_serialized_network(network, builder.create_builder_config())
    Path(given["plan"]).write_bytes(bytes(plan))
    return len(bytes(plan)) > 0


def read_plan(trt: Any, given: Given) -> Any:
    """Whether a file gives an engine."""
    runtime = trt.Runtime(logger(trt))
    return runtime.deserialize_cuda_engine(Path(given["plan"]).read_bytes()) is not None


def our_plan(trt: Any, given: Given) -> Any:
    """``engine_from_memory`` of a file."""
    from tokfilter.trt.engine import engine_from_memory

    module, content = as_tensorrt(trt), Path(given["plan"]).read_bytes()
    return failure_of(lambda: engine_from_memory(module, content))


# --- tokfilter's own code on the real module


def as_tensorrt(trt: Any) -> Any:
    """The module under the name that tokfilter imports. The lean bindings have all that loading an engine needs."""
    sys.modules["tensorrt"] = trt
    from tokfilter.trt.module import tensorrt_module

    return tensorrt_module("tensorrt")


def failure_of(call: Any) -> str:
    from tokfilter.errors import TokfilterError

    try:
        call()
    except TokfilterError as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def our_module(trt: Any, given: Given) -> Any:
    from tokfilter.trt.module import name_and_version

    return name_and_version(as_tensorrt(trt))


def our_plugins(trt: Any, given: Given) -> Any:
    """``load_plugins``: twice the plugin, then each of the files that is none, in a process without it."""
    from tokfilter.trt.plugins import load_plugins, plugin_is_registered

    module = as_tensorrt(trt)
    registry = module.get_plugin_registry()
    path = Path(given["library"])
    failures = [failure_of(lambda: load_plugins(module, registry, {str(path): path})) for _ in range(2)]
    return {"failures": failures, "registered": plugin_is_registered(module, registry)}


def our_engine(trt: Any, given: Given) -> Any:
    """``engine_from_memory``."""
    from tokfilter.trt.engine import engine_from_memory

    module = as_tensorrt(trt)
    return failure_of(lambda: engine_from_memory(module, b"no plan"))


def our_build(trt: Any, given: Given) -> Any:
    """``Network``, which makes a builder."""
    from tokfilter.trt.network import Network

    module = as_tensorrt(trt)
    return failure_of(lambda: Network(module))


def main(probes: dict[str, Any]) -> None:
    name, probe, given = sys.argv[1:]
    try:
        result = probes[probe](importlib.import_module(name), json.loads(given))
    except Exception as error:
        say(raised=f"{type(error).__name__}: {error}")
    else:
        say(result=result)


if __name__ == "__main__":
    main(globals())
