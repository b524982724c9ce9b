import numpy as np
import pytest
from fake_clock import FakeClock

from tokfilter.errors import EngineError
from tokfilter.runtime.measure.queued import queued_offline
from tokfilter.runtime.measure.scenario import ScenarioConfig, query_batches
from tokfilter.runtime.measure.throughput import offline
from tokfilter.runtime.session import QueueSession


class FakeQueue:
    """A session with two requests at a time; each takes a second of the fake clock."""

    def __init__(self, clock):
        self.clock, self.sizes, self.keeps = clock, [], []

    def run_queue(self, batches, keep=None, done=None):
        count = 0
        for batch in batches:
            self.sizes.append(len(batch))
            self.keeps.append(keep)
            if count % 2:
                self.clock.sleep(1.0)
            if done is not None:
                done(count, None, 1.0)
            count += 1
        return count


IMAGES = np.zeros((5, 3, 2, 2), np.float32)


@pytest.mark.parametrize("duration", [8.0, 1.0])
def test_images_per_second_of_two_requests_at_a_time(duration):
    clock = FakeClock()
    session = FakeQueue(clock)
    config = ScenarioConfig(duration_s=duration, warm_up_s=0.001, batch=2)
    found = queued_offline(session, query_batches(IMAGES, 2), config, 0.5, clock)
    assert found.scenario == "Offline" and found.images_per_s == pytest.approx(4.0)
    assert found.queries == max(10, round(2 * duration))
    assert found.latency.median == 1000.0
    assert set(session.sizes) == {2} and set(session.keeps) == {0.5}


def test_offline_takes_the_queue_of_a_single_session_that_has_one():
    session = FakeQueue(FakeClock())
    assert isinstance(session, QueueSession)
    found = offline([session], IMAGES, ScenarioConfig(duration_s=0.01, warm_up_s=0.001, batch=2))
    assert "as many requests at the same time" in found.notes[0]


def test_an_error_of_the_engine_is_raised():
    class Broken(FakeQueue):
        def run_queue(self, batches, keep=None, done=None):
            raise EngineError("broken")

    with pytest.raises(EngineError, match="broken"):
        offline([Broken(FakeClock())], IMAGES, ScenarioConfig(duration_s=0.01))
