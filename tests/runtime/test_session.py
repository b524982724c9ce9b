import json
import shutil
import threading
from dataclasses import dataclass

import numpy as np
import pytest

from tokfilter.artifacts.golden import golden_of
from tokfilter.artifacts.manifest import load_manifest
from tokfilter.errors import BudgetError, DataError, EngineError
from tokfilter.runtime.session import Budgets, CheckedSession, Result, TensorSpec
from tokfilter.runtime.sessions import SessionOptions, open_session

OPTIONS = SessionOptions(threads=1)


def session(directory, role="filtered", tokens=None, **options):
    return open_session(directory, role, SessionOptions(threads=1, **options), tokens)


@pytest.fixture
def images(export_directory):
    return golden_of(export_directory, load_manifest(export_directory)).images


@pytest.fixture
def copied(export_directory, tmp_path):
    shutil.copytree(export_directory, tmp_path / "out")
    return tmp_path / "out"


def test_runs_at_any_budget_and_equals_torch(export_directory):
    with session(export_directory) as opened:
        golden = golden_of(opened.model_file.directory, opened.model_file.manifest)
        for k, logits in golden.logits.items():
            result = opened.run(golden.images, k)
            np.testing.assert_allclose(result.logits, logits, atol=1e-4)
            assert result.indices.dtype == np.int32
            np.testing.assert_array_equal(result.indices, golden.expected_indices(k))
        np.testing.assert_allclose(opened.run(golden.images, 1.0).logits, golden.full, atol=1e-4)
        assert opened.run(golden.images[:1], 0.5).indices.shape == (1, 8)


def test_describes_itself(export_directory):
    with session(export_directory) as opened:
        assert [spec.name for spec in opened.inputs] == ["images", "slots"]
        assert opened.inputs[0].shape[1:] == (3, 32, 32)
        assert [spec.name for spec in opened.outputs] == ["logits", "indices"]
        assert opened.budgets == Budgets(1, 16, 8, 16)
        assert opened.thread_safe


def test_full_model_has_one_budget_and_no_indices(export_directory, images):
    with session(export_directory, "full") as opened:
        assert opened.run(images).indices is None
        with pytest.raises(BudgetError, match="serves the budget of 16 of 16 tokens only, got 8"):
            opened.run(images, 0.5)


def test_graph_made_for_the_budget_comes_first(export_directory, images):
    with session(export_directory, tokens=8) as opened:
        assert opened.model_file.entry.path == "model.k8.onnx"
        assert opened.run(images).indices.shape == (3, 8)
        with pytest.raises(BudgetError, match="serves the budget of 8 of 16 tokens only"):
            opened.run(images, 9)
    with session(export_directory, tokens=9) as opened:
        assert opened.model_file.entry.path == "model.onnx"


def test_default_budget_is_the_tuned_one(copied):
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["choice"] = {"tokens": 5}
    (copied / "manifest.json").write_text(json.dumps(manifest))
    with session(copied) as opened:
        assert opened.budgets.default == 5


@pytest.mark.parametrize("keep", [0, 17, -1, 0.0, 1.5, float("nan"), True])
def test_budget_out_of_range(export_directory, images, keep):
    with session(export_directory) as opened, pytest.raises(BudgetError):
        opened.run(images, keep)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[:, :2], r"must be \[.*3, 32, 32\] float32, got \[3, 2, 32, 32\]"),
        (lambda x: x[0], r"got \[3, 32, 32\]"),
        (lambda x: x[:0], r"got \[0, 3, 32, 32\]"),
        (lambda x: x[..., :31], r"got \[3, 3, 32, 31\]"),
        (lambda x: x.astype(np.float64), r"got float64: convert with images.astype\(np.float32\)"),
        (lambda x: x.astype(np.uint8), "got uint8"),
        (lambda x: x.tolist(), "numpy array .* got list"),
        (lambda x: np.where(x == x[0, 0, 0, 0], np.nan, x).astype(np.float32), "NaN or infinity"),
        (lambda x: np.where(x == x[-1, -1, -1, -1], np.inf, x).astype(np.float32), "NaN or infinity"),
    ],
)
def test_images_that_do_not_fit(export_directory, images, change, message):
    with session(export_directory) as opened, pytest.raises(DataError, match=message):
        opened.run(change(images))


def test_huge_finite_values_are_no_infinity(export_directory, images):
    with session(export_directory) as opened:
        assert len(opened.run(np.full_like(images, 3e38)).logits) == len(images)


def test_non_contiguous_images(export_directory, images):
    with session(export_directory) as opened:
        np.testing.assert_array_equal(opened.run(images[::-1], 4).logits, opened.run(images[::-1].copy(), 4).logits)


def test_use_outside_the_with_block(export_directory, images):
    opened = session(export_directory)
    with pytest.raises(EngineError, match="closed: use it inside its `with` block"):
        opened.run(images)
    with pytest.raises(EngineError, match="not open"):
        _ = opened.budgets
    with opened:
        opened.run(images)
        with pytest.raises(EngineError, match="open already"), opened:
            pass
    with pytest.raises(EngineError, match="closed"):
        opened.run(images)


def test_changed_byte_is_refused(copied):
    data = bytearray((copied / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (copied / "model.onnx").write_bytes(data)
    with (
        pytest.raises(EngineError, match=r"model.onnx is not the file .* bytes have changed. Export again"),
        session(copied),
    ):
        pass


def test_missing_model_file(copied):
    (copied / "model.onnx").unlink()
    with pytest.raises(EngineError, match="missing, though manifest.json lists it"), session(copied):
        pass


def test_no_such_model(export_directory, tmp_path):
    with pytest.raises(EngineError, match=r"no filtered onnx model in fp16.*it has model.onnx"):
        session(export_directory, precision="fp16")
    with pytest.raises(EngineError, match="no filtered tensorrt model"):
        session(export_directory, runtime="tensorrt")
    with pytest.raises(DataError, match="manifest"):
        session(tmp_path)


def test_foreign_graph_is_named(copied):
    import onnx
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [output])
    foreign = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    _replace_model(copied, foreign.SerializeToString())
    onnx.checker.check_model(foreign)
    with pytest.raises(EngineError, match=r"must have the inputs images .* it has \['x'\]"), session(copied):
        pass
    del foreign.graph.output[:]
    foreign.graph.input[0].name = foreign.graph.node[0].input[0] = "images"
    _replace_model(copied, foreign.SerializeToString())
    with pytest.raises(EngineError, match=r"logits as its first output; it has \['images'\] and \[\]"), session(copied):
        pass
    _replace_model(copied, b"no graph at all")
    with pytest.raises(EngineError, match="ONNX Runtime cannot load"), session(copied):
        pass


def _replace_model(directory, data):
    import hashlib

    (directory / "model.onnx").write_bytes(data)
    manifest = json.loads((directory / "manifest.json").read_text())
    entry = next(e for e in manifest["files"] if e["path"] == "model.onnx")
    entry.update(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
    (directory / "manifest.json").write_text(json.dumps(manifest))


def test_two_sessions_at_once_and_many_threads(export_directory, images):
    with session(export_directory) as one, session(export_directory, "full") as two:
        expected = {k: one.run(images, k).logits for k in (2, 5, 11)}
        wrong = []

        def work(k):
            for _ in range(10):
                if not np.array_equal(one.run(images, k).logits, expected[k]):
                    wrong.append(k)
                two.run(images)

        threads = [threading.Thread(target=work, args=(k,)) for k in (2, 5, 11)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []


@dataclass
class Slow(CheckedSession):
    """An engine that runs until the test releases it."""

    def __post_init__(self):
        self.running, self.go_on = threading.Event(), threading.Event()

    def _open(self):
        self.inputs = (TensorSpec("images", ("batch", 1), np.dtype(np.float32)),)
        self._budgets = Budgets(1, 4, 2, 4)
        return lambda: None

    def _execute(self, images, k):
        self.running.set()
        assert self.go_on.wait(10)
        return Result(images)


def test_second_thread_is_refused_where_it_is_not_safe():
    x = np.zeros((1, 1), np.float32)
    with Slow() as slow:
        first = threading.Thread(target=slow.run, args=(x,))
        first.start()
        assert slow.running.wait(10)
        with pytest.raises(EngineError, match="not safe for several threads and is running now: open one session per"):
            slow.run(x)
        slow.go_on.set()
        first.join()
        slow.run(x)


def test_model_file_of_an_engine_with_ranges(export_directory):
    from dataclasses import replace

    from tokfilter.runtime.model_files import ModelFile, budgets_from_model_file, find_entry

    manifest = load_manifest(export_directory)
    plan = replace(manifest.files[0], path="model.plan", runtime="tensorrt", budget_range=(4, 8, 12))
    ranged = replace(manifest, files=[*manifest.files, plan])
    assert budgets_from_model_file(ModelFile(export_directory, ranged, plan), elastic=True) == Budgets(4, 12, 8, 16)
    assert find_entry(ranged, "filtered", "tensorrt", "fp32", 12) is plan
    with pytest.raises(EngineError, match="no filtered tensorrt model in fp32 at 13 tokens"):
        find_entry(ranged, "filtered", "tensorrt", "fp32", 13)
