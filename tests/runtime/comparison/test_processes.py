import signal
from dataclasses import replace

import pytest

from tokfilter.artifacts.manifest import load_manifest
from tokfilter.errors import EngineError
from tokfilter.runtime.comparison.processes import EngineProcess, EngineSpec, engines_open, specs_for
from tokfilter.runtime.sessions import SessionOptions

OPTIONS = SessionOptions(threads=1)


def test_full_is_always_measured(export_directory):
    specs = specs_for(export_directory, load_manifest(export_directory), [0.5, 8, 0.5], OPTIONS)
    assert {k: spec.role for k, spec in specs.items()} == {16: "full", 8: "filtered"}


def test_each_engine_has_a_process_that_ends(export_directory):
    specs = list(specs_for(export_directory, load_manifest(export_directory), [0.5, 0.3], OPTIONS).values())
    with engines_open(specs) as engines:
        processes = {path: engine._process for path, engine in engines.items()}
        assert len({engine.pid for engine in engines.values()}) == 3
        assert engines["full.onnx"].block(1, 16, 0.01).samples_ms
    assert all(process.returncode == 0 for process in processes.values())
    with pytest.raises(EngineError, match="closed"):
        engines["full.onnx"].block(1, 16, 0.01)


def test_error_of_a_dead_process_has_its_status(export_directory):
    spec = EngineSpec(export_directory, "full", "full.onnx", OPTIONS)
    with EngineProcess(spec) as engine:
        engine._process.send_signal(signal.SIGTERM)
        engine._process.wait(10)
        with pytest.raises(EngineError, match="full.onnx ended with status -15"):
            engine.block(1, 16, 0.01)


def test_an_engine_that_does_not_open_leaves_no_process(export_directory):
    spec = EngineSpec(export_directory, "full", "full.onnx", replace(OPTIONS, provider="cuda"))
    engine = EngineProcess(spec)
    with pytest.raises(Exception, match="CUDAExecutionProvider"), engine:
        pass
    assert engine._process is None
