"""Instructions of the CPU that decide which engine and precision are fast on it, read from Linux's /proc/cpuinfo."""

from collections.abc import Collection
from pathlib import Path
from typing import Final

__all__ = ["FEATURES", "cpu_features", "sums_overflow"]

FEATURES: Final = {
    "AVX-512": "avx512f",
    "AVX-512 bf16": "avx512_bf16",
    "AMX bf16": "amx_bf16",
    "AVX-512 VNNI": "avx512_vnni",
    "AVX VNNI": "avx_vnni",
    "AMX int8": "amx_int8",
    "Arm dotprod": "asimddp",
    "Arm i8mm": "i8mm",
    "Arm bf16": "bf16",
}
"""Name -> flag in /proc/cpuinfo: "flags" on x86, "Features" on Arm (arch/x86/include/asm/cpufeatures.h, arm64's
elf_hwcaps.rst)."""

_WIDE_SUMS: Final = ("AVX-512 VNNI", "AVX VNNI", "AMX int8", "Arm dotprod", "Arm i8mm")
_ARM: Final = ("Arm dotprod", "Arm i8mm", "Arm bf16")


def cpu_features(root: Path = Path("/")) -> list[str] | None:
    """Names of FEATURES that every core has; None where the system lists none (another system than Linux)."""
    try:
        lines = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    x86 = [set(line.partition(":")[2].split()) for line in lines if line.split(":")[0].strip() == "flags"]
    arm = [set(line.partition(":")[2].split()) for line in lines if line.split(":")[0].strip() == "Features"]
    cores = arm or x86
    if not cores:
        return None
    common = set.intersection(*cores)
    return [name for name, flag in FEATURES.items() if flag in common and (name in _ARM) == bool(arm)]


def sums_overflow(features: Collection[str] | None) -> bool:
    """Whether ONNX Runtime's fastest int8 products overflow here: x86 without VNNI adds two of them in 16 bits.

    The remedy is its option session.x64quantprecision: sums of 32 bits. On a CPU with VNNI int8 is as slow as fp32 with
    it (1.0 instead of 1.7 times, DeiT-S at batch 8). Where no features are known (None), sums may overflow.

    features: names of FEATURES
    """
    return not any(name in _WIDE_SUMS for name in features or ())
