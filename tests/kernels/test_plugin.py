"""The TensorRT plugin: fake TensorRT under sanitizers, the real registry of TensorRT-RTX, and nvcc's build.

Both plugin classes: IPluginV3 on the headers of the wheel kernel-lens (or this machine's, 10.3 and later), and
IPluginV2DynamicExt on headers of TensorRT 8.5 or 8.6, which no package ships: ``TENSORRT_INCLUDE_DIR`` names the
``include`` folder of a checkout of github.com/NVIDIA/TensorRT at v8.6.1, v8.6.0 or 8.5.3.
"""

import json
import os
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from emulated import emulated
from paths import ROOT

from tokfilter.errors import MissingDependencyError
from tokfilter.kernels.build import PluginBuild, build_plugin, find_headers, find_tool
from tokfilter.kernels.op import ATTRIBUTES, DOMAIN, NAME, VERSION
from tokfilter.kernels.reference import token_select
from tokfilter.kernels.tensorrt_headers import plugin_class, series, version_of_headers

BUILD = ROOT / "build" / "kernels-tests"

# TensorRT's numbers of its data types. FP8 is passed as bytes: rows are copied without arithmetic.
TOKEN_TYPES = {
    "IPluginV3": {0: np.float32, 1: np.float16, 7: ml_dtypes.bfloat16, 2: np.int8, 6: np.uint8},
    "IPluginV2DynamicExt": {0: np.float32, 1: np.float16},
}
SCORE_TYPES = {
    "IPluginV3": {0: np.float32, 1: np.float16, 7: ml_dtypes.bfloat16},
    "IPluginV2DynamicExt": {0: np.float32, 1: np.float16},
}
# (batch, patches, channels, k): one token, all kept, rows that no vector width divides, several blocks per image.
SIZES = [(1, 1, 1, 1), (2, 5, 3, 5), (3, 33, 7, 16), (1, 196, 48, 98), (2, 257, 5, 1), (1, 70, 64, 69)]
NVINFER = ("getPluginRegistry", "getLogger", "getInferLibVersion", "getInferLibMajorVersion")
# A statically linked libstdc++ keeps an exception pool, which a closed library leaks.
NO_POOL = {"GLIBCXX_TUNABLES": "glibcxx.eh_pool.obj_count=0"}


@pytest.fixture(scope="session", params=["IPluginV3", "IPluginV2DynamicExt"])
def headers(request: pytest.FixtureRequest) -> Path:
    named = os.environ.get("TENSORRT_INCLUDE_DIR")
    if named and plugin_class(version_of_headers(Path(named))) == request.param:
        return Path(named)
    if request.param == "IPluginV2DynamicExt":
        pytest.skip(
            "needs headers of TensorRT 8.5 or 8.6, which no package ships: git clone --depth 1 --branch v8.6.1 "
            "https://github.com/NVIDIA/TensorRT, then TENSORRT_INCLUDE_DIR=TensorRT/include"
        )
    with pytest.MonkeyPatch.context() as context:
        context.delenv("TENSORRT_INCLUDE_DIR", raising=False)
        try:
            return find_headers(fetch=True)
        except MissingDependencyError as error:
            pytest.skip(f"no TensorRT headers: {error}")


@pytest.fixture(scope="session")
def version(headers: Path) -> str:
    return version_of_headers(headers)


@pytest.fixture(scope="session")
def host(pytestconfig: pytest.Config, headers: Path, version: str) -> Path:
    """Build folder of the host programs and of the plugin over the CUDA-on-CPU layer, all under sanitizers."""
    if programs := emulated(pytestconfig, "plugin"):
        return programs
    directory = BUILD / f"host-{series(version)}"
    options = ["-DTOKFILTER_PLUGIN=OFF", "-DTOKFILTER_PLUGIN_HOST=ON", f"-DTENSORRT_INCLUDE_DIR={headers}"]
    cmake = find_tool("cmake", hint="pip install cmake")
    source, build = str(ROOT / "kernels"), str(directory)
    for command in (["-S", source, "-B", build, *options], ["--build", build, "--parallel", "2"]):
        result = subprocess.run([cmake, *command], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    return directory


@pytest.fixture(scope="session")
def walked(host: Path, version: str) -> Path:
    """The same folder, for tests of the library that a registry loads."""
    if version == "8.5":
        pytest.skip("the registry of TensorRT 8.5 loads no libraries; its self-registering library is tested")
    return host


@pytest.fixture(scope="session")
def library(headers: Path, version: str) -> PluginBuild:
    """Both libraries built by nvcc as a user does, for one architecture, from an SDK layout with the real headers."""
    try:
        return build_plugin(BUILD / f"nvcc-{series(version)}", sdk(headers, version), architectures="90")
    except MissingDependencyError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def dynamic(library: PluginBuild) -> Path:
    if library.dynamic is None:
        pytest.skip("the registry of TensorRT 8.5 loads no libraries; its self-registering library is tested")
    return library.dynamic


def sdk(headers: Path, version: str) -> Path:
    """An SDK's layout with an empty libnvinfer: enough to link, never loaded."""
    root = BUILD / f"sdk-{series(version)}"
    (root / "lib").mkdir(parents=True, exist_ok=True)
    (root / "include").unlink(missing_ok=True)
    (root / "include").symlink_to(headers)
    name = f"libnvinfer.so.{version.split('.')[0]}"
    empty = "".join(f"void {function}(void) {{}}" for function in NVINFER)
    command = ["cc", "-shared", f"-Wl,-soname,{name}", "-o", str(root / "lib" / name), "-x", "c", "-"]
    subprocess.run(command, input=empty, text=True, check=True)
    return root


def run(program: Path, *arguments: object, **environment: str) -> str:
    """Return the program's output; fail on a failed check, a leak, a double free or undefined behaviour."""
    result = subprocess.run(
        [str(program), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | NO_POOL | environment,
    )
    output = result.stdout + result.stderr
    assert result.returncode == 0, output[-6000:]
    assert re.search(r"^[1-9]\d* checks, 0 failures$", output, re.MULTILINE), output
    return output


def awkward_scores(rng: np.random.Generator, batch: int, patches: int, dtype: type) -> np.ndarray:
    """Many ties, both zeros, both infinities and NaNs of both signs among normal scores."""
    scores = rng.integers(-3, 4, (batch, patches)).astype(np.float32)
    special = np.array([np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-7], np.float32)
    where = rng.random((batch, patches)) < 0.3
    scores[where] = rng.choice(special, where.sum())
    return scores.astype(dtype)


def case_file(path: Path, interface: str) -> int:
    """Write groups of calls with the reference's results (see plugin_host_cases.cpp); return the number of calls."""
    rng = np.random.default_rng(11)
    token_types, score_types = TOKEN_TYPES[interface], SCORE_TYPES[interface]
    groups = list(product(token_types, score_types, ("position", "score"), (False, True)))
    parts: list[bytes] = [np.int64(len(groups)).tobytes()]
    calls = 0
    for number, (token_type, score_type, order, slots) in enumerate(groups):
        prefix = (0, 1, 5)[number % 3]
        batch, patches, channels, fixed_k = SIZES[number % len(SIZES)]
        shapes = [(batch, patches, channels), (batch + 1, patches + 9, channels + 1), (1, fixed_k, channels)]
        header = [0 if slots else fixed_k, prefix, int(order == "score"), token_type, score_type, len(shapes)]
        parts.append(np.array(header, np.int64).tobytes())
        for call, (b, n, c) in enumerate(shapes):
            k = int(rng.integers(1, n + 1)) if slots else fixed_k
            tokens = rng.integers(0, 256, (b, prefix + n, c, np.dtype(token_types[token_type]).itemsize), np.uint8)
            tokens = tokens.view(f"V{tokens.shape[-1]}")[..., 0]
            scores = awkward_scores(rng, b, n, score_types[score_type])
            selected, indices = token_select(tokens, scores, k, prefix, order)
            parts.append(np.array([b, n, c, k, call != 1], np.int64).tobytes())
            parts += [array.tobytes() for array in (tokens, scores, selected, indices)]
            calls += 1
    path.write_bytes(b"".join(parts))
    return calls


def test_every_function_of_a_plugin(walked: Path) -> None:
    run(walked / "plugin_host", walked / "libtokfilter_plugin_cpu.so", "checks")


def test_enqueue_equals_the_reference(walked: Path, version: str, tmp_path: Path) -> None:
    calls = case_file(tmp_path / "cases", plugin_class(version))
    assert calls >= 48
    assert f"{calls} calls" in run(
        walked / "plugin_host", walked / "libtokfilter_plugin_cpu.so", "cases", tmp_path / "cases"
    )


def test_out_of_memory_is_an_error_status(walked: Path) -> None:
    run(walked / "plugin_host_memory", walked / "libtokfilter_plugin_cpu.so")


def test_logger_finder_of_another_major_version_is_not_called(walked: Path) -> None:
    arguments = (walked / "libtokfilter_plugin_cpu.so", "other-finder", walked / "libother_tensorrt.so.1")
    run(walked / "plugin_host", *arguments)


def test_self_registering_library_in_a_fake_libnvinfer(host: Path) -> None:
    run(host / "plugin_host_registry", host / "libtokfilter_plugin_static_cpu.so")


def test_the_build_says_which_class_it_has(library: PluginBuild, version: str) -> None:
    assert (library.version, library.interface) == (version, plugin_class(version))
    assert (library.dynamic is None) == (version == "8.5")


def test_the_library_built_by_nvcc_passes_the_same_checks(walked: Path, dynamic: Path) -> None:
    run(walked / "plugin_host", dynamic, "checks")


def test_launch_without_a_gpu_is_a_status_and_a_log_message(walked: Path, dynamic: Path) -> None:
    run(walked / "plugin_host", dynamic, "launch-error", CUDA_VISIBLE_DEVICES="")


def symbols(library: Path, option: str) -> list[str]:
    """Names of the dynamic symbols, without weak ones."""
    nm = find_tool("nm", hint="apt install binutils")
    output = subprocess.run([nm, "-D", option, str(library)], capture_output=True, text=True, check=True).stdout
    kinds_and_names = [line.split()[-2:] for line in output.splitlines()]
    return [name for kind, name in kinds_and_names if kind not in ("w", "v")]


def foreign_imports(library: Path) -> set[str]:
    """Undefined symbols of a library beyond the C and C++ runtimes (whose symbols have a version suffix)."""
    runtime = re.compile(r"@(GLIBC|GLIBCXX|CXXABI|GCC)_[\d.]+$")
    return {name for name in symbols(library, "--undefined-only") if not runtime.search(name)}


def test_library_for_the_registry_exports_its_entry_points_and_needs_no_tensorrt(dynamic: Path) -> None:
    # One of the two getters is for the other plugin interface: it returns no creator and says why.
    assert sorted(symbols(dynamic, "--defined-only")) == ["getCreators", "getPluginCreators", "setLoggerFinder"]
    assert foreign_imports(dynamic) == set()


def test_self_registering_library_exports_nothing(library: PluginBuild, version: str) -> None:
    assert library.self_registering is not None
    assert symbols(library.self_registering, "--defined-only") == []
    needed = {"getPluginRegistry", "getLogger", "getInferLibVersion"}
    if plugin_class(version) == "IPluginV3":
        needed.add("getInferLibMajorVersion")
    assert foreign_imports(library.self_registering) == needed


REGISTRY = """
import json, sys
import tensorrt_rtx as trt
registry = trt.get_plugin_registry()
handle = registry.load_library(sys.argv[1])
creator = registry.get_creator("TokenSelect", "1", "tokfilter")
defaults = {}
for field in creator.field_names:
    text = field.type == trt.PluginFieldType.CHAR
    defaults[field.name] = bytes(field.data.astype("uint8")).decode() if text else int(field.data[0])
plugin = creator.create_plugin("filter", creator.field_names, trt.TensorRTPhase.BUILD)
build = plugin.get_capability_interface(trt.PluginCapabilityType.BUILD)
wrong = trt.PluginFieldCollection([trt.PluginField("order", b"random", trt.PluginFieldType.CHAR)])
print(json.dumps({
    "identity": [creator.plugin_namespace, creator.name, creator.plugin_version],
    "defaults": list(defaults.items()),
    "timing_cache_id": build.timing_cache_id,
    "outputs": build.num_outputs,
    "unnamed": registry.get_creator("TokenSelect", "1", "") is not None,
    "wrong": creator.create_plugin("filter", wrong, trt.TensorRTPhase.BUILD) is not None,
}))
del build, plugin, creator
registry.deregister_library(handle)
assert registry.get_creator("TokenSelect", "1", "tokfilter") is None
"""


def test_registry_of_tensorrt_rtx(dynamic: Path, version: str) -> None:
    if plugin_class(version) != "IPluginV3":
        pytest.skip("TensorRT-RTX loads plugins of IPluginV3; the other class: test_real_tensorrt_8.py")
    pytest.importorskip("tensorrt_rtx", reason="needs the wheel tensorrt-rtx-cu13, whose registry loads the library")
    result = subprocess.run([sys.executable, "-c", REGISTRY, str(dynamic)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-4000:]
    seen = json.loads(result.stdout)
    assert seen["identity"] == [DOMAIN, NAME, VERSION]
    assert [tuple(item) for item in seen["defaults"]] == list(ATTRIBUTES.items())
    assert seen["timing_cache_id"] == ";".join(f"{name}={value}" for name, value in ATTRIBUTES.items())
    assert (seen["outputs"], seen["unnamed"], seen["wrong"]) == (2, False, False)
    assert 'tokfilter::TokenSelect "filter": attribute order expects' in result.stderr
