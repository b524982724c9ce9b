from tree import write_tree

from tokfilter.runtime.measure.machine import conditions, machine, versions


def test_machine_of_a_jetson(tmp_path):
    write_tree(
        tmp_path,
        {
            "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\x00",
            "var/lib/nvpmodel/status": "pmode:0000",
            "proc/cpuinfo": "processor : 0\nmodel name : ARMv8 Processor rev 1 (v8l)",
            "proc/meminfo": "MemTotal:       1024 kB\nMemFree: 1 kB",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil",
            "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "performance",
            "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "2201600",
            "sys/class/thermal/thermal_zone0/temp": "47250",
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
            "sys/class/thermal/thermal_zone1/temp": "not ready",
        },
    )
    found = machine(tmp_path)
    assert found["board"] == "NVIDIA Jetson AGX Orin Developer Kit"
    assert (found["power_mode"], found["governor"], found["memory_bytes"]) == (
        "pmode:0000",
        "performance, schedutil",
        2**20,
    )
    assert found["cpu"].startswith("ARMv8")
    state = conditions(tmp_path)
    assert state["temperatures_c"]["cpu-thermal"] == 47.25
    assert "thermal_zone1" not in state["temperatures_c"]
    assert state["clocks_mhz"]["cpu1"] == 2201.6


def test_machine_without_readable_files(tmp_path):
    found = machine(tmp_path)
    assert found["board"] is found["governor"] is found["power_mode"] is None
    assert found["cores"] >= 1 and found["memory_bytes"] == 0
    assert {"python", "numpy", "tokfilter"} <= set(versions())
