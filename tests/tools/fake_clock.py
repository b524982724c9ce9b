"""A clock that advances only when it is read or when something waits: timing tests with exact results."""


class FakeClock:
    """Seconds. Every reading advances the clock by ``tick``, every ``sleep`` by its duration."""

    def __init__(self, tick=0.0):
        self.now, self.tick, self.readings = 0.0, tick, 0

    def __call__(self):
        self.now += self.tick
        self.readings += 1
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class FakeSession:
    """A session whose calls take given seconds, the last one from then on; records the batch sizes."""

    def __init__(self, clock, *seconds, result=None):
        self.clock, self.seconds, self.result, self.sizes = clock, list(seconds), result, []

    def run(self, images, keep=None):
        self.clock.sleep(self.seconds[min(len(self.sizes), len(self.seconds) - 1)])
        self.sizes.append(len(images))
        return self.result
