"""Loading plans: with the real TensorRT-RTX, which rejects files on a CPU, and with a fake TensorRT."""

import gc
from dataclasses import replace
from types import SimpleNamespace

import pytest
from fake_tensorrt_py import fake_runtime_module
from tensorrt_records import logged, reported

from tokfilter.artifacts.manifest import Entry
from tokfilter.errors import EngineError
from tokfilter.trt.engine import Profile, engine_from_plan, numpy_type, serving_profile
from tokfilter.trt.versions import version_of

ENTRY = Entry("model.plan", "filtered", "", 6, "tensorrt", "fp32")


@pytest.fixture
def plan(tmp_path):
    (tmp_path / "model.plan").write_bytes(b"a plan")
    (tmp_path / "model.onnx").write_bytes(b"no library")
    return tmp_path / "model.plan"


def test_real_tensorrt_rtx_refuses_a_foreign_plan(plan):
    """The library itself rejects it, without a GPU; its message and ours must reach the user."""
    module = pytest.importorskip("tensorrt_rtx")
    entry = Entry("model.plan", "filtered", "", 6, "tensorrt-rtx", "fp32", target={"gpu": "Orin", "tensorrt": "10.3"})
    with pytest.raises(EngineError, match=r"refuses .*model.plan: .*for gpu Orin, tensorrt 10.3.*tokfilter engine"):
        engine_from_plan(module, plan.read_bytes(), entry, {})


NEEDS_PLUGIN = replace(ENTRY, target={"plugin": "libtokfilter_plugin.so"})


def test_real_tensorrt_rtx_refuses_a_file_that_is_no_library(plan):
    module = pytest.importorskip("tensorrt_rtx")
    with pytest.raises(EngineError, match="cannot load the plugin library .*tokfilter plugin build"):
        engine_from_plan(module, plan.read_bytes(), NEEDS_PLUGIN, {"x.so": plan.with_name("model.onnx")})
    with pytest.raises(EngineError, match=r"needs the plugin library libtokfilter_plugin.so, and manifest.json"):
        engine_from_plan(module, plan.read_bytes(), NEEDS_PLUGIN, {})


@pytest.mark.parametrize(
    ("message", "remedy"),
    [
        (logged("rtx", "load_library, missing")[-2], "`tokfilter plugin build`, then `tokfilter engine`"),
        (reported()[1]["line"], "of another TensorRT version. Build it again on this machine: `tokfilter engine`"),
        (reported()[0]["line"], "another GPU"),
        (logged("rtx", "plan, cut in the middle")[0], "The file is damaged.*Build it again on this machine"),
        ("something that no table knows", "Build it again on this machine"),
    ],
)
def test_refusals_come_with_a_remedy(plan, message, remedy):
    module = fake_runtime_module(message)
    with pytest.raises(EngineError, match=remedy) as caught:
        engine_from_plan(module, plan.read_bytes(), ENTRY, {})
    assert "low severity" not in str(caught.value)


@pytest.mark.parametrize(
    ("built", "here", "words"),
    [
        (
            "8.6.0",
            "10.13.0",
            r"built by TensorRT 8.6.0 and runs on that version; this is TensorRT 10.13.0. Build it ag",
        ),
        ("10.13.0", "8.6.0", r"built by TensorRT 10.13.0 and runs on that version; this is TensorRT 8.6.0. Build it"),
        ("10.3.0", "10.13.0", r"built by TensorRT 10.3.0"),
    ],
)
@pytest.mark.parametrize("compatible", [False, True])
def test_a_plan_of_another_version_is_refused_before_tensorrt_reads_it(plan, built, here, words, compatible):
    module = fake_runtime_module("TensorRT was asked", here)
    module.Runtime.engine_host_code_allowed = False
    entry = replace(ENTRY, target={"version": built, "version_compatible": compatible})
    if compatible:
        newer = version_of(module) > tuple(int(part) for part in built.split(".")[:2])
        words = "TensorRT was asked" if newer else words.replace("that version", "that version or a later one")
    with pytest.raises(EngineError, match=words):
        engine_from_plan(module, plan.read_bytes(), entry, {})


def test_8_6_is_not_started_without_a_driver(plan, monkeypatch):
    """Its Runtime ends the process there (8.6.0, tried): the fake's must not be reached."""
    module = fake_runtime_module("TensorRT was asked", "8.6.0")
    monkeypatch.setattr("tokfilter.trt.engine.driver_failure", lambda: "cuInit failed with error 100")
    with pytest.raises(
        EngineError, match=r"TensorRT 8.6.0 does not start: cuInit failed with error 100.*update the dr"
    ):
        engine_from_plan(module, plan.read_bytes(), ENTRY, {})
    monkeypatch.setattr("tokfilter.trt.engine.driver_failure", lambda: None)
    with pytest.raises(EngineError, match="TensorRT was asked"):
        engine_from_plan(module, plan.read_bytes(), ENTRY, {})


@pytest.mark.parametrize(("name", "expected"), [("FLOAT", "float32"), ("HALF", "float16"), ("INT32", "int32")])
def test_types_of_tensors(name, expected):
    assert numpy_type(SimpleNamespace(name=name)) == expected


def test_a_type_without_a_numpy_type_is_refused():
    with pytest.raises(EngineError, match="must be of FLOAT, HALF, .*; got FP8"):
        numpy_type(SimpleNamespace(name="FP8"))


def test_the_message_about_a_plugin_that_was_loaded_since_is_dropped(plan):
    module = fake_runtime_module(reported()[0]["line"])
    library = plan.parent / "libtokfilter_plugin.so"
    with pytest.raises(EngineError, match="another GPU") as caught:
        engine_from_plan(module, plan.read_bytes(), NEEDS_PLUGIN, {library.name: library})
    assert "Cannot find plugin" not in str(caught.value)


def test_a_runtime_that_does_not_start_is_neither_used_nor_deleted(plan):
    """Real ones of 10.15 to 11.4 return an object without a driver, and crash when it is used or deleted."""
    module = fake_runtime_module("", messages_at_start=logged("11.4.0.106", "Runtime"))
    with pytest.raises(EngineError, match=r"10.13 does not start: createInferRuntime: .*error: 35.*update the driver"):
        engine_from_plan(module, plan.read_bytes(), ENTRY, {})
    gc.collect()
    assert module.Runtime.deleted == []


def test_a_runtime_that_is_a_null_pointer_is_named(plan):
    """What the bindings make of it (the builder of 8.6.0 does it; no runtime was seen to)."""
    module = fake_runtime_module("")

    def refuse(logger):
        logger.log(1, "CUDA initialization failure with error: 35.")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    module.Runtime = refuse
    with pytest.raises(EngineError, match=r"10.13 does not start: CUDA initialization failure.*update the driver"):
        engine_from_plan(module, plan.read_bytes(), ENTRY, {})


def test_serving_profile_prefers_the_narrow_one():
    wide, narrow = Profile(0, (1, 32), (1, 196)), Profile(1, (1, 1), (98, 98))
    assert serving_profile([wide, narrow], 1, 98) is narrow
    assert serving_profile([wide, narrow], 2, 98) is wide
    assert serving_profile([Profile(0, (1, 4), None)], 4, 196).budget is None
    with pytest.raises(EngineError, match="batches of 1 to 1 at 98 to 98 tokens; got a batch of 1 at 97"):
        serving_profile([narrow], 1, 97)
