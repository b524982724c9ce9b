"""Names in ONNX Runtime's profile, as they are after its optimiser."""

import pytest

from tokfilter.benchmarks.cpu_profile import KINDS, kind_of_node


@pytest.mark.parametrize(
    ("operator", "name", "kind"),
    [
        ("Gemm", "blocks.3.mlp.fc1/MatMul/MatMulAddFusion", "products with weights"),
        ("MatMul", "blocks.3.attn.qkv/MatMul", "products with weights"),
        ("FusedMatMul", "blocks.0.attn/MatMul/MatMulScaleFusion/", "attention"),
        ("MatMul", "blocks.0.attn/MatMul_1", "attention"),
        ("Softmax", "blocks.11.attn/Softmax", "attention"),
        ("BiasGelu", "BiasGelu_token_118", "GELU"),
        ("SkipLayerNormalization", "SkipLayerNormalization", "norms and sums"),
        ("Add", "blocks.0/Add_1", "norms and sums"),
        ("Transpose", "blocks.0.attn/Transpose_2", "copies"),
        ("ReorderOutput", "ReorderOutput", "patch embedding"),
        ("Transpose", "patch_embed/Transpose", "patch embedding"),
        ("MatMul", "patch_drop.scorer.mlp.1/MatMul", "rest"),
        ("LayerNormalization", "patch_drop.scorer.norm/LayerNormalization", "rest"),
        ("TopK", "", "rest"),
        ("Gemm", "head/Gemm", "rest"),
    ],
)
def test_kinds(operator, name, kind):
    assert kind_of_node(operator, name) == kind
    assert kind in KINDS
