"""The probes of a real TensorRT library, with their arguments: what is recorded, and compared by the tests."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from functools import cache, partial
from pathlib import Path
from typing import Any

from paths import ROOT
from tensorrt_libraries import FOLDER, LIBRARIES, RTX, Library, link, run_probe

from tokfilter.errors import MissingDependencyError
from tokfilter.kernels.build import PluginBuild, build_plugin
from tokfilter.kernels.tensorrt_headers import fetch_headers, series, version_of_headers
from tokfilter.trt.gpus import driver_version, gpus

CREATIONS: dict[str, list[list[Any]]] = {
    "no attributes": [],
    "k 37": [["k", "INT32", [37]]],
    "k 37 as INT64": [["k", "INT64", [37]]],
    "all three": [["k", "INT32", [98]], ["prefix_tokens", "INT32", [5]], ["order", "CHAR", "score"]],
    "k -1": [["k", "INT32", [-1]]],
    "k 2**40": [["k", "INT64", [2**40]]],
    "k of two values": [["k", "INT32", [1, 2]]],
    "k as a float": [["k", "FLOAT32", [0.5]]],
    "prefix_tokens -1": [["prefix_tokens", "INT32", [-1]]],
    "prefix_tokens as text": [["prefix_tokens", "CHAR", "1"]],
    "order random": [["order", "CHAR", "random"]],
    "order as a number": [["order", "INT32", [1]]],
    "an unknown attribute": [["keep", "INT32", [3]]],
}
"""Name of the case -> attributes (name, type, value). From "k -1" on they are refused."""

FILES = FOLDER / "files"
"""Files that are no plugin, graphs and weights: written by the probes."""

Case = Callable[[], dict[str, Any]]


@cache
def plugin_for(library: Library) -> PluginBuild | None:
    """tokfilter's plugin for the library; None where nvcc, CMake or the headers are missing."""
    try:
        return _built_plugin(library)
    except MissingDependencyError:
        return None


def _built_plugin(library: Library) -> PluginBuild | None:
    """Built as a user does, for one architecture.

    From 10 on with the headers of 10.14, which a wheel has, its self-registering form linked with an empty
    libnvinfer.so.10, which is not loaded. For 8.x with the headers that TENSORRT_INCLUDE_DIR names; None where it names
    none of that version.
    """
    if library.lean or library.module == "tensorrt_rtx":
        sdk = FOLDER / "sdk"
        (sdk / "lib").mkdir(parents=True, exist_ok=True)
        link(sdk / "include", fetch_headers())
        names = ("getPluginRegistry", "getLogger", "getInferLibMajorVersion", "getInferLibVersion")
        command = ["cc", "-shared", "-Wl,-soname,libnvinfer.so.10", "-o", str(sdk / "lib" / "libnvinfer.so.10")]
        empty = "".join(f"void {name}(void) {{}}\n" for name in names)
        subprocess.run([*command, "-x", "c", "-"], input=empty, text=True, check=True)
        return build_plugin(FOLDER / "plugin", sdk, architectures="90")
    named = os.environ.get("TENSORRT_INCLUDE_DIR")
    if not named or series(version_of_headers(Path(named))) != series(library.version):
        return None
    folder, options = FOLDER / f"plugin-{library.version}", [f"-DTENSORRT_LIBRARY_DIR={library.folder / 'lib'}"]
    return build_plugin(folder, Path(named), architectures="90", options=options)


def as_nvinfer_10(library: Library) -> Path:
    """A folder in which libnvinfer.so.10, which the self-registering plugin links, is this library of any version.

    A lean runtime has the three functions of libnvinfer that the plugin calls.
    """
    folder = FOLDER / f"as-nvinfer-10-{library.version}"
    folder.mkdir(exist_ok=True)
    (real,) = library.folder.glob("*_libs/libnvinfer_lean.so.*")
    link(folder / "libnvinfer.so.10", real)
    return folder


def files_that_are_no_plugin() -> dict[str, Path]:
    """A file that does not exist, one that is no library, and a library without entry points."""
    FILES.mkdir(parents=True, exist_ok=True)
    text = FILES / "text.so"
    text.write_text("no shared object")
    bare = FILES / "bare.so"
    if not bare.is_file():
        subprocess.run(["cc", "-shared", "-x", "c", "-", "-o", bare], input="int nothing;", text=True, check=True)
    return {"missing": FILES / "missing.so", "no library": text, "no entry points": bare}


def cases(library: Library) -> dict[str, Case]:
    """Probes without a GPU, by the name under which they are recorded; without those whose plugin cannot be built."""
    plugin, other = plugin_for(library), plugin_for(LIBRARIES[-1] if library is LIBRARIES[0] else LIBRARIES[0])
    run = partial(partial, run_probe, library)
    found: dict[str, Case] = {
        "import": run("imported"),
        "nptype": run("numpy_types"),
        "registry": run("registry"),
        "Runtime": run("runtime"),
        "Runtime, deleted": run("runtime_deleted"),
        "Runtime, used": run("runtime_used"),
        "our module": run("our_module"),
        "our engine": run("our_engine"),
    }
    for name, path in files_that_are_no_plugin().items():
        found[f"load_library, {name}"] = run("library", library=path)
        found[f"our plugins, {name}"] = run("our_plugins", library=path)
    if not library.lean:
        found |= {"Builder": run("builder"), "our build": run("our_build")}
    if other is not None and other.dynamic is not None:
        found["our plugins, for another major version"] = run("our_plugins", library=other.dynamic)
    if plugin is not None and plugin.dynamic is not None:
        found["plugin"] = run("plugin", plugin=plugin.dynamic)
        found["creation"] = run("creation", CREATIONS, plugin=plugin.dynamic)
        found["our plugins"] = run("our_plugins", library=plugin.dynamic)
    if plugin is not None and plugin.self_registering is not None:
        search = as_nvinfer_10(library) if library.lean else library.folder / "lib"
        found["self-registering"] = run("opened", search=search, library=plugin.self_registering)
    return found


RTX_GRAPHS: dict[str, str] = {
    "an unknown operator": "g (float[N,4] x) => (float[N,4] y) { y = acme.Frobnicate(x) }",
    "TokenSelect without the function": "g (float[N,5,8] x, float[N,4] s) => (float[N,3,8] y) { y, i = tokfilter."
    'TokenSelect<k=2, prefix_tokens=1, order="position", plugin_version="1", plugin_namespace="tokfilter">(x, s) }',
    "an operator without an importer": "g (float[N,4] x) => (float[N,4] y) { y = Optional(x) }",
    "mixed types, Add": "g (float[N,4] x, float16[N,4] z) => (float[N,4] y) { y = Add(x, z) }",
    "mixed types, MatMul": "g (float[N,4] x, float16[4,4] z) => (float[N,4] y) { y = MatMul(x, z) }",
    "mixed types, Concat": "g (float[N,4] x, float16[N,4] z) => (float[N,8] y) { y = Concat<axis=1>(x, z) }",
    "mixed types, Where": "g (float[N,4] x, float16[N,4] z, bool[N,4] c) => (float[N,4] y) { y = Where(c, x, z) }",
    "mixed types, LayerNormalization": "g (float[N,4] x, float16[4] z) => (float[N,4] y)"
    "{ y = LayerNormalization(x, z) }",
    "a tensor that nobody makes": "g (float[N,4] x) => (float[N,4] y) { y = Add(x, nothing) }",
}
"""Graphs that the parser refuses."""

_RELU = "g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }"
_TOP_NINE = "g (float[N,4] x) => (float[N,9] y) <int64[1] k = {9}> { y, i = TopK(x, k) }"
_NINE = "g (float[N,4] x) => (float[N,9] y) <int64[2] k = {-1, 9}> { y = Reshape(x, k) }"
_GOOD = [[1, 4], [2, 4], [3, 4]]
BUILDS: dict[str, tuple[str, list[list[int]] | None]] = {
    "no profile": (_RELU, None),
    "min above opt": (_RELU, [[2, 4], [1, 4], [3, 4]]),
    "min above max": (_RELU, [[4, 4], [2, 4], [1, 4]]),
    "a profile of another rank": (_RELU, [[1], [2], [3]]),
    "a profile outside the model": (_RELU, [[1, 5], [2, 5], [3, 5]]),
    "a negative profile": (_RELU, [[-1, 4], [1, 4], [2, 4]]),
    "top k of too few": (_TOP_NINE, _GOOD),
    "a shape that does not divide": (_NINE, _GOOD),
}
"""Graph and profile (min, opt, max) that the builder refuses."""

PLANS: dict[str, tuple[str, int]] = {
    "empty": ("first", 0),
    "garbage": ("garbage", 1),
    "much garbage": ("garbage", 1000),
    "the first 8 bytes": ("first", 8),
    "the first 100 bytes": ("first", 100),
    "cut in the middle": ("first", 70_000),
    "another magic number": ("changed", 0),
    "another offset": ("changed", 8),
    "another size": ("changed", 16),
    "intact, without a driver": ("first", 10**9),
}


def rtx_cases() -> dict[str, Case]:
    """Probes of TensorRT-RTX."""
    run, plugin = partial(partial, run_probe, RTX), plugin_for(RTX)
    FILES.mkdir(parents=True, exist_ok=True)
    found: dict[str, Case] = {
        "import": run("imported"),
        "registry": run("registry"),
        "compute capabilities": run("capabilities"),
        "parse, no graph": run("parse_bytes"),
        "parse, no weights": run("parse_file", 0, folder=FILES),
        "parse, weights that are too short": run("parse_file", 8, folder=FILES),
        "build, for no compute capability": run("build_for", "NONE", 1),
        "build, for one of two compute capabilities": run("build_for", "SM89", 2),
        "build, for this machine": run("build_for", "CURRENT", 1),
    }
    found |= {f"parse, {name}": run("parse", text) for name, text in RTX_GRAPHS.items()}
    found |= {f"build, {name}": run("build", *arguments) for name, arguments in BUILDS.items()}
    found |= {f"plan, {name}": run("deserialize", *arguments) for name, arguments in PLANS.items()}
    found |= {
        f"load_library, {name}": run("load_library", library=path) for name, path in files_that_are_no_plugin().items()
    }
    if plugin is not None and plugin.dynamic is not None:
        found["creation"] = run("creation", CREATIONS, plugin=plugin.dynamic)
    return found


def plan_cases(library: Library) -> dict[str, Case]:
    """Probes of TensorRT that need a driver: plans that it has to refuse, and a refused one through tokfilter."""
    FILES.mkdir(parents=True, exist_ok=True)
    plans = {
        name: FILES / f"{name}.plan" for name in ("empty", "garbage", "of TensorRT-RTX", "of 8.6.0, cut", "of 8.6.0")
    }
    plans["empty"].write_bytes(b"")
    plans["garbage"].write_bytes(b"no plan" * 1000)
    run_probe(RTX, "write_plan", plan=plans["of TensorRT-RTX"])
    if LIBRARIES[0].installed and run_probe(LIBRARIES[0], "write_plan", plan=plans["of 8.6.0"]).get("result"):
        plans["of 8.6.0, cut"].write_bytes(plans["of 8.6.0"].read_bytes()[:-100])
    found: dict[str, Case] = {"import": partial(run_probe, library, "imported")}
    for name, path in plans.items():
        if path.is_file() and not (library is LIBRARIES[0] and name == "of 8.6.0"):
            found[f"plan, {name}"] = partial(run_probe, library, "read_plan", plan=path)
            found[f"our plan, {name}"] = partial(run_probe, library, "our_plan", plan=path)
    return found


def record(library: Library) -> None:
    """Run every probe on a library, and write what it did; with a driver those of plans, in a file of its own."""
    driver = driver_version()
    path, without_driver = library.record, rtx_cases if library is RTX else partial(cases, library)
    probes = without_driver() if driver is None else plan_cases(library)
    if driver is not None:
        path = path.with_stem(f"{path.stem}-gpu")
    seen = {name: run() for name, run in probes.items()}
    imported = seen["import"]["result"]
    content = {
        "library": {"version": imported["version"], "module": library.module, "packages": list(library.packages)},
        "command": f"python tests/tools/real_tensorrt.py record {library.version}",
        "date": date.today().isoformat(),
        "machine": "x86-64, no NVIDIA driver" if driver is None else f"{gpus()[0].name}, driver {driver}",
        "python": library.python or ".".join(map(str, sys.version_info[:2])),
        "seen": seen,
    }
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    sys.stdout.write(f"{path.relative_to(ROOT)}: {len(seen)} probes\n")
