import pytest

from tokfilter.commands.cpu_advice import advice_from_features
from tokfilter.runtime.measure.cpu_features import FEATURES


@pytest.mark.parametrize("feature", ["AVX-512 bf16", "AMX bf16"])
def test_a_cpu_with_bf16_wants_openvino_in_bf16(feature):
    advice = advice_from_features(["AVX-512", feature], installed=True)
    assert (advice.runtime, advice.precision, advice.measured) == ("openvino", "bf16", True)
    assert "--runtime openvino --precision bf16" in advice.sentence and "docs/cpu.md" in advice.sentence
    assert "pip install" not in advice.sentence
    assert "pip install 'tokfilter[openvino]'." in advice_from_features([feature], installed=False).sentence


@pytest.mark.parametrize(
    ("features", "reason"),
    [
        (["AVX-512", "AVX-512 VNNI"], "8-bit dot products"),
        (["AVX VNNI"], "8-bit dot products"),
        (["Arm dotprod"], "8-bit dot products"),
        (["Arm dotprod", "Arm i8mm"], "8-bit matrix products"),
        (["Arm dotprod", "Arm i8mm", "Arm bf16"], "bf16 in hardware"),
        (["AVX-512"], "Neither bf16"),
        ([], "Neither bf16"),
        (None, "The instructions are not known"),
    ],
)
def test_what_was_not_measured_is_not_claimed(features, reason):
    advice = advice_from_features(features, installed=True)
    assert (advice.runtime, advice.precision, advice.measured) == ("onnx", "fp32", False)
    assert reason.lower() in advice.sentence.lower()
    assert "measured no such CPU" in advice.sentence and "--runtime onnx,openvino" in advice.sentence


def test_every_feature_has_an_advice():
    assert all(advice_from_features([name], installed=False).sentence for name in FEATURES)
