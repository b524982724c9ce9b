"""Import of TensorRT, its log and its version facts."""

import sys
import threading
from types import SimpleNamespace

import pytest
from fake_tensorrt_py import fake_runtime_module
from tensorrt_records import logged, record

from tokfilter.errors import MissingDependencyError
from tokfilter.trt.log import error_log, logged_errors, start_failure
from tokfilter.trt.module import name_and_version, tensorrt_module
from tokfilter.trt.versions import supports


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("tensorrt", r"package tensorrt cannot be imported .*pip install 'tokfilter\[trt\]'.*python3-libnvinfer"),
        ("tensorrt-rtx", r"package tensorrt_rtx cannot be imported .*pip install 'tokfilter\[rtx\]'"),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch, kind, message):
    monkeypatch.setitem(sys.modules, kind.replace("-", "_"), None)
    with pytest.raises(MissingDependencyError, match=message):
        tensorrt_module(kind)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            "Python version mismatch: module was compiled for Python 3.10, but the interpreter version is "
            "incompatible: 3.11.7 (main, May  9 2026, 07:35:25) [GCC 12.2.0].",
            r"incompatible: 3.11.7.*run tokfilter with Python 3.10, for which this TensorRT was built",
        ),
        (
            "libcublas.so.12: cannot open shared object file: No such file or directory",
            r"libcublas.so.12 belongs to CUDA.*needs neither cuBLAS nor cuDNN.*nvidia-cublas-cu12.*LD_LIBRARY_PATH",
        ),
        (
            "libnvinfer.so.8: cannot open shared object file: No such file or directory",
            r"put the folder of libnvinfer.so.8 into LD_LIBRARY_PATH, or pip install 'tokfilter\[trt\]'",
        ),
    ],
)
def test_imports_of_8_6_0_that_fail(monkeypatch, error, words):
    """The errors are those of TensorRT 8.6.0 under Python 3.11, without cuBLAS and without its own libraries."""

    def fail(name):
        raise ImportError(error)

    monkeypatch.setattr("tokfilter.trt.module.import_module", fail)
    with pytest.raises(MissingDependencyError, match=words):
        tensorrt_module("tensorrt")


def test_type_stubs_are_not_taken_for_tensorrt(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace())
    with pytest.raises(MissingDependencyError, match="type stubs only"):
        tensorrt_module("tensorrt")


def test_messages_name_the_library():
    assert name_and_version(SimpleNamespace(__name__="tensorrt", __version__="10.3.0")) == "TensorRT 10.3.0"
    assert name_and_version(SimpleNamespace(__name__="tensorrt_rtx", __version__="1.7.1")) == "TensorRT-RTX 1.7.1"


@pytest.mark.parametrize(("version", "expected"), [("10.3.0", False), ("10.7.0", True), ("11.0.1.2", True)])
def test_a_plugin_goes_before_a_function_since_10_7(version, expected):
    assert supports(SimpleNamespace(__version__=version), "plugin preferred to function") is expected


def test_the_log_keeps_errors_once_from_any_thread_and_is_empty_after_reading():
    module = fake_runtime_module("")
    log = error_log(module)
    assert log is error_log(module)
    for severity, message in ((1, "First."), (1, "First."), (3, "a warning"), (0, " second ")):
        thread = threading.Thread(target=log.log, args=(severity, message))
        thread.start()
        thread.join()
    assert logged_errors(module) == "First / second"
    assert logged_errors(module) == "no reason given"


def test_the_reason_why_tensorrt_8_does_not_start_is_kept_though_it_is_a_warning():
    module = fake_runtime_module("")
    for _, message in record("8.6.0")["seen"]["Builder"]["log"]:
        error_log(module).log(module.ILogger.Severity.WARNING, message)
    reason = start_failure(module, TypeError("pybind11::init(): factory function returned nullptr"))
    assert reason.startswith(
        "Unable to determine GPU memory usage / CUDA initialization failure with error: 35. Please"
    )


def test_the_line_that_follows_each_error_without_a_driver_is_kept_only_where_it_stands_alone():
    module = fake_runtime_module("")
    first, follows = logged("11.4.0.106", "Runtime")
    for message in (follows, first, follows):
        error_log(module).log(1, message)
    assert logged_errors(module) == f"{follows} / {first}"
