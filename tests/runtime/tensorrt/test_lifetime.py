"""TensorRT sessions opened, used from several threads and closed, with a fake TensorRT."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tokfilter.artifacts.golden import golden_of
from tokfilter.errors import EngineError
from tokfilter.runtime import session as session_module
from tokfilter.runtime import tensorrt_session
from tokfilter.runtime.tensorrt_session import TensorRTSession


def test_use_outside_the_with_block(plan, fake):
    session, images = TensorRTSession(plan), np.zeros((1, 3, 32, 32), np.float32)
    with pytest.raises(EngineError, match="closed: use it inside its `with` block"):
        session.run(images)
    with session:
        session.run(images)
        with pytest.raises(EngineError, match="open already"), session:
            pass
    assert fake.device.closed
    with pytest.raises(EngineError, match="closed: use it inside its `with` block"):
        session.run(images)


def test_a_device_is_released_when_opening_fails(plan, fake, monkeypatch):
    def refuse(*_):
        raise EngineError("TensorRT refuses the plan")

    monkeypatch.setattr(tensorrt_session, "engine_from_plan", refuse)
    with pytest.raises(EngineError, match="refuses the plan"), TensorRTSession(plan):
        pass
    assert fake.device.closed


def test_a_second_thread_is_refused_and_the_first_gets_its_result(plan, fake, monkeypatch):
    images, entered, go_on = golden_of(plan.directory, plan.manifest).images, threading.Event(), threading.Event()

    def slow(stream):
        entered.set()
        assert go_on.wait(10)

    with TensorRTSession(plan) as session, ThreadPoolExecutor(1) as pool:
        wanted = session.run(images, 8).logits
        monkeypatch.setattr(fake.device, "synchronize", slow)
        first = pool.submit(session.run, images, 8)
        assert entered.wait(10)
        with pytest.raises(
            EngineError, match="TensorRTSession is not safe for several threads .* one session per thread"
        ):
            session.run(images, 8)
        go_on.set()
        np.testing.assert_array_equal(first.result(10).logits, wanted)


def test_closing_waits_for_the_call_of_another_thread(plan, fake, monkeypatch):
    images, entered, go_on = golden_of(plan.directory, plan.manifest).images, threading.Event(), threading.Event()

    def slow(stream):
        entered.set()
        assert go_on.wait(10)

    session = TensorRTSession(plan).__enter__()
    wanted = session.run(images, 8).logits
    monkeypatch.setattr(fake.device, "synchronize", slow)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(session.run, images, 8)
        assert entered.wait(10)
        closing = pool.submit(session.__exit__, None, None, None)
        time.sleep(0.1)
        assert not closing.done() and not fake.device.closed
        go_on.set()
        np.testing.assert_array_equal(first.result(10).logits, wanted)
        closing.result(10)
    assert fake.device.closed
    with pytest.raises(EngineError, match="closed"):
        session.run(images, 8)


def test_a_session_that_is_closed_between_check_and_call_is_refused(plan, fake, monkeypatch):
    images = golden_of(plan.directory, plan.manifest).images
    with TensorRTSession(plan) as session:
        monkeypatch.setattr(session_module, "check_images", lambda *_: session.__exit__(None, None, None))
        with pytest.raises(EngineError, match="this session is closed"):
            session.run(images, 8)


def test_a_session_may_be_used_and_closed_in_other_threads(plan, fake):
    images = golden_of(plan.directory, plan.manifest).images
    with ThreadPoolExecutor(1) as pool:
        session = pool.submit(TensorRTSession(plan).__enter__).result(10)
    session.run(images, 8)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(session.__exit__, None, None, None).result(10)
    assert fake.device.closed and fake.device.threads == []


def test_two_sessions_at_once_do_not_disturb_each_other(plan, fake):
    images = golden_of(plan.directory, plan.manifest).images
    with TensorRTSession(plan) as one, TensorRTSession(plan, cuda_graph=True) as other:
        wanted = {k: one.run(images, k).logits for k in (4, 8)}
        for k in (8, 4, 8):
            np.testing.assert_array_equal(other.run(images, k).logits, wanted[k])
            np.testing.assert_array_equal(one.run(images[::-1].copy(), k).logits, wanted[k][::-1])
