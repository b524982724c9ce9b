"""A filtered model compiles as one graph at every budget, and changing the budget does not compile it again."""

import copy

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from tokfilter.artifacts.bundle import Architecture
from tokfilter.runtime.torch_network import Network, compiled_network
from tokfilter.vit.backbone import create_backbone
from tokfilter.vit.model import FilteredViT

TINY = {"embed_dim": 48, "depth": 1, "num_heads": 3, "num_classes": 5, "img_size": 64}
FAMILIES = {
    "vit": ("vit_tiny_patch16_224", TINY),
    "deit distilled": ("deit_tiny_distilled_patch16_224", TINY),
    "deit 3": ("deit3_small_patch16_224", TINY),
    "dinov2 with registers": ("vit_small_patch14_reg4_dinov2", {**TINY, "img_size": 56}),
    "clip": ("vit_base_patch16_clip_224", TINY),
    "siglip": ("vit_base_patch16_siglip_224", TINY),
    "eva, rotary": ("eva02_tiny_patch14_224", {**TINY, "img_size": 56}),
    "dinov3, rotary": ("vit_small_patch16_dinov3", TINY),
}


def compiled(name, backend):
    torch._dynamo.reset()
    torch.manual_seed(0)
    architecture, kwargs = FAMILIES[name]
    model = FilteredViT(create_backbone(Architecture(architecture, kwargs))).eval()
    counter = CompileCounterWithBackend(backend)
    return model, torch.compile(model, fullgraph=True, backend=counter), counter


@pytest.mark.slow
@torch.inference_mode()
@pytest.mark.parametrize("name", FAMILIES)
def test_every_budget_is_one_graph(name):
    model, run, counter = compiled(name, "aot_eager")
    images = torch.randn(2, 3, *model.backbone.patch_embed.img_size, generator=torch.Generator().manual_seed(1))
    patches = model.num_patches
    for k in (patches // 2, patches - 1, 2, 5):
        torch.testing.assert_close(run(images, k), model(images, k), rtol=1e-4, atol=1e-5)
        assert model.last.indices.shape == (2, k)
    graphs = counter.frame_count
    assert graphs == 2  # the first budget, and any other
    for k in range(3, patches, 2):
        run(images, k)
    assert counter.frame_count == graphs
    torch.testing.assert_close(run(images, patches), model(images, patches), rtol=1e-4, atol=1e-5)
    assert counter.frame_count == graphs + 1  # without the filter


@pytest.mark.slow
@torch.inference_mode()
def test_inductors_code_gives_the_same_outputs_at_every_budget(tmp_path, monkeypatch):
    """As the PyTorch session compiles: the budget is the length of an input, so one graph serves all.

    Of a model with all that a ViT has, and gathers of rotary embeddings. Inductor's headers take longer than its graph.
    """
    name = "eva, rotary"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # a compilation that was killed leaves broken files
    model, _, _ = compiled(name, "eager")
    run = compiled_network(Network(copy.deepcopy(model), "fp32"), "default")
    images = torch.randn(2, 3, *model.backbone.patch_embed.img_size, generator=torch.Generator().manual_seed(1))
    for k in (8, 3, 11):
        outputs = run(images, k)
        torch.testing.assert_close(outputs["logits"], model(images, k), rtol=1e-4, atol=1e-5)
        assert torch.equal(outputs["indices"], model.last.indices) and len(outputs) == 2


@torch.inference_mode()
def test_ratios_share_a_graph_and_the_warning_flag_causes_none():
    model, run, counter = compiled("vit", "eager")
    images = torch.randn(2, 3, 64, 64)
    for keep in (0.5, 0.3, 0.25, 0.7, 0.9, 0.1, 0.45):
        assert run(images, keep).shape == (2, 5)
        model.drop.state.warned = not model.drop.state.warned
    assert counter.frame_count <= 2
