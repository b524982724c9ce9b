"""What a report must not be taken to prove, as far as its documents tell."""

from collections.abc import Mapping
from typing import Any

__all__ = ["device_from_bench", "limits_from_report"]


def device_from_bench(bench: Mapping[str, Any]) -> str:
    """Name of what computed: the GPU where the engine or its provider runs on one, else the CPU."""
    machine = bench["machine"]
    return str(machine["gpus"][0]["name"] if _on_gpu(bench) and machine["gpus"] else machine["cpu"])


def _on_gpu(bench: Mapping[str, Any]) -> bool:
    settings = bench["settings"]
    return settings["engine"].startswith("tensorrt") or settings["provider"] not in (None, "cpu")


def limits_from_report(report: Mapping[str, Any]) -> list[str]:
    """Sentences for the page's last section, the weightiest first."""
    limits = []
    if report["bench"]:
        limits += _of_speed(report["bench"])
    if report["accuracy"]:
        limits += _of_accuracy(report["accuracy"])
    if report["story"]["same_model"] is False:
        limits.append(
            "Accuracy and speed were measured on different models, so this page does not set them side by side."
        )
    if report["pictures"]:
        limits.append(
            "Pictures of kept tokens show what the filter chose, not why, and a handful of images is no statistic."
        )
    return limits


def _of_speed(bench: Mapping[str, Any]) -> list[str]:
    machine, settings = bench["machine"], bench["settings"]
    limits = []
    if not _on_gpu(bench):
        limits.append(
            "No GPU took part: nothing here says how fast an engine with the fused kernel is on one. "
            "Run the same command there."
        )
    limits.append(
        f"Speed holds for this machine, engine and precision ({settings['engine']}, {settings['precision']}): the gain "
        "depends on all three, and on the batch."
    )
    if machine["governor"] is None:
        limits.append(
            "The machine does not show its clock governor, so its clock may have moved while it was measured."
        )
    if any(state["throttled"] for state in bench["conditions"].values()):
        limits.append("The machine throttled its clock during the measurement: a cooler one is faster.")
    limits.append(
        "Multiply-accumulates count matrix products and convolutions; a prediction from them knows no memory."
    )
    return limits


def _of_accuracy(accuracy: Mapping[str, Any]) -> list[str]:
    seeds = max(len(row["top1"]) for row in accuracy["rows"])
    limits = ["Accuracy holds for this data and this training: on yours, measure it with `tokfilter eval`."]
    if seeds == 1:
        limits.append("One model was measured: how much accuracy varies from training to training is not known.")
    return limits
