"""Labels are measured against the plain backbone, compared first; what was measured is what its schema says."""

import json

import jsonschema
import pytest
import torch
from click.testing import CliRunner
from paths import SCHEMAS

from tokfilter.artifacts.bundle import Architecture
from tokfilter.benchmarks.study import label_speed
from tokfilter.errors import VerificationError
from tokfilter.train.masking import MaskConfig

SCHEMA = json.loads((SCHEMAS / "label_speed.json").read_text())
SMALL = Architecture("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1})


def test_the_published_result_matches_its_schema_and_meets_the_goal():
    document = json.loads(label_speed.RESULT.read_text())
    jsonschema.validate(document, SCHEMA)
    assert {row["model"] for row in document["rows"]} >= {"deit_tiny_patch16_224"}
    for row in document["rows"]:
        assert row["ratio"]["value"] >= label_speed.GOAL == row["goal"], row["model"]


def test_the_exit_code_is_0_if_the_goal_is_met(tmp_path):
    output = tmp_path / "speed.json"
    arguments = ["--model", "fashion-mnist", "--batch", "49", "--images", "1", "--rounds", "3", "-o", str(output)]
    result = CliRunner().invoke(label_speed.main, arguments)
    document = json.loads(output.read_text())
    jsonschema.validate(document, SCHEMA)
    (row,) = document["rows"]
    assert (row["patches"], row["batch"], row["images_per_round"], row["rounds"]) == (49, 49, 1, 3)
    assert row["architecture"]["img_size"] == 28
    assert result.exit_code == (0 if row["reached"] else 1), result.output
    assert "fashion-mnist, fp32: " in result.output and "variants/s" in result.output


def test_half_precision_is_compared_with_half_precision(monkeypatch):
    seen, create = {}, label_speed.create_backbone

    def watched(architecture):
        backbone = create(architecture)
        found = seen.setdefault(len(seen), set())
        backbone.blocks[0].attn.qkv.register_forward_hook(lambda module, inputs, output: found.add(output.dtype))
        return backbone

    monkeypatch.setattr(label_speed, "create_backbone", watched)
    row = label_speed.measure(SMALL, batch=8, images=1, rounds=1, mask=MaskConfig(), precision="bf16")
    assert row["precision"] == "bf16"
    assert seen == {0: {torch.bfloat16}, 1: {torch.bfloat16}}  # plain, labels


def test_every_variant_and_every_image_is_computed(monkeypatch):
    """The plain backbone gets as many images as there are variants, in batches of the same size."""
    seen, create = [], label_speed.create_backbone

    def counted(architecture):
        backbone = create(architecture)
        backbone.blocks[0].register_forward_hook(lambda module, inputs, output: seen.append((id(module), len(output))))
        return backbone

    monkeypatch.setattr(label_speed, "create_backbone", counted)
    label_speed.measure(SMALL, batch=8, images=2, rounds=3, mask=MaskConfig())
    labels, plain = ([count for module, count in seen if module == which] for which in dict(seen))
    assert plain == [8] * (1 + 3 * 4)
    compared = [1, 8, 8, 1, *[1] * 16]
    assert labels == compared + 3 * [2, 8, 8, 8, 8]


def test_wrong_labels_are_not_timed(monkeypatch):
    def wrong(model, images, labels, config, chunk):
        delta = torch.zeros(len(images), model.num_patches)
        return delta + chunk, delta[:, 0]

    monkeypatch.setattr(label_speed, "delta_loss", wrong)
    with pytest.raises(
        VerificationError, match="labels in chunks of 8 differ by 7 from labels one by one, so they are not timed"
    ):
        label_speed.measure(SMALL, batch=8, images=1, rounds=1, mask=MaskConfig())
