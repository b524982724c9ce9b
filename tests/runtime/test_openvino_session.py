import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from openvino_exports import NEEDED, OtherCpu, computed_types

from tokfilter.artifacts.golden import golden_of
from tokfilter.artifacts.manifest import entry_from_file, load_manifest, save_manifest
from tokfilter.errors import BudgetError, DataError, EngineError, MissingDependencyError
from tokfilter.runtime import openvino_session
from tokfilter.runtime.openvino_engine import OpenVinoOptions, imported_openvino
from tokfilter.runtime.predict import probabilities_from_logits
from tokfilter.runtime.service.engine import engine_from_directory
from tokfilter.runtime.session import Budgets
from tokfilter.runtime.sessions import SessionOptions, open_session
from tokfilter.runtime.verification import verdicts

openvino = pytest.importorskip("openvino", reason=NEEDED)

THREADS = 2


@pytest.fixture(scope="module")
def directory(export_directory):
    return export_directory


@pytest.fixture
def copied(export_directory, tmp_path):
    shutil.copytree(export_directory, tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture(autouse=True)
def cache_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def golden(directory):
    return golden_of(directory, load_manifest(directory))


@pytest.fixture(scope="module")
def shared(directory):
    """An open session, for tests that need none of their own: to open one takes a third of a second."""
    with session(directory) as opened:
        yield opened


def options(**given):
    return SessionOptions(**{"runtime": "openvino", "threads": THREADS, "model_cache": False, **given})


def session(directory, role="filtered", tokens=None, **given):
    return open_session(directory, role, options(**given), tokens)


def capabilities():
    return list(openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def needs(capability):
    return pytest.mark.skipif(capability not in capabilities(), reason=f"OpenVINO lists no {capability} for this CPU")


def test_importing_openvino_sends_nothing_and_leaves_nothing_in_the_home_folder(tmp_path):
    """Its package for telemetry writes an identifier to ~/intel, and sends an event, when openvino is imported."""
    program = (
        "import sys; calls = []; sys.addaudithook(lambda event, _: calls.append(event)); "
        "from tokfilter.runtime.openvino_engine import imported_openvino; imported_openvino().Core(); "
        "assert not [one for one in calls if one.startswith('socket.')], calls; "
        "assert 'openvino_telemetry' not in sys.modules"
    )
    environment = {**os.environ, "HOME": str(tmp_path)} | {"CI": "", "TF_BUILD": "", "JENKINS_URL": ""}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
@pytest.mark.parametrize("keep", [1, 4, 8, 11, 15, 16, 0.5, 1.0])
def test_any_batch_and_budget_equals_torch(shared, golden, batch, keep):
    images = golden.tiled(batch)
    result = shared.run(images, keep)
    k = result.indices.shape[1]
    rows = np.arange(batch) % len(golden.images)
    assert result.logits.shape == (batch, 5)
    assert result.indices.dtype == np.int32
    np.testing.assert_array_equal(result.indices, golden.expected_indices(k)[rows])
    expected = golden.full if k == 16 else golden.logits.get(k)
    if expected is not None:
        np.testing.assert_allclose(result.logits, expected[rows], atol=1e-4)


def test_one_session_serves_shapes_in_any_order(shared, golden):
    for batch, keep in [(1, 4), (3, 11), (2, 4), (1, 16), (1, 4)]:
        found = shared.run(golden.tiled(batch), keep)
        np.testing.assert_array_equal(found.indices, golden.expected_indices(keep)[:batch])


def test_describes_itself_as_the_session_of_onnx_runtime_does(shared, directory):
    with open_session(directory) as other:
        assert shared.inputs == other.inputs
        assert shared.outputs == other.outputs
        assert shared.budgets == other.budgets == Budgets(1, 16, 8, 16)
        assert shared.thread_safe


def test_full_model_and_a_fixed_budget(directory, golden):
    with session(directory, "full") as full:
        np.testing.assert_allclose(full.run(golden.images).logits, golden.full, atol=1e-4)
        assert full.run(golden.images).indices is None
        with pytest.raises(BudgetError, match="serves the budget of 16 of 16 tokens only, got 8"):
            full.run(golden.images, 0.5)
    with session(directory, tokens=8) as fixed:
        assert fixed.model_file.entry.path == "model.k8.onnx"
        np.testing.assert_allclose(fixed.run(golden.images).logits, golden.logits[8], atol=1e-4)


def test_fp32_is_fp32_on_a_cpu_that_has_bf16(shared, directory):
    with session(directory, hint="throughput") as opened:
        assert computed_types(shared) == computed_types(opened) == {"f32"}
    assert {verdict.tolerance for verdict in verdicts(directory, options())} == {1e-4}


@needs("BF16")
def test_bf16_computes_the_fp32_file_in_bf16(directory):
    with session(directory, precision="bf16") as opened:
        assert computed_types(opened) == {"bf16"}
        assert opened.model_file.entry.precision == "bf16"
        assert opened.model_file.entry.path == "model.onnx"
    found = list(verdicts(directory, options(precision="bf16")))
    assert {verdict.path for verdict in found} == {"model.onnx", "model.k8.onnx", "full.onnx"}
    assert {verdict.tolerance for verdict in found} == {0.15}
    assert max(verdict.largest_difference for verdict in found) > 1e-4, "this is not bf16"


@needs("FP16")
def test_fp16_computes_the_fp32_file_in_fp16(directory):
    with session(directory, precision="fp16") as opened:
        assert computed_types(opened) == {"f16"}
    assert {verdict.tolerance for verdict in verdicts(directory, options(precision="fp16"))} == {2e-2}


@pytest.mark.parametrize("precision", ["bf16", "fp16", "int8-bf16"])
def test_a_precision_that_the_cpu_lacks_is_refused(directory, monkeypatch, precision):
    lacking = OtherCpu(openvino, ["FP32", "INT8", "BIN"])
    monkeypatch.setattr(openvino_session, "imported_openvino", lambda: lacking)
    chosen = open_session(directory, "filtered", options(precision="fp32"))
    chosen.options = OpenVinoOptions(precision)
    remedy = "--precision int8" if precision == "int8-bf16" else "--precision fp32"
    with (
        pytest.raises(EngineError, match=rf"{precision} is not possible on this CPU .*lists FP32, INT8 .*{remedy}"),
        chosen,
    ):
        pass


def test_another_type_than_the_one_asked_for_is_refused(directory, monkeypatch):
    monkeypatch.setattr(openvino_session, "imported_openvino", lambda: OtherCpu(openvino, ["FP32", "BF16"], "f32"))
    with (
        pytest.raises(EngineError, match=r"compiled .*model.onnx for f32, and bf16 needs bf16: this CPU does not"),
        session(directory, precision="bf16"),
    ):
        pass


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"precision": "int4"}, "runs the precisions fp32, fp16, bf16, int8, int8-bf16, got 'int4'"),
        ({"hint": "speed"}, "the hint is latency or throughput, got 'speed'"),
        ({"threads": 0}, "requires 1 or more threads, got 0"),
        ({"streams": -1}, "requires 1 or more streams, got -1"),
        ({"provider": "cuda"}, "OpenVINO runs on the CPU here: leave out --provider"),
        ({"cuda_graph": True}, "leave out --provider and --cuda-graph"),
    ],
)
def test_options_that_are_not_possible(directory, given, message):
    with pytest.raises(EngineError, match=message):
        session(directory, **given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[:, :2], r"must be \[.*3, 32, 32\] float32, got \[3, 2, 32, 32\]"),
        (lambda x: x[:0], r"got \[0, 3, 32, 32\]"),
        (lambda x: x.astype(np.float64), r"got float64: convert with images.astype\(np.float32\)"),
        (lambda x: x.astype(np.uint8), "got uint8"),
        (lambda x: x.tolist(), "numpy array .* got list"),
        (lambda x: np.where(x == x[0, 0, 0, 0], np.nan, x).astype(np.float32), "NaN or infinity"),
    ],
)
def test_images_that_do_not_fit(shared, golden, change, message):
    bad = change(golden.images)
    with pytest.raises(DataError, match=message):
        shared.run(bad)
    with pytest.raises(DataError, match=message):
        shared.run_queue([golden.images, bad])
    assert shared.run(golden.images).logits.shape == (3, 5)


@pytest.mark.parametrize("keep", [0, 17, -1, 0.0, 1.5, float("nan"), True])
def test_budget_out_of_range(shared, golden, keep):
    with pytest.raises(BudgetError):
        shared.run(golden.images, keep)
    with pytest.raises(BudgetError):
        shared.run_queue([golden.images], keep)


def test_non_contiguous_images(shared, golden):
    for part in (golden.images[::-1], golden.images[..., ::-1]):
        np.testing.assert_array_equal(shared.run(part, 4).logits, shared.run(part.copy(), 4).logits)


def test_results_are_not_overwritten_by_the_next_call(shared, golden):
    first = shared.run(golden.images, 8)
    kept = first.logits.copy()
    shared.run(-golden.images, 8)
    np.testing.assert_array_equal(first.logits, kept)


def test_use_outside_the_with_block(directory, golden):
    opened = session(directory)
    for use in (opened.run, lambda images: opened.run_queue([images])):
        with pytest.raises(EngineError, match="closed: use it inside its `with` block"):
            use(golden.images)
    with opened, pytest.raises(EngineError, match="open already"), opened:
        pass


def test_threads_at_the_same_time_get_their_own_answers(directory, golden):
    cases = [(1 + i % 3, (4, 8, 11, 16)[i % 4]) for i in range(24)]

    def run(case):
        batch, keep = case
        return opened.run(golden.tiled(batch), keep)

    with session(directory) as opened:
        alone = [run(case) for case in cases]
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(run, cases))
        assert 1 <= len(opened._requests) <= 8
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one.indices, other.indices)
        np.testing.assert_allclose(one.logits, other.logits, atol=1e-6)


def test_the_queue_runs_every_batch_once(directory, golden):
    batches = [golden.tiled(1 + i % 3) + np.float32(0.01 * i) for i in range(9)]
    found = {}

    def done(place, result, seconds):
        assert seconds > 0
        found[place] = result

    with session(directory, hint="throughput", streams=2) as opened:
        assert opened.run_queue(iter(batches), 8, done) == 9
        expected = [opened.run(batch, 8) for batch in batches]
    assert sorted(found) == list(range(9))
    for place, result in found.items():
        np.testing.assert_array_equal(result.indices, expected[place].indices)
        np.testing.assert_allclose(result.logits, expected[place].logits, atol=1e-6)


def test_an_error_in_the_receiver_of_the_queue_is_raised(shared, golden):
    def done(place, result, seconds):
        raise DataError(f"no room for {place}")

    with pytest.raises(DataError, match="no room for"):
        shared.run_queue([golden.images] * 5, 8, done)
    assert shared.run_queue([], 8) == 0


def test_the_service_answers_with_openvino(directory, golden):
    with engine_from_directory(directory, options(), 4) as engine:
        images = list(golden.images)
        for keep in (4, 11):
            expected = probabilities_from_logits(golden.logits[keep])
            np.testing.assert_allclose(engine._run(images, keep), expected, atol=1e-5)


def test_a_graph_with_the_plugins_node_is_refused_with_the_remedy(copied):
    import onnx

    model = onnx.load(copied / "full.onnx")
    model.graph.node.insert(0, onnx.helper.make_node("TokenSelect", ["images"], ["never"], domain="tokfilter"))
    body = [onnx.helper.make_node("Identity", ["x"], ["y"])]
    opset = [onnx.helper.make_opsetid("", 18)]
    model.functions.append(onnx.helper.make_function("tokfilter", "TokenSelect", ["x"], ["y"], body, opset))
    model.opset_import.append(onnx.helper.make_opsetid("tokfilter", 1))
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info("never"))
    replaced(copied, "full.onnx", model.SerializeToString())
    with (
        pytest.raises(EngineError, match=r"standard operators only, and .*full.onnx has .*TokenSelect: export again"),
        session(copied, "full"),
    ):
        pass


def test_a_damaged_graph_is_refused_in_one_line(copied):
    replaced(copied, "full.onnx", b"no graph at all")
    with pytest.raises(EngineError, match=r"OpenVINO cannot load .*full.onnx: [^\n]+\.$"), session(copied, "full"):
        pass


def replaced(folder, name, content, **changes):
    """Write a file of an export, and put it into the manifest."""
    (folder / name).write_bytes(content)
    manifest = load_manifest(folder)
    old = next(entry for entry in manifest.files if entry.path == name)
    fresh = entry_from_file(folder, name, old.role)
    entry = replace(old, sha256=fresh.sha256, bytes=fresh.bytes, **changes)
    save_manifest(folder, replace(manifest, files=[entry if e.path == name else e for e in manifest.files]))


def test_int8_without_8_bit_layers_is_refused(copied):
    replaced(copied, "full.onnx", (copied / "full.onnx").read_bytes(), precision="int8")
    with (
        pytest.raises(EngineError, match=r"runs no layer of .*full.onnx in 8 bits, so int8 would be f32 in fact"),
        session(copied, "full", precision="int8"),
    ):
        pass


@needs("INT8")
@pytest.mark.parametrize("precision", ["int8", pytest.param("int8-bf16", marks=needs("BF16"))])
def test_int8_runs_its_linear_layers_in_8_bits(copied, golden, precision):
    replaced(copied, "full.onnx", quantised(copied / "full.onnx", golden.images), precision="int8")
    with session(copied, "full", precision=precision) as opened:
        assert "u8" in computed_types(opened) or "i8" in computed_types(opened)
        found = opened.run(golden.images).logits
    scale = np.abs(golden.full).max(axis=1, keepdims=True)
    assert 1e-5 < (np.abs(found - golden.full) / scale).max() < 0.2


def quantised(graph, images):
    """A full graph whose Linear layers have Q/DQ pairs, by ONNX Runtime's own quantiser."""
    quantization = pytest.importorskip("onnxruntime.quantization", reason="needs onnx")
    import onnx

    model = onnx.load(graph)
    weights = {tensor.name for tensor in model.graph.initializer}
    linear = [n.name for n in model.graph.node if n.op_type in ("MatMul", "Gemm") and n.input[1] in weights]

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self.left = iter([{"images": images}])

        def get_next(self):
            return next(self.left, None)

    output = graph.with_suffix(".int8")
    quantization.quantize_static(
        str(graph),
        str(output),
        Reader(),
        per_channel=True,
        nodes_to_quantize=linear,
        op_types_to_quantize=["MatMul", "Gemm"],
    )
    return output.read_bytes()


def test_no_such_file(directory):
    with pytest.raises(EngineError, match="no filtered onnx model in int8; it has model.onnx .*Export again"):
        session(directory, precision="int8")


def test_absent_and_old_packages(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingDependencyError, match=r"OpenVINO is not installed: pip install 'tokfilter\[openvino\]'"):
        imported_openvino()
    for version in ("2024.6.0-17404", "2022.3.0", "", "unknown"):
        monkeypatch.setitem(sys.modules, "openvino", SimpleNamespace(__version__=version, Core=None))
        with pytest.raises(MissingDependencyError, match=r"OpenVINO 2025.0 or later is needed, got .*--upgrade"):
            imported_openvino()
    newer = SimpleNamespace(__version__="2027.0.0-1-abc", Core=None)
    monkeypatch.setitem(sys.modules, "openvino", newer)
    assert imported_openvino() is newer


def test_a_compiled_model_is_read_from_the_cache(directory, golden, cache_home):
    uses, logits = [], []
    for _ in range(2):
        with session(directory, model_cache=True) as opened:
            uses.append(opened.cache_use)
            logits.append(opened.run(golden.images, 8).logits)
    assert uses == ["written", "read"]
    np.testing.assert_array_equal(*logits)
    (blob,) = (cache_home / "tokfilter" / "openvino").iterdir()
    blob.write_bytes(blob.read_bytes()[:-1])  # half written
    with session(directory, model_cache=True) as opened:
        assert opened.cache_use == "written"


def test_other_options_and_files_are_other_entries(directory, cache_home):
    for role, given in (
        ("filtered", {}),
        ("full", {}),
        ("filtered", {"hint": "throughput"}),
        ("filtered", {"threads": 1}),
    ):
        with session(directory, role, model_cache=True, **given) as opened:
            assert opened.cache_use == "written"


def test_processes_share_the_cache(directory, golden, cache_home):
    program = (
        "import sys, numpy as np\n"
        "from tokfilter.runtime.sessions import SessionOptions, open_session\n"
        "with open_session(sys.argv[1], options=SessionOptions('openvino', threads=1)) as session:\n"
        "    print(session.cache_use, session.run(np.zeros((1, 3, 32, 32), np.float32), 4).indices.shape)\n"
    )
    command = [sys.executable, "-c", program, str(directory)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate()[0].split(" ", 1) for process in running]
    assert {use for use, _ in answers} <= {"written", "read"}
    assert {shape for _, shape in answers} == {"(1, 4)\n"}
    assert len(list((cache_home / "tokfilter" / "openvino").iterdir())) == 1


def test_a_changed_file_is_refused_with_and_without_the_cache(copied):
    with session(copied, model_cache=True):
        pass
    content = bytearray((copied / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (copied / "model.onnx").write_bytes(content)
    for cached in (True, False):
        with (
            pytest.raises(EngineError, match=r"model.onnx is not the file .* bytes have changed. Export again"),
            session(copied, model_cache=cached),
        ):
            pass
    (copied / "model.onnx").unlink()
    with pytest.raises(EngineError, match="missing, though manifest.json lists it"), session(copied):
        pass


def test_external_weights_are_read(copied, golden):
    import onnx

    model = onnx.load(copied / "full.onnx")
    onnx.save(model, copied / "full.onnx", save_as_external_data=True, location="full.weights", size_threshold=0)
    weights = entry_from_file(copied, "full.weights", "full").sha256
    replaced(copied, "full.onnx", (copied / "full.onnx").read_bytes(), external={"full.weights": weights})
    with session(copied, "full") as opened:
        np.testing.assert_allclose(opened.run(golden.images).logits, golden.full, atol=1e-4)


def test_without_a_writable_folder_the_cache_is_off_and_says_so(directory, golden, cache_home):
    cache_home.write_text("a file where the folder would be")
    with session(directory, model_cache=True) as opened:
        assert opened.cache_use.startswith("off: its folder cannot be made")
        assert opened.run(golden.images).logits.shape == (3, 5)
    with session(directory) as opened:
        assert opened.cache_use == "off: it was not asked for"


def test_fixed_shapes_give_the_same_at_every_batch_and_budget(directory, golden):
    with session(directory, fixed_shapes=True) as opened:
        for batch, keep in [(1, 4), (3, 11), (1, 4), (2, 16)]:
            found = opened.run(golden.tiled(batch), keep)
            rows = np.arange(batch) % len(golden.images)
            np.testing.assert_array_equal(found.indices, golden.expected_indices(keep)[rows])
            if keep in golden.logits:
                np.testing.assert_allclose(found.logits, golden.logits[keep][rows], atol=1e-4)
        assert list(opened._requests) == [None, (3, 11), (1, 4), (2, 16)]
        compiled = opened._requests[1, 4].compiled
        assert [list(port.get_shape()) for port in compiled.inputs] == [[1, 3, 32, 32], [4]]
        assert opened.inputs[0].shape[0] == "batch"
    with pytest.raises(EngineError, match="this session is closed"):
        opened._execute(golden.images[:1], 4)


@pytest.mark.parametrize(("role", "tokens"), [("full", None), ("filtered", 8)])
def test_fixed_shapes_of_graphs_without_slots(directory, golden, role, tokens):
    with session(directory, role, tokens, fixed_shapes=True) as opened:
        expected = golden.full if role == "full" else golden.logits[8]
        np.testing.assert_allclose(opened.run(golden.images).logits, expected, atol=1e-4)


def test_few_models_of_fixed_shapes_stay_in_memory(directory, golden, monkeypatch):
    monkeypatch.setattr(openvino_session, "MOST_SHAPES", 2)
    with session(directory, fixed_shapes=True) as opened:
        for keep in (4, 8, 4, 11):
            opened.run(golden.images[:1], keep)
        assert list(opened._requests) == [None, (1, 4), (1, 11)]


def test_models_of_fixed_shapes_are_kept_in_the_cache(directory, golden):
    uses = []
    for keep in (4, 4, 8):
        with session(directory, fixed_shapes=True, model_cache=True) as opened:
            opened.run(golden.images[:1], keep)
            uses.append(opened.cache_use)
    assert uses == ["written", "read", "written"]


def test_fixed_shapes_serve_several_threads(directory, golden):
    with session(directory, fixed_shapes=True) as opened, ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda keep: opened.run(golden.images, keep).indices, [4, 11, 4, 11, 4, 11]))
    for keep, indices in zip([4, 11] * 3, found, strict=True):
        np.testing.assert_array_equal(indices, golden.expected_indices(keep))
