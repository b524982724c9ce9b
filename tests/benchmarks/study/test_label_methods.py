import json
from importlib.resources import files

import jsonschema
import pytest
import torch
from click.testing import CliRunner

from tokfilter.artifacts.bundle import Architecture, Bundle, FilterConfig, Preprocessing
from tokfilter.benchmarks.study.label_methods import main, methods, rank_correlation, top_overlap
from tokfilter.benchmarks.study.scenes import SceneConfig, write_scenes
from tokfilter.train.masking import MaskConfig
from tokfilter.vit.backbone import create_backbone
from tokfilter.vit.bundle import save_bundle
from tokfilter.vit.golden import golden_from_model
from tokfilter.vit.model import FilteredViT, weights_from_model

SMALL = Architecture(
    "vit_tiny_patch16_224",
    {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 10},
)


def test_rank_correlation_and_overlap_of_known_orders():
    exact = torch.tensor([[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]])
    assert rank_correlation(exact**3, exact).value == pytest.approx(1)
    assert rank_correlation(-exact, exact).value == pytest.approx(-1)
    half = rank_correlation(torch.stack([exact[0], exact[0]]), exact)
    assert half.value == pytest.approx(0) and half.low < -0.9 and half.high > 0.9
    assert rank_correlation(torch.ones(2, 4), exact).value == 0  # no order at all
    assert top_overlap(exact**3, exact, 2) == 1 and top_overlap(-exact, exact, 2) == 0
    assert top_overlap(-exact, exact, 3) == pytest.approx(2 / 3)


def test_there_are_no_first_order_labels_for_removed_tokens():
    assert "first-order" in methods() and "first-order" not in methods(MaskConfig("removed"))


@pytest.mark.parametrize("mask", ["zero", "removed"])
def test_the_document_matches_its_schema(tmp_path, mask):
    write_scenes(tmp_path / "data", 0, 40, 20, config=SceneConfig(size=32, digits=(16,), window=(40, 60)))
    torch.manual_seed(0)
    model = FilteredViT(create_backbone(SMALL)).eval()
    backbone, scorer = weights_from_model(model)
    preprocessing = Preprocessing((3, 32, 32), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    golden = golden_from_model(model, torch.randn(2, 3, 32, 32), [0.5])
    names = [str(n) for n in range(10)]
    save_bundle(
        Bundle(SMALL, backbone, FilterConfig(), scorer, 0.5, preprocessing, names, golden, {}), tmp_path / "model.pt"
    )
    output = tmp_path / "out.json"
    arguments = [tmp_path / "model.pt", tmp_path / "data", "--images", 20, "--mask", mask, "-o", output]
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    document = json.loads(output.read_text())
    jsonschema.validate(
        document, json.loads(files("tokfilter.benchmarks").joinpath("schemas/label_methods.json").read_text())
    )
    rows = {row["name"]: row for row in document["rows"]}
    assert list(rows) == list(methods(MaskConfig(mask)))
    assert rows["exact"]["spearman"]["value"] == pytest.approx(1) and rows["exact"]["passes"] == 17
    assert all(overlap["shared"] == 1 for overlap in rows["exact"]["overlap"])
    assert rows["random groups of 4, 2 rounds"]["passes"] == 9 and rows["block groups of 4, 1 round"]["passes"] == 5
    assert document["data"]["images"] == 20
