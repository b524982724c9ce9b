from tokfilter.benchmarks.records.cuda_tables import cuda_zoo_table


def test_a_failed_model_and_a_failed_check_are_in_the_table():
    fused = {"fused": 2, "found": 3, "not_fused": {"odd": ["a"]}}
    good = {"nodes": {"filtered": 47}, "fusions": {"attentions": fused}, "failed": [], "relative_error": 3e-7}
    names = {"family": "ViT", "image_size": None}
    rows = [
        {
            **names,
            "model": "a",
            "plain_nodes": {"filtered": 102},
            "fp32": good,
            "fp16": good | {"failed": ["x"]},
            "bf16": good,
        },
        {**names, "model": "b", "reason": "it is odd"},
    ]
    document = {
        "models": rows,
        "machine": {"gpus": [], "cpu": "x", "cores": 2},
        "versions": {},
        "created": "2026-11-26",
        "command": "c",
    }
    table = cuda_zoo_table(document)
    assert "| ViT | `a` | 2 of 3 |  |  | 102 → 47 | 3e-07 | 3e-07 ✗ | 3e-07 |" in table
    assert "| ViT | b | ✗ it is odd |" in table
    assert "0 of 2 within the tolerances" in table
