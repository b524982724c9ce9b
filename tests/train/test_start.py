import dataclasses

import pytest
import torch
from safetensors.torch import save_file

from tokfilter.artifacts.bundle import Architecture
from tokfilter.errors import DataError
from tokfilter.train.start import checkpoint_weights, start_from_timm
from tokfilter.vit.backbone import create_backbone

SMALL = Architecture(
    "vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
)


def start(checkpoint, **options):
    return start_from_timm(SMALL, 10, checkpoint, **options)


def trained(path, architecture=SMALL, classes=10):
    torch.manual_seed(5)
    backbone = create_backbone(
        dataclasses.replace(architecture, kwargs={**architecture.kwargs, "num_classes": classes})
    )
    save_file(backbone.state_dict(), path)
    return backbone


@pytest.mark.parametrize("form", ["plain", "state_dict", "model", "module.", "safetensors"])
def test_the_users_weights_are_read_in_every_usual_form(tmp_path, form):
    backbone = trained(tmp_path / "w.safetensors")
    weights, path = backbone.state_dict(), tmp_path / "w.pth"
    if form == "safetensors":
        path = tmp_path / "w.safetensors"
    elif form in ("state_dict", "model"):
        torch.save({form: weights, "epoch": 3}, path)
    else:
        torch.save({form.replace("plain", "") + name: value for name, value in weights.items()}, path)
    found = start(checkpoint=path)
    assert found.trained
    for name, value in found.backbone.state_dict().items():
        assert torch.equal(value, weights[name])


class Harmful:
    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled')",))


def test_checkpoints_that_are_none_are_refused_and_never_unpickled(tmp_path):
    torch.save({"state_dict": Harmful()}, tmp_path / "harm.pth")
    with pytest.raises(DataError, match="never unpickles"):
        checkpoint_weights(tmp_path / "harm.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(DataError, match="is not a checkpoint, is damaged.*no file that torch.save wrote"):
        checkpoint_weights(tmp_path / "text.pth")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    with pytest.raises(DataError, match="is damaged"):
        checkpoint_weights(tmp_path / "cut.safetensors")
    torch.save({"epoch": 3}, tmp_path / "none.pth")
    with pytest.raises(DataError, match="has no named tensors"):
        checkpoint_weights(tmp_path / "none.pth")
    with pytest.raises(DataError, match="there is none"):
        checkpoint_weights(tmp_path / "nowhere.pth")


def test_another_number_of_classes_is_refused_unless_a_new_head_is_trained(tmp_path):
    backbone = trained(tmp_path / "w.safetensors", classes=7)
    with pytest.raises(DataError, match="has 7 classes, the data has 10 classes. Train a new head"):
        start(checkpoint=tmp_path / "w.safetensors")
    found = start(checkpoint=tmp_path / "w.safetensors", new_head=True)
    assert not found.trained and found.backbone.head.weight.shape[0] == 10
    assert torch.equal(found.backbone.blocks[0].mlp.fc1.weight, backbone.blocks[0].mlp.fc1.weight)


def test_weights_of_another_model_are_refused(tmp_path):
    deeper = dataclasses.replace(SMALL, kwargs={**SMALL.kwargs, "depth": 2})
    trained(tmp_path / "w.safetensors", deeper)
    with pytest.raises(DataError, match="12 are unknown; first: blocks.1.* Check --arch"):
        start(checkpoint=tmp_path / "w.safetensors")


@pytest.mark.parametrize("shape", [[1] * 30, [2], [], [0, 3, 8, 8]])
@pytest.mark.parametrize("name", ["patch_embed.proj.weight", "pos_embed"])
def test_weights_of_another_shape_are_refused(tmp_path, name, shape):
    weights = trained(tmp_path / "w.safetensors").state_dict()
    save_file({**weights, name: torch.zeros(shape)}, tmp_path / "w.safetensors")
    with pytest.raises(DataError, match=r"does not fit|other shapes|shape"):
        start(checkpoint=tmp_path / "w.safetensors")


def test_weights_of_another_image_size_get_their_positions_resampled(tmp_path):
    larger = dataclasses.replace(SMALL, kwargs={**SMALL.kwargs, "img_size": 64})
    trained(tmp_path / "w.safetensors", larger)
    assert start(checkpoint=tmp_path / "w.safetensors").backbone.pos_embed.shape[1] == 17
