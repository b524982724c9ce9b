"""Which engine and precision this CPU wants, from its instructions and what was measured on a CPU that has them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tokfilter.artifacts.extras import install_hint

__all__ = ["CpuAdvice", "advice_from_features"]

_PAGE: Final = "docs/cpu.md"
_COMPARE: Final = "`tokfilter bench out/ --runtime onnx,openvino` compares them here"


@dataclass(frozen=True)
class CpuAdvice:
    """An engine for this CPU.

    features: instructions that decide, by name
    runtime, precision: options of the commands
    measured: whether a measurement on a CPU with these instructions is published
    sentence: the same in words, with the page that has the figures
    """

    features: list[str]
    runtime: str
    precision: str
    measured: bool
    sentence: str


def advice_from_features(features: Sequence[str] | None, installed: bool) -> CpuAdvice:
    """The advice.

    features: as ``cpu_features`` lists them; None where they are not known
    installed: whether OpenVINO is here
    """
    there = list(features or ())
    install = "" if installed else f" {install_hint('openvino')}."
    if {"AVX-512 bf16", "AMX bf16"} & set(there):
        sentence = (
            "bf16 in hardware: OpenVINO computes the fp32 model in it (`--runtime openvino --precision bf16`), faster "
            f"than ONNX Runtime in fp32 ({_PAGE})."
        )
        return CpuAdvice(there, "openvino", "bf16", True, sentence + install)
    if "Arm bf16" in there or "Arm i8mm" in there:
        what = "bf16" if "Arm bf16" in there else "8-bit matrix products"
        return _unmeasured(there, f"{what} in hardware, of which OpenVINO makes use", install)
    if {"AVX-512 VNNI", "AVX VNNI", "Arm dotprod"} & set(there):
        return _unmeasured(there, "8-bit dot products in hardware and no bf16: int8 graphs gain most", install)
    known = "neither bf16 nor 8-bit dot products" if features is not None else "the instructions are not known"
    return _unmeasured(there, known, install)


def _unmeasured(features: list[str], reason: str, install: str) -> CpuAdvice:
    sentence = f"{reason}. We measured no such CPU: {_COMPARE} ({_PAGE})."
    return CpuAdvice(features, "onnx", "fp32", False, sentence[0].upper() + sentence[1:] + install)
