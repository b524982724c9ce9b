"""What a plugin library does in the real registry of TensorRT 8.6. Run by that Python; imports nothing of tokfilter.

    python3.10 plugin_in_tensorrt_8.py load|dlopen LIBRARY

Prints one JSON object. tests/kernels/test_real_tensorrt_8.py runs and checks it.
"""

import ctypes
import json
import os
import sys
from typing import Any

__all__ = ["RIGHT", "main"]

VERSION = b"\1\0\0\0"
RIGHT = VERSION + b"\x62\0\0\0" + b"\5\0\0\0" + b"\1\0\0\0"  # k 98, prefix_tokens 5, order score
WRONG_BYTES = {
    "none": b"",
    "one byte less": RIGHT[:-1],
    "one byte more": RIGHT + b"\0",
    "another format": b"\2\0\0\0" + RIGHT[4:],
    "k below 0": VERSION + b"\xff" * 4 + RIGHT[8:],
    "prefix_tokens below 0": RIGHT[:8] + b"\0\0\0\x80" + RIGHT[12:],
    "order 2": RIGHT[:12] + b"\2\0\0\0",
}


def main(command: str, library: str) -> dict[str, Any]:
    import numpy as np
    import tensorrt as trt  # the 8.6 of the folder

    registry = trt.get_plugin_registry()
    seen: dict[str, Any] = {"tensorrt": trt.__version__}
    if command == "dlopen":  # as trtexec --plugins, Triton and DeepStream do
        ctypes.CDLL(library)
    else:
        seen["loaded"] = registry.load_library(library) is not None
    creator = registry.get_plugin_creator("TokenSelect", "1", "tokfilter")
    seen["found"] = creator is not None
    if creator is None:
        return seen
    seen["unnamed"] = registry.get_plugin_creator("TokenSelect", "1", "") is not None
    seen["identity"] = [creator.plugin_namespace, creator.name, creator.plugin_version]
    kinds = trt.PluginFieldType
    seen["fields"] = [[field.name, str(field.type).rpartition(".")[2], field.size] for field in creator.field_names]

    kept = []  # PluginField of 8.6 keeps a pointer into the array and no reference

    def number(name: str, value: int) -> Any:
        kept.append(np.array([value], np.int32))
        return trt.PluginField(name, kept[-1], kinds.INT32)

    def string(name: str, value: bytes) -> Any:
        kept.append(value)
        return trt.PluginField(name, value, kinds.CHAR)

    def create(*fields: Any) -> Any:
        return creator.create_plugin("filter", trt.PluginFieldCollection(list(fields)))

    plugins = {
        "defaults": create(),
        "creator's own": creator.create_plugin("filter", creator.field_names),
        "fixed": create(number("k", 98)),
        "all": create(string("order", b"score"), number("prefix_tokens", 5), number("k", 98)),
    }
    seen["bytes"] = {name: bytes(plugin.serialize()).hex() for name, plugin in plugins.items()}
    plugin = plugins["all"]
    seen["plugin"] = [plugin.plugin_namespace, plugin.plugin_type, plugin.plugin_version, plugin.num_outputs]
    again = creator.deserialize_plugin("engine", RIGHT)
    seen["read again"] = bytes(again.serialize()).hex()
    seen["clone"] = bytes(again.clone().serialize()).hex()
    seen["created in spite of"] = [
        name
        for name, field in {
            "k": number("k", -98),
            "order": string("order", b"random"),
            "type": string("k", b"98"),
            "name": number("keep", 98),
        }.items()
        if create(field) is not None
    ]
    seen["read in spite of"] = [
        name for name, data in WRONG_BYTES.items() if creator.deserialize_plugin("engine", data) is not None
    ]
    return seen


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(*sys.argv[1:])))
    sys.stdout.flush()
    os._exit(0)  # without a driver, the end of the process is not what is tested
