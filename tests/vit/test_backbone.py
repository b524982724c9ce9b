"""vit/backbone.py and vit/heads.py: epsilon and head of an architecture, and names that are near to a mistyped one."""

import pytest
import torch
from torch import nn

from tokfilter.artifacts.bundle import Architecture
from tokfilter.errors import BundleError, UnsupportedModelError
from tokfilter.vit.backbone import create_backbone
from tokfilter.vit.bundle import load_model, save_bundle
from tokfilter.vit.model import FilteredViT
from tokfilter.vit.patch import patch

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 5}


def test_every_norm_gets_the_epsilon():
    backbone = create_backbone(Architecture("vit_tiny_patch16_224", SMALL, norm_eps=0.25))
    norms = [part for part in backbone.modules() if isinstance(part, nn.LayerNorm)]
    assert len(norms) == 5 and {norm.eps for norm in norms} == {0.25}
    images = torch.randn(2, 3, 32, 32)
    other = create_backbone(Architecture("vit_tiny_patch16_224", SMALL))
    other.load_state_dict(backbone.state_dict())
    assert not torch.allclose(backbone.eval()(images), other.eval()(images))


@pytest.mark.parametrize("registers", [0, 3])
def test_the_classifier_takes_the_class_token_and_the_mean_of_the_kept_patches(registers):
    architecture = Architecture("vit_tiny_patch16_224", {**SMALL, "reg_tokens": registers}, head="class+mean")
    model = FilteredViT(create_backbone(architecture), keep=5).eval()
    images = torch.randn(2, 3, 32, 32)
    for keep in (5, 1, 1.0):
        tokens = model.forward_features(images, keep)
        joined = torch.cat([tokens[:, 0], tokens[:, 1 + registers :].mean(1)], -1)
        torch.testing.assert_close(model(images, keep), model.backbone.head(joined))


def test_a_bundle_brings_epsilon_and_head_back(tmp_path):
    architecture = Architecture("vit_tiny_patch16_224", SMALL, norm_eps=1e-3, head="class+mean")
    model = patch(create_backbone(architecture).eval(), keep=4, architecture=architecture)
    save_bundle(model, tmp_path / "model.pt")
    again = load_model(tmp_path / "model.pt")
    assert again.info is not None and again.info.architecture == architecture
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(again(images, 1.0), model(images, 1.0), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "problem"),
    [({"head": "import os"}, "head is one of timm, class\\+mean"), ({"norm_eps": 0.0}, "norm_eps is a float between")],
)
def test_other_values_in_a_bundle_are_refused(tmp_path, change, problem):
    save_bundle(patch(create_backbone(Architecture("vit_tiny_patch16_224", SMALL))), tmp_path / "model.pt")
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    content["architecture"].update(change)
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(BundleError, match=problem):
        load_model(tmp_path / "model.pt")


@pytest.mark.parametrize(
    "change", [{"class_token": False, "global_pool": "avg"}, {"num_classes": 0}, {"fc_norm": True}]
)
def test_the_head_is_refused_where_it_has_no_meaning(change):
    with pytest.raises(UnsupportedModelError, match="the head class\\+mean needs"):
        create_backbone(Architecture("vit_tiny_patch16_224", {**SMALL, **change}, head="class+mean"))


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("vit_smal_patch16_224", "vit_small_patch16_224"),
        ("deit_bse_patch16_224", "deit_base_patch16_224"),
        ("eva02_tiny_patch14_225", "eva02_tiny_patch14_224"),
    ],
)
def test_a_typing_error_is_answered_with_the_nearest_names(typed, meant):
    with pytest.raises(UnsupportedModelError, match=f"has no model '{typed}'. Did you mean .*{meant}"):
        create_backbone(Architecture(typed))


def test_a_name_near_to_none_is_answered_with_where_they_are_listed():
    with pytest.raises(UnsupportedModelError, match=r"has no model 'xxxxx+'. `timm.list_models\(\)` lists the names"):
        create_backbone(Architecture("x" * 100_000))
