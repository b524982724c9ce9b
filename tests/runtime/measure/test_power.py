import os
import threading
import time

import pytest
from fake_clock import FakeClock
from fake_jtop import install_fake_jtop
from fake_nvml import install_fake_nvml
from tree import write_tree

from tokfilter.runtime.measure.machine import conditions, machine
from tokfilter.runtime.measure.memory import device_bytes
from tokfilter.runtime.measure.power import PowerMeter, power_meter
from tokfilter.runtime.measure.sensors import EnergyCounter, PowerRails, hwmon, jtop_rails, nvml_counters, rapl
from tokfilter.trt.gpus import nvml


def intel(root):
    zones = {"intel-rapl:0": "package-0", "intel-rapl:0:0": "dram", "intel-rapl:1": "package-1"}
    for zone, name in zones.items():
        folder = f"sys/class/powercap/{zone}"
        write_tree(
            root, {f"{folder}/name": name, f"{folder}/energy_uj": 5_000_000, f"{folder}/max_energy_range_uj": 9_000_000}
        )
    return root


def orin(root):
    """The INA3221 of a Jetson Orin: millivolts and milliamperes per labelled rail; the sum channel has no label."""
    rails = {1: ("VDD_IN", 5000, 1200), 2: ("VDD_CPU_GPU_CV", 5000, 400), 3: ("VDD_SOC", 5000, 300)}
    for i, (name, volts, amperes) in rails.items():
        folder = "sys/class/hwmon/hwmon1"
        write_tree(
            root, {f"{folder}/in{i}_label": name, f"{folder}/in{i}_input": volts, f"{folder}/curr{i}_input": amperes}
        )
    return write_tree(
        root, {"sys/class/hwmon/hwmon1/in7_label": "sum of shunt voltages", "sys/class/hwmon/hwmon0/name": "x"}
    )


def test_rapl_reads_zones_by_name(tmp_path):
    counter = rapl(intel(tmp_path))
    assert counter.read() == {"package-0": 5.0, "dram": 5.0, "package-1": 5.0}
    assert counter.wraps_at["package-0"] == 9.0


def test_wrapped_rapl_counter_is_corrected(tmp_path):
    meter = PowerMeter([rapl(intel(tmp_path))], [], [])
    with meter.measure() as energy:
        write_tree(tmp_path, {"sys/class/powercap/intel-rapl:0/energy_uj": 1_000_000})
    assert energy.joules == {"package-0": 5.0, "dram": 0.0, "package-1": 0.0}


def test_two_zones_with_one_name_have_two_keys(tmp_path):
    write_tree(intel(tmp_path), {"sys/class/powercap/intel-rapl:1/name": "package-0"})
    assert set(rapl(tmp_path).read()) == {"package-0", "dram", "package-0 intel-rapl:1"}


def test_unreadable_energy_is_absent(tmp_path):
    assert rapl(write_tree(tmp_path, {"sys/class/powercap/intel-rapl:0/name": "package-0"})) is None
    assert rapl(write_tree(tmp_path, {"sys/class/powercap/intel-rapl:0/energy_uj": "garbage"})) is None


def test_hwmon_gives_the_rails_of_a_jetson_in_watts(tmp_path):
    assert hwmon(orin(tmp_path)).read() == {"VDD_IN": 6.0, "VDD_CPU_GPU_CV": 2.0, "VDD_SOC": 1.5}


def test_two_rails_with_one_name_have_two_keys(tmp_path):
    for device in ("hwmon3", "hwmon4"):
        folder = f"sys/class/hwmon/{device}"
        write_tree(tmp_path, {f"{folder}/power1_input": 7_500_000, f"{folder}/power1_label": "PPT"})
    assert hwmon(tmp_path).read() == {"PPT": 7.5, "PPT hwmon4": 7.5}


def test_unreadable_label_is_ignored(tmp_path):
    write_tree(orin(tmp_path), {"sys/class/hwmon/hwmon1/in4_label": ""})
    (tmp_path / "sys/class/hwmon/hwmon1/in4_label").write_bytes(b"\xff\xfe")
    assert set(hwmon(tmp_path).read()) == {"VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"}


def test_hwmon_gives_labelled_power(tmp_path):
    folder = "sys/class/hwmon/hwmon3"
    write_tree(
        tmp_path, {f"{folder}/power1_input": 7_500_000, f"{folder}/power1_label": "PPT", f"{folder}/power2_input": 1}
    )
    assert hwmon(tmp_path).read() == {"PPT": 7.5}


def test_rail_that_disappears_is_left_out(tmp_path):
    rails = hwmon(orin(tmp_path))
    (tmp_path / "sys/class/hwmon/hwmon1/curr1_input").unlink()
    assert set(rails.read()) == {"VDD_CPU_GPU_CV", "VDD_SOC"}


def measured(monkeypatch, readings):
    """Energy of rails with these ``readings`` in sequence, one second apart, of which the last may repeat.

    Returns it with the number of readings taken.
    """
    clock, left, taken, finished = FakeClock(tick=1.0), list(readings), [], threading.Event()

    def read():
        taken.append(left.pop(0) if len(left) > 1 else left[0])
        if len(left) == 1 and taken[-1] is left[0]:
            finished.set()
        return taken[-1]

    monkeypatch.setattr("tokfilter.runtime.measure.power.perf_counter", clock)
    with PowerMeter([], [PowerRails("bench", read)], []).measure() as energy:
        assert finished.wait(60)
    return energy, len(taken)


def test_sampled_power_integrates_to_joules(monkeypatch):
    energy, readings = measured(monkeypatch, [{"VDD_IN": 6.0}, {"VDD_IN": 6.0}, {"VDD_IN": 6.0}])
    assert energy.joules == {"VDD_IN": pytest.approx(6.0 * (readings - 1))}
    assert energy.seconds == readings + 1
    assert energy.watts == {"VDD_IN": pytest.approx(6.0 * (readings - 1) / (readings + 1))}


def test_changing_power_is_integrated_by_the_trapezoid_rule(monkeypatch):
    energy, readings = measured(monkeypatch, [{"VDD_IN": 2.0}, {"VDD_IN": 6.0}, {"VDD_IN": 0.0}])
    assert readings >= 3 and energy.joules == {"VDD_IN": pytest.approx(4.0 + 3.0)}


def test_counted_energy_is_a_difference():
    readings = iter([{"gpu0": 10.0, "gone": 1.0}, {"gpu0": 25.0}])
    meter = PowerMeter([EnergyCounter("bench", lambda: next(readings), {})], [], [])
    with meter.measure() as energy:
        pass
    assert energy.joules == {"gpu0": 15.0}


def test_counter_reset_with_unknown_limit_is_left_out(tmp_path):
    root = intel(tmp_path)
    (root / "sys/class/powercap/intel-rapl:0/max_energy_range_uj").unlink()
    meter = PowerMeter([rapl(root)], [], [])
    with meter.measure() as energy:
        write_tree(root, {"sys/class/powercap/intel-rapl:0/energy_uj": 1_000_000})
    assert energy.joules == {"dram": 0.0, "package-1": 0.0}


def test_a_missing_reading_is_integrated_across_the_gap(monkeypatch):
    energy, readings = measured(monkeypatch, [{"VDD_IN": 6.0}, {"VDD_IN": 6.0}, {}, {}, {"VDD_IN": 6.0}])
    assert energy.joules == {"VDD_IN": pytest.approx(6.0 * (readings - 1))}


def test_joules_of_a_part_of_the_time_are_left_out(monkeypatch):
    readings = [{"A": 1.0, "gone": 1.0}, {"A": 1.0, "gone": 1.0, "late": 1.0}, {"A": 1.0, "late": 1.0}]
    energy, _ = measured(monkeypatch, readings)
    assert set(energy.joules) == {"A"}


def test_jtop_gives_all_rails_and_the_total(monkeypatch):
    install_fake_jtop(monkeypatch)
    assert jtop_rails().read() == {"VDD_SOC": 1.5, "VDD_IN": 6.0}
    install_fake_jtop(monkeypatch, total={"power": 7000})
    assert jtop_rails().read() == {"VDD_SOC": 1.5, "total": 7.0}


def test_stopped_or_empty_jtop_is_absent(monkeypatch):
    client = install_fake_jtop(monkeypatch)
    rails = jtop_rails()
    client.ended = True
    assert rails.read() == {}
    install_fake_jtop(monkeypatch, rails={})
    assert jtop_rails() is None


@pytest.fixture
def pynvml(monkeypatch):
    return install_fake_nvml(monkeypatch)


def test_nvml_is_not_started_inside_a_measurement(pynvml):
    meter = PowerMeter([nvml_counters()], [], [])
    for _ in range(2):
        with meter.measure() as energy:
            pynvml.millijoules += 2500
        assert energy.joules == {"gpu0": 2.5}
    assert pynvml.starts == 1


def test_nvml_without_a_counter_is_stopped_again(pynvml):
    pynvml.nvmlDeviceGetCount = lambda: 0
    assert nvml_counters() is None
    assert pynvml.started == 0


def test_a_gpu_that_may_not_be_used_is_left_out(pynvml, tmp_path):
    assert [gpu["name"] for gpu in machine(tmp_path)["gpus"]] == ["Fake GPU"]
    assert conditions(tmp_path)["throttle_reasons"] == ["gpu0: software power cap"]


def test_absent_sensors_are_listed(tmp_path):
    if nvml_counters() is not None:
        pytest.skip("this machine has a GPU that counts energy")
    meter = power_meter(tmp_path)
    assert not meter.present
    assert [name.split()[0] for name in meter.absent] == ["NVML", "RAPL", "hwmon", "jtop"]
    assert power_meter(orin(tmp_path)).present
    assert jtop_rails() is None


def test_nvml_is_none_without_a_driver():
    with nvml() as library:
        if library is not None:
            pytest.skip("this machine has a driver")
        assert nvml_counters() is None and device_bytes(os.getpid()) is None


@pytest.mark.gpu
def test_nvml_counts_energy_of_a_gpu():
    counter = nvml_counters()
    assert counter is not None
    before = counter.read()
    time.sleep(1)
    assert counter.read()["gpu0"] > before["gpu0"]
