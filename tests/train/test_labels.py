import hashlib
import json
import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from tokfilter.artifacts.bundle import Architecture
from tokfilter.errors import DataError
from tokfilter.train.label_store import LabelStore, Shard
from tokfilter.train.labels import LabelConfig, delta_loss, weights_digest
from tokfilter.train.masking import MaskConfig, position_tokens
from tokfilter.vit.backbone import create_backbone
from tokfilter.vit.model import FilteredViT
from tokfilter.vit.reducers.filter import TokenDropWithIndices

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 5}
FAMILIES = {
    "P=0, average": ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg"}),
    "P=1, CLS": ("vit_tiny_patch16_224", {}),
    "P=2, distilled": ("deit_tiny_distilled_patch16_224", {}),
    "P=5, registers": ("vit_small_patch14_reg4_dinov2", {"init_values": 1.0}),
    "norm before blocks": ("vit_base_patch16_clip_224", {}),
    "attention pooling": ("vit_base_patch16_siglip_224", {}),
    "rotary": ("eva02_tiny_patch14_336", {}),
}


def family(name):
    torch.manual_seed(0)
    architecture, extra = FAMILIES[name]
    backbone = create_backbone(Architecture(architecture, {**SMALL, **extra}))
    for parameter in backbone.parameters():  # freshly made models have silent heads and position embeddings
        torch.nn.init.normal_(parameter, std=0.2)
    return FilteredViT(backbone).eval()


def data(batch=2):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, 32, 32, generator=generator), torch.randint(5, (batch,), generator=generator)


@torch.inference_mode()
def brute_force(model, images, labels, mask):
    """One masked token per whole forward pass of one image, by nothing that the package's masking uses."""
    prefix, found = model.prefix_tokens, torch.empty(len(images), model.num_patches)
    for i, (image, label) in enumerate(zip(images[:, None], labels[:, None], strict=True)):
        base = F.cross_entropy(model(image, 1.0), label)
        for n in range(model.num_patches):
            found[i, n] = F.cross_entropy(_masked_forward(model, image, n, prefix, mask), label) - base
    return found


def _masked_forward(model, image, n, prefix, mask):
    if mask.value == "removed":
        places = torch.tensor([[p for p in range(model.num_patches) if p != n]], dtype=torch.int32)
        rows = torch.cat([torch.arange(prefix), places[0] + prefix])
        return _with_slot(model, image, lambda tokens: (tokens[:, rows], places))
    if mask.point == "before":
        hook = model.backbone.patch_embed.register_forward_hook(lambda m, i, out: _mask_content(out, n, mask.value))
        try:
            return model(image, 1.0)
        finally:
            hook.remove()

    def mask_token(tokens):
        tokens = tokens.clone()
        tokens[:, prefix + n] = 0 if mask.value == "zero" else tokens[:, prefix:].mean(dim=1)
        return tokens, None

    return _with_slot(model, image, mask_token)


def _mask_content(content, n, value):
    content = content.clone()
    flat = content.view(1, -1, content.shape[-1])
    flat[:, n] = 0 if value == "zero" else flat.mean(dim=1)
    return content


def _with_slot(model, image, change):
    slot, model.backbone.patch_drop = model.drop, Changed(change, isinstance(model.drop, TokenDropWithIndices))
    try:
        return model.backbone(image)
    finally:
        model.backbone.patch_drop = slot


class Changed(torch.nn.Module):
    """Stands in timm's slot and returns changed tokens, with their positions where the model rotates by position."""

    def __init__(self, change, with_indices):
        super().__init__()
        self.change, self.with_indices = change, with_indices

    def forward(self, tokens):
        changed, positions = self.change(tokens)
        return (changed, None if positions is None else positions.long()) if self.with_indices else changed


@pytest.mark.parametrize("point", ["before", "after"])
@pytest.mark.parametrize("value", ["zero", "mean", "removed"])
@pytest.mark.parametrize("name", FAMILIES)
def test_delta_loss_is_what_masking_one_token_at_a_time_gives(name, value, point):
    model, mask = family(name), MaskConfig(value, point)
    images, labels = data()
    delta, base = delta_loss(model, images, labels, LabelConfig(mask), chunk=7)
    torch.testing.assert_close(delta, brute_force(model, images, labels, mask), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(base, F.cross_entropy(model(images, 1.0), labels, reduction="none").detach())
    assert float(delta.abs().max()) > 1e-3


@pytest.mark.parametrize("chunk", [1, 3, 16, 31, 10_000])
def test_chunk_bounds_what_is_computed_at_once_and_changes_nothing(chunk):
    model = family("P=5, registers")
    images, labels = data(3)
    whole, _ = delta_loss(model, images, labels, LabelConfig(), chunk=48)
    largest = []
    hook = model.backbone.blocks[0].register_forward_hook(lambda m, i, out: largest.append(out.shape[0]))
    parts, _ = delta_loss(model, images, labels, LabelConfig(), chunk=chunk)
    hook.remove()
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=1e-5)
    assert max(largest) <= chunk


def test_the_patch_embedding_is_computed_once_per_image():
    model = family("P=1, CLS")
    images, labels = data(4)
    seen = []
    hook = model.backbone.patch_embed.register_forward_hook(lambda m, i, out: seen.append(i[0].shape[0]))
    delta_loss(model, images, labels, LabelConfig(MaskConfig(point="after")), chunk=64)
    hook.remove()
    # One pass over the batch; then timm's forward wants one image per chunk: unmasked tokens once, 64 variants once.
    assert seen == [4, 1, 1]


def test_position_tokens_hold_prefix_and_positions_and_no_image():
    model = family("P=2, distilled")
    images, _ = data()
    tokens = position_tokens(model, images)
    assert torch.equal(tokens, position_tokens(model, images * 3 + 1))
    torch.testing.assert_close(tokens[:, 2:], model.backbone.pos_embed[:, 2:])
    assert not model.backbone.patch_embed._forward_hooks


def test_an_unknown_mask_is_refused():
    with pytest.raises(DataError, match="value is one of zero, mean, removed, got 'blur'"):
        MaskConfig("blur")


def test_rho_is_absolute_or_gives_the_wanted_fraction():
    delta = torch.arange(100.0).view(10, 10)
    assert LabelConfig(rho=0.5).threshold(delta) == 0.5
    for fraction in (0.01, 0.15, 0.5, 0.99):
        assert float((delta > LabelConfig(fraction=fraction).threshold(delta)).float().mean()) == pytest.approx(
            fraction
        )
    with pytest.raises(DataError, match="between 0 and 1, got 1"):
        LabelConfig(fraction=1)


class Files:
    files = tuple(f"{i}.png" for i in range(5))

    def __len__(self):
        return 5


def filled_store(folder, identity):
    store = LabelStore(folder, shard_images=2)
    store.open(identity, Files(), 3)
    for shard in store.missing():
        delta = torch.arange(shard.start, shard.stop).float()[:, None].expand(-1, 3)
        store.write(Shard(shard.start, delta, delta[:, 0]))
    return store


def test_a_store_gives_back_what_was_written(tmp_path):
    labels = filled_store(tmp_path, {"weights": "a"}).read()
    assert labels.delta.tolist() == [[i] * 3 for i in range(5)]
    assert labels.base.tolist() == [0, 1, 2, 3, 4]
    assert labels.identity == {"weights": "a"}
    assert json.loads((tmp_path / "labels.json").read_text())["files"][4] == "4.png"


def damaged(path, how):
    content = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
    elif how == "cut":
        path.write_bytes(content[:-3])
    else:
        content[-1] ^= 1
        path.write_bytes(content)


@pytest.mark.parametrize("how", ["gone", "cut", "flipped bit"])
def test_a_shard_that_is_not_whole_is_done_again(tmp_path, how):
    store = filled_store(tmp_path, {"weights": "a"})
    damaged(tmp_path / "shard-000000002.safetensors", how)
    assert store.missing() == [range(2, 4)]
    with pytest.raises(DataError, match="lacks 1 shards; run .tokfilter label. again"):
        store.read()
    assert filled_store(tmp_path, {"weights": "a"}).read().delta[2, 0] == 2


def altered_shard(path, kind):
    """Another meaning of the same bytes: only the header changes."""
    content = path.read_bytes()
    old, new = {
        "type": (b'"F32"', b'"I32"'),
        "shape": (b'"shape":[2,3]', b'"shape":[3,2]'),
        "names": (b'"delta"', b'"delte"'),
        "start": (b'"start":"2"', b'"start":"0"'),
    }[kind]
    assert old in content
    path.write_bytes(content.replace(old, new))


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("kind", ["type", "shape", "names", "start"])
def test_an_altered_header_of_a_shard_is_found(tmp_path, kind, version):
    store = filled_store(tmp_path, {"weights": "a"}) if version == 3 else old_store(tmp_path)
    altered_shard(tmp_path / "shard-000000002.safetensors", kind)
    assert store.missing() == [range(2, 4)]


def old_store(folder):
    """As version 2 wrote it: sums over the values, none of labels.json."""
    filled_store(folder, {"weights": "a"})
    header = json.loads((folder / "labels.json").read_text())
    del header["sha256"]
    (folder / "labels.json").write_text(json.dumps(header | {"version": 2}))
    identity = hashlib.sha256(json.dumps({"weights": "a"}, sort_keys=True).encode()).hexdigest()
    for path in folder.glob("shard-*"):
        tensors = load_file(path)
        values = hashlib.sha256(tensors["base"].numpy().tobytes() + tensors["delta"].numpy().tobytes()).hexdigest()
        start = str(int(path.stem.removeprefix("shard-")))
        save_file(tensors, path, {"identity": identity, "start": start, "sha256": values})
    store = LabelStore(folder)
    store.join({"weights": "a"})
    return store


def test_labels_of_version_2_are_read_and_continued(tmp_path):
    store = old_store(tmp_path)
    assert store.missing() == [] and store.read().base.tolist() == [0, 1, 2, 3, 4]
    (tmp_path / "shard-000000002.safetensors").unlink()
    assert filled_store(tmp_path, {"weights": "a"}).read().base.tolist() == [0, 1, 2, 3, 4]
    assert json.loads((tmp_path / "labels.json").read_text())["version"] == 2


HEADERS = [
    ({"images": 4}, "does not name its 4 images"),
    ({"images": 10**12}, "does not name its 1000000000000 images"),
    ({"files": ["0.png"] * 5}, "has been altered"),
    ({"images": 4, "files": ["0.png"] * 4}, "has been altered"),
    ({"shard_images": 0}, "its shard_images is 0"),
    ({"shard_images": 3}, "has been altered"),
    ({"patches": 10**10}, "has 10000000000 patches"),
    ({"patches": "3"}, "its patches is '3'"),
    ({"identity": {"weights": "b"}}, "has been altered"),
    ({"version": 4}, "reads versions 2 and 3"),
]


@pytest.mark.parametrize(("change", "words"), HEADERS)
def test_an_altered_labels_json_is_refused(tmp_path, change, words):
    filled_store(tmp_path, {"weights": "a"})
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=words):
        LabelStore(tmp_path).read()


def test_old_labels_are_compared_with_their_shards(tmp_path):
    old_store(tmp_path)
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"images": 2, "files": ["0.png", "1.png"]}))
    with pytest.raises(DataError, match="shard-000000002.safetensors, which is no part of the 2 images"):
        LabelStore(tmp_path).read()


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", '{"version": NaN}', "\0" * 5000, "\xff"])
def test_what_is_no_labels_json_is_refused(tmp_path, text):
    (tmp_path / "labels.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match="labels.json is damaged"):
        LabelStore(tmp_path).read()


def test_a_fifo_in_place_of_labels_is_refused(tmp_path):
    os.mkfifo(tmp_path / "labels.json")
    with pytest.raises(DataError, match="no regular file"):
        LabelStore(tmp_path).read()
    (tmp_path / "labels.json").unlink()
    store = filled_store(tmp_path, {"weights": "a"})
    (tmp_path / "shard-000000002.safetensors").unlink()
    os.mkfifo(tmp_path / "shard-000000002.safetensors")
    assert store.missing() == [range(2, 4)]


def test_shards_of_another_run_do_not_count(tmp_path):
    filled_store(tmp_path / "a", {"weights": "a"})
    store = filled_store(tmp_path / "b", {"weights": "b"})
    (tmp_path / "a/shard-000000000.safetensors").replace(tmp_path / "b/shard-000000000.safetensors")
    assert store.missing() == [range(2)]


def test_two_runs_that_begin_a_store_at_once_do_not_mix(tmp_path):
    """Each has found no store and begun one; the later one's stays."""
    first, second = LabelStore(tmp_path, 2), LabelStore(tmp_path, 2)
    first.open({"weights": "a"}, Files(), 3)
    (tmp_path / "labels.json").unlink()
    second.open({"weights": "b"}, Files(), 3)
    for shard in second.missing():
        for store, value in ((first, 1.0), (second, 2.0)):
            store.write(Shard(shard.start, torch.full((len(shard), 3), value), torch.zeros(len(shard))))
    assert second.read().delta.unique().tolist() == [2.0]
    assert first.missing() == [range(2), range(2, 4), range(4, 5)]
    with pytest.raises(DataError, match="lacks 3 shards"):
        first.read()
    with pytest.raises(DataError, match="other weights than this run's"):
        LabelStore(tmp_path).open({"weights": "a"}, Files(), 3)


def test_labels_of_other_weights_or_settings_are_refused_by_name(tmp_path):
    identity = {"weights": "a", "mask": {"value": "zero"}, "images": "x"}
    store = filled_store(tmp_path, identity)
    with pytest.raises(DataError, match="other mask, weights than this run's"):
        store.check({"weights": "b", "mask": {"value": "mean"}, "images": "x"})
    with pytest.raises(DataError, match="other images than"):
        LabelStore(tmp_path).open({**identity, "images": "y"}, Files(), 3)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "x", "version": 1}'])
def test_a_folder_that_is_no_store_is_refused(tmp_path, text):
    (tmp_path / "labels.json").write_text(text)
    with pytest.raises(DataError, match="label"):
        LabelStore(tmp_path).read()


def test_the_digest_tells_weights_apart_by_name_shape_and_value():
    digests = {
        weights_digest(weights)
        for weights in (
            {"a": torch.zeros(4)},
            {"b": torch.zeros(4)},
            {"a": torch.zeros(2, 2)},
            {"a": torch.zeros(4, dtype=torch.int32)},
            {"a": torch.from_numpy(np.array([0, 0, 0, 1e-30], np.float32))},
        )
    }
    assert len(digests) == 5
    assert weights_digest({"a": torch.zeros(2, 3).T}) == weights_digest({"a": torch.zeros(3, 2)})
