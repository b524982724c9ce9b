"""Power sensors: energy counters (RAPL, NVML) and power rails (hwmon, jtop), each by the name that the machine gives.

A meter that counts energy is read twice; one that shows power is sampled and integrated by ``runtime.power``. Sources:
Linux, Documentation/power/powercap/powercap.rst and Documentation/hwmon/sysfs-interface.rst; NVIDIA's NVML reference.
"""

from collections.abc import Callable, Container
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

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
    """Shows power now. read: rail name -> watts."""

    name: str
    read: Callable[[], dict[str, float]]


def nvml_counters() -> EnergyCounter | None:
    """Energy of every discrete NVIDIA GPU since its driver was loaded (Volta and later), None where there is none.

    NVML stays started: to start it takes as long as a short measurement, and the energy of that time would be counted.
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
    """Energy of CPU packages and memory by Intel's and AMD's RAPL, None where it cannot be read (it wants root)."""
    zones: dict[str, Path] = {}
    for zone in sorted((root / "sys/class/powercap").glob("*-rapl:*")):
        if _number(zone / "energy_uj") is not None:
            label = _read(zone / "name") or zone.name
            zones[_own_name(label, zone, zones)] = zone
    if not zones:
        return None

    def read() -> dict[str, float]:
        values = {name: _number(zone / "energy_uj") for name, zone in zones.items()}
        return {name: value / 1e6 for name, value in values.items() if value is not None}

    limits = {name: _number(zone / "max_energy_range_uj") for name, zone in zones.items()}
    return EnergyCounter("rapl", read, {name: limit / 1e6 for name, limit in limits.items() if limit})


def hwmon(root: Path = Path("/")) -> PowerRails | None:
    """Rails of the INA3221 monitors of a Jetson, or any labelled power sensor of hwmon; None where there is none."""
    rails: dict[str, Callable[[], float | None]] = {}
    for device in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        for label in sorted(device.glob("in[0-9]*_label")):
            name, index = _read(label), label.name.removeprefix("in").removesuffix("_label")
            current, voltage = device / f"curr{index}_input", device / f"in{index}_input"
            if name and _number(current) is not None and _number(voltage) is not None:
                rails[_own_name(name, device, rails)] = _product(voltage, current)
        for power in sorted(device.glob("power[0-9]*_input")):
            name = _read(power.with_name(power.name.replace("_input", "_label")))
            if name:
                rails[_own_name(name, device, rails)] = _scaled(power, 1e6)
    if not rails:
        return None

    def read() -> dict[str, float]:
        values = {name: watts() for name, watts in rails.items()}
        return {name: value for name, value in values.items() if value is not None}

    return PowerRails("hwmon", read)


def jtop_rails() -> PowerRails | None:
    """Rails of a Jetson through jetson-stats' service, None where it is not installed or does not run.

    The service keeps the rail that feeds the whole board (VDD_IN) apart from the others, or adds all up.
    """
    try:
        from jtop import jtop

        client = jtop(interval=0.1)
        client.start()
    except Exception:  # no package, no service, no Jetson
        return None

    def read() -> dict[str, float]:
        with suppress(Exception):
            client.ok(spin=True)  # raises what ended the client, whose last reading stays for ever
            power = client.power
            rails = {**power["rail"], power["tot"].get("name", "total"): power["tot"]}
            return {name: rail["power"] / 1000 for name, rail in rails.items()}
        return {}

    if read():
        return PowerRails("jtop", read)
    with suppress(Exception):
        client.close()
    return None


def _own_name(label: str, device: Path, taken: Container[str]) -> str:
    return label if label not in taken else f"{label} {device.name}"


def _product(voltage: Path, current: Path) -> Callable[[], float | None]:
    def watts() -> float | None:
        millivolts, milliamperes = _number(voltage), _number(current)
        return None if millivolts is None or milliamperes is None else millivolts * milliamperes / 1e6

    return watts


def _scaled(path: Path, divisor: float) -> Callable[[], float | None]:
    def watts() -> float | None:
        value = _number(path)
        return None if value is None else value / divisor

    return watts


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None


def _number(path: Path) -> float | None:
    text = _read(path)
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
