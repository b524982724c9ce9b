"""Limits of a report's results, derived from its documents."""

from collections.abc import Mapping
from typing import Any

__all__ = ["device_from_bench", "limits_from_report"]


def device_from_bench(bench: Mapping[str, Any]) -> str:
    """Name of the device that ran the model: the GPU where the engine or its provider runs on one, else the CPU."""
    machine = bench["machine"]
    return str(machine["gpus"][0]["name"] if _on_gpu(bench) and machine["gpus"] else machine["cpu"])


def _on_gpu(bench: Mapping[str, Any]) -> bool:
    settings = bench["settings"]
    return settings["engine"].startswith("tensorrt") or settings["provider"] not in (None, "cpu")


def limits_from_report(report: Mapping[str, Any]) -> list[str]:
    """Sentences for the page's last section, the most important first."""
    limits = []
    if report["bench"]:
        limits += _of_speed(report["bench"])
    if report["accuracy"]:
        limits += _of_accuracy(report["accuracy"])
    if "real_size" in report:
        model = report["real_size"]["model"]["architecture"]
        limits.append(f"The weights of {model} are random: its speed was measured, its accuracy is unknown.")
    if report["story"]["same_model"] is False:
        limits.append("Accuracy and speed were measured on different models, so they are not combined.")
    if report["pictures"]:
        limits.append("The pictures show what is kept on a few images: they are examples, not statistics.")
    return limits


def _of_speed(bench: Mapping[str, Any]) -> list[str]:
    machine, settings = bench["machine"], bench["settings"]
    limits = []
    if not _on_gpu(bench):
        limits.append(
            "Measured on a CPU: the speed on a GPU, with the fused kernel, is not known from this. "
            "Run the same command on the GPU."
        )
    limits.append(
        f"The speed is that of this machine, engine and precision ({settings['engine']}, {settings['precision']}): the "
        "speed-up depends on all three, and on the batch size."
    )
    if machine["governor"] is None:
        limits.append(
            "The clock governor of the machine cannot be read: its clock may have changed during the measurement."
        )
    if any(state["throttled"] for state in bench["conditions"].values()):
        limits.append("The machine throttled its clock during the measurement: better cooling gives other results.")
    limits.append("The MAC ratio counts matrix products and convolutions; it does not include memory traffic.")
    return limits


def _of_accuracy(accuracy: Mapping[str, Any]) -> list[str]:
    seeds = max(len(row["top1"]) for row in accuracy["rows"])
    limits = ["The accuracy is that of this data and this training: measure it on your own data with `tokfilter eval`."]
    if seeds == 1:
        limits.append("One model was measured: the variation between training runs is not known.")
    return limits
