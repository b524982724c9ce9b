"""Instructions of the CPU that decide which engine and precision are fast on it, read from Linux's /proc/cpuinfo."""

from pathlib import Path
from typing import Final

__all__ = ["FEATURES", "cpu_features"]

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
