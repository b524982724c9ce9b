import pytest

from tokfilter.runtime.measure.cpu_features import cpu_features, sums_overflow

XEON = "flags\t\t: fpu avx2 avx512f avx512_bf16 amx_bf16 avx512_vnni avx_vnni amx_int8"
ZEN = "flags : fpu avx2 avx512f avx512_bf16 avx512_vnni"
OLD = "flags : fpu sse4_2 avx2"
ARM = "Features\t: fp asimd asimddp i8mm bf16"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (XEON, ["AVX-512", "AVX-512 bf16", "AMX bf16", "AVX-512 VNNI", "AVX VNNI", "AMX int8"]),
        (ZEN, ["AVX-512", "AVX-512 bf16", "AVX-512 VNNI"]),
        (OLD, []),
        (ARM, ["Arm dotprod", "Arm i8mm", "Arm bf16"]),
        (f"{XEON}\n\n{ZEN}\n", ["AVX-512", "AVX-512 bf16", "AVX-512 VNNI"]),  # what every core has
        ("processor : 0\nmodel name : ARMv8\n", None),
        ("flags :\n", []),
        ("", None),
    ],
)
def test_flags_of_every_core(tmp_path, text, found):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cpuinfo").write_text(text)
    assert cpu_features(tmp_path) == found


def test_a_system_without_cpuinfo(tmp_path):
    assert cpu_features(tmp_path) is None


@pytest.mark.parametrize(
    ("features", "overflow"),
    [(["AVX-512"], True), ([], True), (None, True), (["AVX-512", "AVX VNNI"], False), (["Arm dotprod"], False)],
)
def test_int8_sums_overflow_on_x86_without_vnni(features, overflow):
    assert sums_overflow(features) == overflow
