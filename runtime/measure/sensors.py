"""Power sensors: energy counters (RAPL, NVML) and power rails (hwmon, jtop), under the names that the machine gives.

An energy counter is read twice; a power rail is sampled and integrated by ``measure.power``. Sources:
Linux, Documentation/power/powercap/powercap.rst and Documentation/hwmon/sysfs-interface.rst; NVIDIA's NVML reference.
"""

from collections.abc import Callable, Container
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tokfilter.runtime.measure.sysfs import number_from_file, text_from_file
from tokfilter.trt.gpus import handles, query, start_nvml

__all__ = ["EnergyCounter", "PowerRails", "Sensor", "hwmon", "jtop_rails", "nvml_counters", "rapl"]


class Sensor(Protocol):
    """A source of energy or power readings."""

    name: str


@dataclass(frozen=True)
class EnergyCounter:
    """Counts energy since some moment.

    read: rail name -> joules
    wraps_at: rail name -> joules at which its counter starts from zero again
    """

    name: str
    read: Callable[[], dict[str, float]]
    wraps_at: dict[str, float]


@dataclass(frozen=True)
class PowerRails:
    """Measures present power. read: rail name -> watts."""

    name: str
    read: Callable[[], dict[str, float]]


def nvml_counters() -> EnergyCounter | None:
    """Energy of every discrete NVIDIA GPU since its driver was loaded (Volta and later), None where there is none.

    NVML stays initialised: initialisation takes as long as a short measurement, and its energy would be counted.
    """
    library = start_nvml()
    if library is None:
        return None

    def read() -> dict[str, float]:
        # Jetsons and GPUs before Volta have no such counter.
        counts = {name: query(library.nvmlDeviceGetTotalEnergyConsumption, handle) for name, handle in handles(library)}
        return {name: count / 1000 for name, count in counts.items() if count is not None}

    if read():
        return EnergyCounter("nvml", read, {})
    library.nvmlShutdown()
    return None


def rapl(root: Path = Path("/")) -> EnergyCounter | None:
    """Energy of CPU packages and memory by Intel's and AMD's RAPL, None where it cannot be read (root only)."""
    zones: dict[str, Path] = {}
    for zone in sorted((root / "sys/class/powercap").glob("*-rapl:*")):
        if number_from_file(zone / "energy_uj") is not None:
            label = text_from_file(zone / "name") or zone.name
            zones[_unique_name(label, zone, zones)] = zone
    if not zones:
        return None

    def read() -> dict[str, float]:
        values = {name: number_from_file(zone / "energy_uj") for name, zone in zones.items()}
        return {name: value / 1e6 for name, value in values.items() if value is not None}

    limits = {name: number_from_file(zone / "max_energy_range_uj") for name, zone in zones.items()}
    return EnergyCounter("rapl", read, {name: limit / 1e6 for name, limit in limits.items() if limit})


def hwmon(root: Path = Path("/")) -> PowerRails | None:
    """Rails of the INA3221 monitors of a Jetson, or any labelled power sensor of hwmon; None where there is none."""
    rails: dict[str, Callable[[], float | None]] = {}
    for device in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        for label in sorted(device.glob("in[0-9]*_label")):
            name, index = text_from_file(label), label.name.removeprefix("in").removesuffix("_label")
            current, voltage = device / f"curr{index}_input", device / f"in{index}_input"
            if name and number_from_file(current) is not None and number_from_file(voltage) is not None:
                rails[_unique_name(name, device, rails)] = _product(voltage, current)
        for power in sorted(device.glob("power[0-9]*_input")):
            name = text_from_file(power.with_name(power.name.replace("_input", "_label")))
            if name:
                rails[_unique_name(name, device, rails)] = _scaled(power, 1e6)
    if not rails:
        return None

    def read() -> dict[str, float]:
        values = {name: watts() for name, watts in rails.items()}
        return {name: value for name, value in values.items() if value is not None}

    return PowerRails("hwmon", read)


def jtop_rails() -> PowerRails | None:
    """Rails of a Jetson through jetson-stats' service, None where it is not installed or does not run.

    The total is the rail of the whole board (VDD_IN) where there is one, else the sum of the rails.
    """
    try:
        from jtop import jtop

        client = jtop(interval=0.1)
        client.start()
    except Exception:  # no package, no service, no Jetson
        return None

    def read() -> dict[str, float]:
        with suppress(Exception):
            client.ok(spin=True)  # raises after the client has stopped; its last reading would stay unchanged
            power = client.power
            rails = {**power["rail"], power["tot"].get("name", "total"): power["tot"]}
            return {name: rail["power"] / 1000 for name, rail in rails.items()}
        return {}

    if read():
        return PowerRails("jtop", read)
    with suppress(Exception):
        client.close()
    return None


def _unique_name(label: str, device: Path, taken: Container[str]) -> str:
    return label if label not in taken else f"{label} {device.name}"


def _product(voltage: Path, current: Path) -> Callable[[], float | None]:
    def watts() -> float | None:
        millivolts, milliamperes = number_from_file(voltage), number_from_file(current)
        return None if millivolts is None or milliamperes is None else millivolts * milliamperes / 1e6

    return watts


def _scaled(path: Path, divisor: float) -> Callable[[], float | None]:
    def watts() -> float | None:
        value = number_from_file(path)
        return None if value is None else value / divisor

    return watts
