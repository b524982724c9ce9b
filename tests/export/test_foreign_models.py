"""Models that were read from transformers are exported, and the export agrees with the bundle.

The three whose modules no other test exports: epsilon and DINOv2's head, CLIP's norm before the blocks, SigLIP's mean
without a class token. ViT and DeiT become the modules that all other tests export.
"""

import pytest
import torch
from hf_folders import tiny_model, tiny_processor, transformers

from tokfilter.artifacts.manifest import load_manifest
from tokfilter.export.options import ExportOptions
from tokfilter.export.pipeline import export_bundle
from tokfilter.runtime.sessions import open_session
from tokfilter.train.start import load_checkpoint
from tokfilter.vit.bundle import load_model, save_bundle

transformers()


@pytest.mark.parametrize("name", ["Dinov2WithRegisters", "CLIP", "Siglip"])
def test_a_family_is_exported_and_agrees(tmp_path, name):
    config = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "patch_size": 16}
    model = tiny_model(f"{name}ForImageClassification", classes=3, layer_norm_eps=1e-3, **config)
    model.save_pretrained(tmp_path / "hf")
    tiny_processor(name).save_pretrained(tmp_path / "hf")
    save_bundle(load_checkpoint(tmp_path / "hf", keep=2), tmp_path / "model.pt")
    export_bundle(tmp_path / "model.pt", tmp_path / "out", ExportOptions())
    assert load_manifest(tmp_path / "out").model.keep == 2
    images = torch.randn(2, 3, 32, 32)
    with open_session(tmp_path / "out") as session, torch.no_grad():
        found = torch.from_numpy(session.run(images.numpy(), keep=2).logits)
    torch.testing.assert_close(found, load_model(tmp_path / "model.pt")(images, 2), rtol=1e-4, atol=1e-4)
