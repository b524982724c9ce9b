"""Energy over a period of time, from the power sensors of this machine."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Final

from tokfilter.runtime.measure.sensors import EnergyCounter, PowerRails, hwmon, jtop_rails, nvml_counters, rapl

__all__ = ["Energy", "PowerMeter", "power_meter"]

_PERIOD_S: Final = 0.02
"""Seconds between samples of a power rail. hwmon's INA3221 refreshes every few ms, tegrastats only every 1000."""


@dataclass
class Energy:
    """Energy used while the meter ran.

    seconds: duration
    joules: rail -> joules
    """

    seconds: float = 0.0
    joules: dict[str, float] = field(default_factory=dict)

    @property
    def watts(self) -> dict[str, float]:
        """Mean power per rail."""
        return {name: joules / self.seconds for name, joules in self.joules.items()} if self.seconds > 0 else {}


@dataclass(frozen=True)
class PowerMeter:
    """All sensors that were found, and the names of the missing ones."""

    counters: Sequence[EnergyCounter]
    rails: Sequence[PowerRails]
    absent: Sequence[str]

    @property
    def present(self) -> bool:
        """Whether there is any sensor."""
        return bool(self.counters or self.rails)

    @contextmanager
    def measure(self) -> Iterator[Energy]:
        """Measure the block; the yielded Energy is filled in when the block ends."""
        energy = Energy()
        before = [counter.read() for counter in self.counters]
        sampler = _Sampler(self.rails)
        start = perf_counter()
        sampler.start()
        try:
            yield energy
        finally:
            sampler.stop()
            energy.seconds = perf_counter() - start
            energy.joules.update(sampler.joules)
            for counter, old in zip(self.counters, before, strict=True):
                energy.joules.update(_difference(counter, old))


def power_meter(root: Path = Path("/")) -> PowerMeter:
    """Look for sensors: NVML on discrete GPUs, RAPL, and on a Jetson hwmon, or jtop where hwmon has no rails."""
    counters = {"NVML (discrete GPU)": nvml_counters(), "RAPL (CPU package, readable by root)": rapl(root)}
    monitors = hwmon(root)
    rails = {"hwmon (Jetson)": monitors}
    if monitors is None:
        rails["jtop (Jetson)"] = jtop_rails()
    absent = [name for name, sensor in {**counters, **rails}.items() if sensor is None]
    return PowerMeter([c for c in counters.values() if c], [r for r in rails.values() if r], absent)


def _difference(counter: EnergyCounter, before: dict[str, float]) -> dict[str, float]:
    after = counter.read()
    used = {name: after[name] - before[name] for name in before if name in after}
    unwrapped = {
        name: joules + counter.wraps_at.get(name, 0.0) if joules < 0 else joules for name, joules in used.items()
    }
    # Still negative: the counter was reset, for example by reloading the driver.
    return {name: joules for name, joules in unwrapped.items() if joules >= 0}


class _Sampler:
    """Integrates power rails in a thread of its own, by the trapezoid rule.

    A rail with a missing reading is integrated across the gap. A rail without a first or last reading is left out: its
    energy would cover only a part of the time.
    """

    def __init__(self, rails: Sequence[PowerRails]) -> None:
        self.joules: dict[str, float] = {}
        self._rails = rails
        self._last: dict[str, tuple[float, float]] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def start(self) -> None:
        if self._rails:
            self._thread.start()

    def stop(self) -> None:
        self._done.set()
        if self._rails:
            self._thread.join()

    def _sample(self) -> None:
        whole = self._take()
        while not self._done.wait(_PERIOD_S):
            self._take()
        whole &= self._take()
        self.joules = {name: joules for name, joules in self.joules.items() if name in whole}

    def _take(self) -> set[str]:
        """Read the rails once. Returns the names of those that gave a value."""
        now, watts = perf_counter(), self._read()
        for name, value in watts.items():
            then, old = self._last.get(name, (now, value))
            self.joules[name] = self.joules.get(name, 0.0) + (value + old) / 2 * (now - then)
            self._last[name] = (now, value)
        return set(watts)

    def _read(self) -> dict[str, float]:
        return {name: value for rails in self._rails for name, value in rails.read().items()}
