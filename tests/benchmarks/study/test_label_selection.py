import json

import jsonschema
import pytest
import torch
from click.testing import CliRunner
from paths import ROOT, SCHEMAS

from tokfilter.artifacts.bundle import Architecture
from tokfilter.benchmarks.records.label_tables import selection_table
from tokfilter.benchmarks.study.label_selection import _changes, label_configs, main
from tokfilter.benchmarks.study.scenes import SceneConfig, write_scenes
from tokfilter.train.token_sets import groups_of_tokens
from tokfilter.vit.backbone import create_backbone
from tokfilter.vit.bundle import bundle_from_model, save_bundle
from tokfilter.vit.patch import patch

SMALL = Architecture(
    "vit_tiny_patch16_224",
    {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 10},
)
SCHEMA = json.loads((SCHEMAS / "label-selection.json").read_text())


@pytest.fixture
def model():
    torch.manual_seed(0)
    backbone = create_backbone(SMALL)
    for parameter in backbone.parameters():  # freshly made models have silent heads and position embeddings
        torch.nn.init.normal_(parameter, std=0.2)
    return patch(backbone, architecture=SMALL).eval()


@pytest.mark.parametrize(("grid", "tokens"), [((4, 4), 16), ((7, 7), 49), ((3, 5), 15), ((16, 16), 256)])
def test_groups_have_at_most_as_many_passes_as_exact_labels(grid, tokens):
    for config in label_configs(tokens).values():
        if config.method == "grouped":
            assert tokens * 0.6 < groups_of_tokens(grid, config.groups, torch.zeros(1)).shape[1] <= tokens


@torch.inference_mode()
def test_every_token_kept_changes_nothing_and_the_highest_labels_are_kept(model):
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    labels = torch.rand(3, 16, generator=torch.Generator().manual_seed(2))
    divergence, same = _changes(model, images, labels, 16)
    assert divergence.abs().max() < 1e-5 and same.tolist() == [1, 1, 1]
    divergence, _ = _changes(model, images, labels, 5)
    embedded = model.embed(images)
    for i in range(3):
        places = labels[i].topk(5).indices.sort().values
        kept = torch.cat([embedded[i : i + 1, :1], embedded[i : i + 1, 1:][:, places]], dim=1)
        logits = model.classify_tokens(kept, images[i : i + 1], places[None].int())
        full = model.classify_tokens(embedded[i : i + 1], images[i : i + 1])
        expected = (full.softmax(1) * (full.log_softmax(1) - logits.log_softmax(1))).sum()
        assert divergence[i] == pytest.approx(float(expected), rel=1e-3, abs=1e-5)


def test_the_document_fits_its_schema_and_the_table(model, tmp_path):
    write_scenes(tmp_path / "data", 0, 40, 20, config=SceneConfig(size=32, digits=(16,), window=(40, 60)))
    save_bundle(bundle_from_model(model), tmp_path / "model.pt")
    arguments = [tmp_path / "model.pt", tmp_path / "data", "--images", 12, "-o", tmp_path / "out.json"]
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    document = json.loads((tmp_path / "out.json").read_text())
    jsonschema.validate(document, SCHEMA)
    assert [row["name"] for row in document["rows"]] == list(label_configs(16)) and document["data"]["images"] == 12
    lines = selection_table(document).splitlines()
    assert lines[0] == "| labels | passes | 11 | 8 | 5 | 4 |" and lines[2].startswith("| exact, zero | 17 |")


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "results").glob("label_selection_*.json")))
def test_published_results_fit_the_schema(path):
    document = json.loads(path.read_text())
    jsonschema.validate(document, SCHEMA)
    best = {row["name"]: row["kept"][0]["divergence"] for row in document["rows"]}
    assert best["half removed, log-ridge"] < best["half removed, mean"]  # what docs/labels.md says
