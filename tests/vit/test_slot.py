"""A model keeps working when it is copied, pickled, moved or compiled, before and after a forward pass."""

import copy
import io
import pickle  # noqa: TID251  (of a model made here)

import pytest
import timm
import torch

from tokfilter.vit.model import FilteredViT
from tokfilter.vit.reducers.filter import TokenDrop, TokenDropWithIndices

SHAPE = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 5}
NAMES = {"vit_tiny_patch16_224": TokenDrop, "eva02_tiny_patch14_224": TokenDropWithIndices}


@pytest.fixture(params=NAMES)
def model(request):
    torch.manual_seed(0)
    found = FilteredViT(timm.create_model(request.param, **SHAPE)).eval()
    assert type(found.drop) is NAMES[request.param]
    return found


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def through_torch_save(model):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), through_torch_save],
)
def test_a_copy_gives_the_same_and_has_a_state_of_its_own(model, images, copied):
    expected = model(images)  # with a graph, whose tensors cannot be copied
    other = copied(model)
    torch.testing.assert_close(other(images[:1]), expected[:1])
    assert model.last.indices.shape == (2, 8) and other.last.indices.shape == (1, 8)
    with pytest.raises(RuntimeError, match="forward pass first"):
        _ = copied(model).last


def test_a_compiled_model_keeps_its_selection(model, images):
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for keep in (0.5, 3, 1.0):
        torch.testing.assert_close(compiled(images, keep), model(images, keep))
    compiled(images, 3)
    assert model.last.indices.shape == (2, 3)


def test_features_are_those_before_the_head(model, images):
    features = model.forward_features(images, keep=4)
    assert features.shape == (2, model.prefix_tokens + 4, 24)
    assert model.last.indices.shape == (2, 4)
    torch.testing.assert_close(model.backbone.forward_head(features), model(images, keep=4))


def test_moving_and_loading_keep_the_names(model, images):
    names = set(model.state_dict())
    assert {name for name in names if "scorer" in name} == {name for name in names if "patch_drop.scorer." in name}
    moved = copy.deepcopy(model).to(torch.bfloat16)
    torch.testing.assert_close(moved(images.bfloat16(), 1.0).float(), model(images, 1.0), atol=0.05, rtol=0.05)
    assert moved(images.bfloat16()).dtype == torch.bfloat16 and moved.last.indices.shape == (2, 8)
    assert "keep=0.5 (8 of 16 patch tokens)" in repr(model)


def test_an_error_in_the_middle_leaves_no_substitute_behind(model, images):
    expected = model(images)
    with pytest.raises(RuntimeError):
        model.classify_tokens(torch.zeros(1, 3, 7), images)
    torch.testing.assert_close(model(images), expected)
