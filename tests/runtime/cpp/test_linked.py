"""runtime/cpp linked to the real TensorRT-RTX and CUDA runtime: error messages, installation, results on a GPU."""

import ctypes
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from paths import ROOT

import tokfilter
from tokfilter.artifacts.manifest import NAME
from tokfilter.benchmarks.gpu_proof.library_worker import Options, call_of
from tokfilter.errors import MissingDependencyError
from tokfilter.kernels.build import find_tool

CONSUMER = ROOT / "tests" / "runtime" / "cpp" / "native" / "consumer"
Run = Callable[..., subprocess.CompletedProcess[str]]


def tokfilter_library(folder: Path) -> ctypes.CDLL:
    """The library through ctypes."""
    library = ctypes.CDLL(str(folder / "libtokfilter.so"))
    library.tokfilter_version.restype = library.tokfilter_last_error.restype = ctypes.c_char_p
    return library


def no_gpu(text: str) -> bool:
    """Whether the text reports a missing driver or, with a driver, no visible GPU."""
    return re.search(r"no NVIDIA (driver|GPU): ", text) is not None


def test_a_real_engine_stops_at_the_missing_gpu(
    linked: Path, exported: Path, run: Run, png: Callable[[int], bytes], tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(png(255))
    for role in ("filtered", "full"):
        result = run(
            linked / "examples" / "tokfilter_classify",
            exported,
            tmp_path / "a.png",
            "--role",
            role,
            CUDA_VISIBLE_DEVICES="",
        )
        assert result.returncode == 1 and no_gpu(result.stderr), result.stderr
    served = run(linked / "examples" / "tokfilter_serve", exported, "--port", "0", CUDA_VISIBLE_DEVICES="")
    assert served.returncode == 1 and no_gpu(served.stderr)


def test_a_damaged_export_is_refused_before_the_gpu_check(linked: Path, exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    library = tokfilter_library(linked)

    def refusal(precision: str = "fp32") -> tuple[int, str]:
        options = Options(ctypes.sizeof(Options), 0, precision.encode(), 0, 0)
        code = library.tokfilter_engine_open(str(out).encode(), ctypes.byref(options), ctypes.byref(ctypes.c_void_p()))
        return code, library.tokfilter_last_error().decode()

    assert refusal()[0] == 2 and "there is none at" in refusal()[1]
    shutil.copytree(exported, out)
    assert (
        refusal("bf16")[0] == 2
        and "has no filtered tensorrt-rtx model in bf16; it has model.onnx" in refusal("bf16")[1]
    )
    plan = out / "model.rtx.plan"
    content = bytearray(plan.read_bytes())
    content[len(content) // 2] ^= 1
    plan.write_bytes(content)
    assert refusal()[0] == 3 and "model.rtx.plan is not the file that manifest.json describes" in refusal()[1]
    plan.unlink()
    assert refusal()[0] == 3 and "model.rtx.plan is missing" in refusal()[1]
    text = (out / NAME).read_text()
    (out / NAME).write_text(text.replace("model.rtx.plan", "../model.rtx.plan"))
    assert refusal()[0] == 2 and "inside the directory" in refusal()[1]
    (out / NAME).write_text(text.replace('"version": 1', '"version": 2', 1))
    assert refusal()[0] == 2 and "manifest version 2; this tokfilter reads 1" in refusal()[1]


def test_it_exports_only_its_own_symbols_and_needs_no_cuda_library(linked: Path, run: Run) -> None:
    nm = find_tool("nm", hint="apt install binutils")
    names = run(nm, "-D", "--demangle", linked / "libtokfilter.so").stdout.splitlines()
    exported = [line.split(maxsplit=2)[2] for line in names if re.match(r"[0-9a-f]{16} [TBD] ", line)]
    assert {name for name in exported if not re.match(r"tokfilter(_|::)", name)} == set()
    imported = [line.split(maxsplit=1)[1] for line in names if line.lstrip().startswith("U ")]
    assert not [name for name in imported if name.startswith("cuda")]
    assert {"createInferRuntime_INTERNAL", "getInferLibVersion"} <= set(imported)


def test_the_installed_package_links_and_refuses_an_incompatible_library(
    linked: Path, exported: Path, run: Run, build: Callable[..., Path]
) -> None:
    prefix = linked.parent / "prefix"
    shutil.rmtree(prefix, ignore_errors=True)
    installed = run(find_tool("cmake", hint="pip install cmake"), "--install", linked, "--prefix", prefix)
    assert installed.returncode == 0, installed.stderr
    consumer = build("consumer", f"-DCMAKE_PREFIX_PATH={prefix}", source=CONSUMER)
    output = run(consumer / "consumer", exported, CUDA_VISIBLE_DEVICES="").stdout
    assert output.startswith(f"tokfilter {tokfilter.__version__}, tensorrt-rtx, headers ")
    assert no_gpu(output)
    headers, library = re.search(r"headers (\d+)\S+ library (\d+)", output).groups()  # type: ignore[union-attr]
    assert ("ABI mismatch" in output) == (headers != library)


@pytest.mark.gpu
@pytest.mark.parametrize("plugin", [False, True])
def test_golden_outputs_on_a_gpu(
    bundle_file: Path, headers: Path, build: Callable[..., Path], tmp_path: Path, plugin: bool
) -> None:
    """Library, headers and plan of one TensorRT: torch's golden outputs at every budget and with all tokens."""
    from tokfilter.export.options import ExportOptions
    from tokfilter.export.pipeline import export_bundle

    real = build("gpu", f"-DTENSORRT_INCLUDE_DIR={headers}", *tensorrt_library())
    out = tmp_path / "out"
    try:
        export_bundle(bundle_file, out, ExportOptions(trt=True, plugin=plugin, verify=False, batch_range=(1, 3, 3)))
    except MissingDependencyError as error:
        pytest.skip(f"no TensorRT that builds engines, or no plugin built: {error}")
    golden = dict(np.load(out / "golden.npz"))
    budgets = [int(name.removeprefix("logits_")) for name in golden if name.startswith("logits_")]
    library = tokfilter_library(real)
    images = np.ascontiguousarray(golden["images"], dtype=np.float32)
    for full, outputs in ((0, {k: golden[f"logits_{k}"] for k in budgets}), (1, {0: golden["full"]})):
        engine = ctypes.c_void_p()
        options = Options(ctypes.sizeof(Options), full, None, 0, 0)
        code = library.tokfilter_engine_open(str(out).encode(), ctypes.byref(options), ctypes.byref(engine))
        assert code == 0, library.tokfilter_last_error()
        for tokens, expected in outputs.items():
            logits = np.empty(expected.shape, np.float32)
            indices = np.empty((len(images), tokens), np.int32)
            call = call_of(images, tokens, logits)
            if not full:
                call.indices, call.indices_room = indices.ctypes.data, indices.size
            code = library.tokfilter_engine_run(engine, ctypes.byref(call), None)
            assert code == 0, library.tokfilter_last_error()
            np.testing.assert_allclose(logits, expected, atol=1e-3 * np.abs(expected).max())
            if not full:
                np.testing.assert_array_equal(indices, golden[f"indices_{tokens}"])
        assert library.tokfilter_engine_close(ctypes.byref(engine)) == 0


def tensorrt_library() -> list[str]:
    """CMake's options for the library of an installed tensorrt wheel; none with JetPack or an SDK."""
    try:
        import tensorrt_libs
    except ImportError:
        return []
    return [f"-DTENSORRT_LIBRARY={next(Path(next(iter(tensorrt_libs.__path__))).glob('libnvinfer.so.*'))}"]
