"""The driver's C library."""

import ctypes
from types import SimpleNamespace

import pytest

from tokfilter.trt.driver import driver_failure


@pytest.mark.parametrize(("code", "failure"), [(0, None), (100, "cuInit failed with error 100")])
def test_what_the_driver_answers(monkeypatch, code, failure):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(cuInit=lambda flags: code))
    assert driver_failure() == failure


def test_a_missing_library_is_the_reason(monkeypatch):
    def missing(name):
        raise OSError(f"{name}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert driver_failure() == "libcuda.so.1: cannot open shared object file: No such file or directory"
