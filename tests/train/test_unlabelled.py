"""Training without class labels: labels by feature and kl, distillation alone, flat folders, and what is refused."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from PIL import Image
from torch.utils.data import Dataset

from tokfilter.cli import cli
from tokfilter.errors import DataError, RecipeError
from tokfilter.tests.tools.small_models import SMALL, small_embedding_model, small_model
from tokfilter.train.config import TrainConfig
from tokfilter.train.data import images_from_folder, splits_from_folder
from tokfilter.train.dataset import ImageDataset
from tokfilter.train.finetune import FineTuning
from tokfilter.train.fit import fit
from tokfilter.train.labels import LabelConfig, delta_loss, settings_identity
from tokfilter.train.masking import MaskConfig
from tokfilter.train.pipeline import has_top1
from tokfilter.train.similarity import evaluate_similarity, full_outputs
from tokfilter.train.start import Start
from tokfilter.vit.backbone import create_backbone
from tokfilter.vit.bundle import load_bundle, save_bundle
from tokfilter.vit.patch import patch

QUICK = {"filter.epochs": 1, "finetune.epochs": 1, "filter.batch": 8, "finetune.batch": 8, "data.crop_pct": 1.0}


def quiet(step, fraction):
    pass


def write_images(folder, count, seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (count, 32, 32, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{i:03d}.png")
    return folder


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("flat") / "images", 30)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    path = tmp_path_factory.mktemp("start") / "embedding.pt"
    save_bundle(small_embedding_model(), path)
    return path


def tokfilter(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@torch.inference_mode()
def moved(model, images, loss):
    """How far the output moves when a token is zeroed, one whole forward pass per token."""
    tokens, found = model.embed(images), []
    full = model.classify_tokens(tokens, images).double()
    for n in range(model.num_patches):
        masked = tokens.clone()
        masked[:, model.prefix_tokens + n] = 0
        output = model.classify_tokens(masked, images).double()
        if loss == "feature":
            found.append(1 - F.cosine_similarity(output, full))
        else:
            p = full.softmax(1)
            found.append((p * (full.log_softmax(1) - output.log_softmax(1))).sum(1))
    return torch.stack(found, dim=1).float()


@pytest.mark.parametrize("loss", ["feature", "kl"])
@pytest.mark.parametrize("method", ["exact", "grouped"])
def test_a_tokens_impact_is_how_far_the_output_moves(loss, method):
    model = small_embedding_model() if loss == "feature" else small_model()
    for parameter in model.backbone.parameters():  # a fresh head is silent
        torch.nn.init.normal_(parameter, std=0.2)
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    config = LabelConfig(MaskConfig("zero"), method=method, loss=loss)
    delta, base = delta_loss(model, images, torch.zeros(3, dtype=torch.long), config, chunk=7)
    assert delta.shape == (3, 16) and base.tolist() == [0.0] * 3 and (delta >= 0).all()
    other, _ = delta_loss(model, images, torch.tensor([4, 2, 1]), config, chunk=7)
    assert torch.equal(delta, other)
    if method == "exact":
        torch.testing.assert_close(delta, moved(model, images, loss), atol=1e-6, rtol=1e-3)


def test_labels_of_another_loss_have_another_identity_and_the_default_has_its_old_one():
    preprocessing = small_embedding_model().info.preprocessing
    texts = {loss: settings_identity(preprocessing, LabelConfig(loss=loss))["loss"] for loss in ("feature", "kl")}
    default = settings_identity(preprocessing, LabelConfig())["loss"]
    assert default == "cross-entropy on the true label" and len({default, *texts.values()}) == 3


def test_first_order_labels_of_a_loss_at_its_minimum_are_refused():
    with pytest.raises(DataError, match="feature is least without a mask.*exact or grouped"):
        LabelConfig(method="first-order", loss="feature")
    with pytest.raises(DataError, match="the loss of labels is one of cross-entropy, feature, kl, got 'cosine'"):
        LabelConfig(loss="cosine")


def test_a_flat_folder_is_a_data_set_without_classes(flat):
    found = images_from_folder(flat, need_classes=False)
    assert len(found) == 30 and not found.labelled and found.labels == (0,) * 30
    splits = splits_from_folder(flat, need_classes=False)
    assert (len(splits.train), len(splits.test)) == (27, 3) and not {*splits.train.files} & {*splits.test.files}
    assert found.digest() != splits.train.digest()
    with pytest.raises(DataError, match="images without classes: expected one subfolder per class.*--loss feature"):
        images_from_folder(flat)


def test_train_and_test_of_flat_folders_and_classes_that_only_some_have(tmp_path):
    for part, count in (("train", 5), ("test", 3)):
        write_images(tmp_path / "both" / part, count)
    splits = splits_from_folder(tmp_path / "both", need_classes=False)
    assert (len(splits.train), len(splits.test)) == (5, 3) and not splits.test.labelled
    for name in ("a", "b"):
        write_images(tmp_path / "half/test" / name, 2)
    write_images(tmp_path / "half/train", 4)
    splits = splits_from_folder(tmp_path / "half", need_classes=False)
    assert len(splits.test) == 4 and not splits.train.labelled and not splits.test.labelled
    write_images(tmp_path / "one", 1)
    with pytest.raises(DataError, match="one has one image; at least two are needed"):
        splits_from_folder(tmp_path / "one", need_classes=False)


def test_fit_learns_an_embedding_from_images_alone(flat):
    model = small_embedding_model()
    before = copy.deepcopy(model)
    record = fit(model, flat, loss="feature", overrides={**QUICK, "finetune.epochs": 10, "finetune.lr": 1e-3})
    assert record["label"]["loss"] == record["finetune"]["loss"] == "feature"
    assert record["finetune"]["last_loss"] < record["finetune"]["first_loss"]
    rows = record["similarity"]
    assert [row["tokens"] for row in rows] == [16, 8] and rows[0]["truth"] == "neighbours" and "accuracy" not in record
    assert "class_names" not in record["data"] and rows[0]["agree"] is None
    assert not torch.equal(before.backbone.blocks[0].mlp.fc1.weight, model.backbone.blocks[0].mlp.fc1.weight)


def test_a_loader_of_images_alone_and_one_with_labels_give_the_same_model():
    pixels = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(2))

    class Alone(Dataset):
        def __len__(self):
            return len(pixels)

        def __getitem__(self, i):
            return pixels[i]

    class Labelled(Alone):
        def __getitem__(self, i):
            return pixels[i], f"name {i}"

    one, other = small_embedding_model(), small_embedding_model()
    for model, data in ((one, Alone()), (other, Labelled())):
        fit(model, data, loss="feature", overrides=QUICK)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    with pytest.raises(DataError, match="images .* normalised|float images"):
        fit(small_model(), Alone(), overrides=QUICK)


def test_kl_needs_a_classifier_and_cross_entropy_too(flat):
    for loss in ("kl", "cross-entropy"):
        with pytest.raises(DataError, match=f"the loss {loss} .* gives an embedding"):
            fit(small_embedding_model(), flat, loss=loss, overrides=QUICK)
    with pytest.raises(RecipeError, match="loss expects one of cross-entropy, feature, kl, got 'mse'"):
        fit(small_embedding_model(), flat, loss="mse")
    with pytest.raises(RecipeError, match="set finetune.distill to 0"):
        fit(small_embedding_model(), flat, loss="feature", overrides={"finetune.distill": 0.5})
    with pytest.raises(RecipeError, match="the stage backbone trains by class labels"):
        fit(small_embedding_model(), flat, loss="feature", overrides={"stages": ["backbone", "label", "filter"]})


@pytest.mark.parametrize("loss", ["kl", "cross-entropy"])
def test_delta_loss_of_an_embedding_by_classes_is_refused(loss):
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with pytest.raises(DataError, match=f"the loss {loss} .* gives an embedding"):
        delta_loss(small_embedding_model(), images, torch.zeros(1, dtype=torch.long), LabelConfig(loss=loss))


def test_a_classifier_learns_from_a_flat_folder_by_kl(flat):
    model = small_model()
    torch.nn.init.normal_(model.backbone.head.weight, std=0.3)
    record = fit(model, flat, loss="kl", overrides=QUICK)
    assert record["similarity"][0]["agree"] is not None and record["label"]["loss"] == "kl"


def test_a_model_whose_output_is_zero_is_refused(flat):
    model = small_embedding_model()
    torch.nn.init.zeros_(model.backbone.norm.weight)
    with pytest.raises(DataError, match="feature is a cosine distance, and the model's output .* is zero"):
        fit(model, flat, loss="feature", overrides=QUICK)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with pytest.raises(DataError, match="feature is a cosine distance, and the model's output .* is zero"):
        delta_loss(model, images, torch.zeros(2, dtype=torch.long), LabelConfig(loss="feature"))


def test_train_writes_an_embedding_bundle_from_a_flat_folder(flat, start, tmp_path):
    output = tmp_path / "model.pt"
    arguments = ["train", flat, "--checkpoint", start, "-o", output, "--epochs", 1, "--batch", 8]
    refused = tokfilter(*arguments)
    assert refused.exit_code == 1 and "--loss feature" in refused.output and not output.exists()
    result = tokfilter(*arguments, "--loss", "feature", "--json")
    assert result.exit_code == 0, result.output
    bundle = load_bundle(output)
    assert bundle.architecture.kwargs["num_classes"] == 0 and bundle.class_names == []
    assert bundle.golden.full.shape[1] == 24 and bundle.training["label"]["loss"] == "feature"
    assert [row["tokens"] for row in bundle.training["similarity"]] == [16, 8, 4]
    again = tokfilter(*arguments, "--loss", "feature", "--resume", "--overwrite")
    assert again.exit_code == 0 and "recall@1" in again.output
    other = tokfilter(*arguments, "--loss", "feature", "--stages", "backbone,finetune", "--overwrite")
    assert other.exit_code != 0 and "the stage backbone trains by class labels" in other.output


def test_labels_by_feature_are_made_once_and_belong_to_their_loss(flat, start, tmp_path):
    made = tokfilter("label", flat, start, "-o", tmp_path / "labels", "--loss", "feature", "--json")
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout)["mean_delta"] > 0 and json.loads(made.stdout)["loss"] == "feature"
    common = ["train", flat, "--labels", tmp_path / "labels", "--epochs", 1, "--batch", 8]
    used = tokfilter(*common, "--loss", "feature", "--checkpoint", start, "-o", tmp_path / "model.pt")
    assert used.exit_code == 0, used.output
    classifier = tmp_path / "classifier.pt"
    backbone = create_backbone(SMALL)
    torch.nn.init.normal_(backbone.head.weight, std=0.3)
    save_bundle(patch(backbone), classifier)
    other = tokfilter(*common, "--loss", "kl", "--checkpoint", classifier, "-o", tmp_path / "other.pt")
    assert other.exit_code == 1 and "made with other" in other.output and "loss" in other.output


def test_a_model_that_is_fine_tuned_as_a_whole_has_no_frozen_backbone_in_its_record(flat, start, tmp_path):
    quick = ["--epochs", 1, "--batch", 8, "--loss", "feature"]
    frozen = tokfilter("train", flat, "--checkpoint", start, "-o", tmp_path / "frozen.pt", "--frozen-backbone", *quick)
    assert frozen.exit_code == 0, frozen.output
    tuned = tokfilter("train", flat, "--checkpoint", tmp_path / "frozen.pt", "-o", tmp_path / "tuned.pt", *quick)
    assert tuned.exit_code == 0, tuned.output
    before, after = (load_bundle(tmp_path / f"{name}.pt") for name in ("frozen", "tuned"))
    assert before.training["frozen_backbone"] and "frozen_backbone" not in after.training
    assert any(not torch.equal(value, after.backbone[name]) for name, value in before.backbone.items())


def test_labels_by_log_ridge_are_described_by_their_spread(flat, start, tmp_path):
    options = ["--loss", "feature", "--set", "labels.method=grouped", "--set", "labels.group_shape=random"]
    options += ["--set", "labels.group_size=0", "--set", "labels.group_estimate=log-ridge"]
    made = tokfilter("label", flat, start, "-o", tmp_path / "labels", *options)
    assert made.exit_code == 0 and "differences of the log loss (feature)" in made.output, made.output
    refused = tokfilter("label", flat, start, "-o", tmp_path / "other", *options, "--set", "labels.rho=0.1")
    assert refused.exit_code != 0 and "leave rho unset" in refused.output


def test_new_weights_have_nothing_to_be_compared_with(flat, tmp_path):
    arguments = ["--arch", "vit_tiny_patch16_224", "--arch-arg", "img_size=32", "--arch-arg", "num_classes=0"]
    result = tokfilter("train", flat, *arguments, "--loss", "feature", "-o", tmp_path / "model.pt")
    assert result.exit_code == 1 and "compares with the outputs of a trained model" in result.output


def test_a_file_of_weights_gives_an_embedding_or_its_own_classes(flat, tmp_path):
    from safetensors.torch import save_file

    weights = {n: v.contiguous() for n, v in small_model().backbone.state_dict().items() if "patch_drop" not in n}
    torch.nn.init.normal_(weights["head.weight"], std=0.3)
    save_file(weights, tmp_path / "weights.safetensors")
    arguments = ["--arch", "vit_tiny_patch16_224", "--checkpoint", tmp_path / "weights.safetensors"]
    for argument in ("img_size=32", "patch_size=8", "embed_dim=24", "depth=2", "num_heads=3"):
        arguments += ["--arch-arg", argument]
    quick = ["--epochs", 1, "--batch", 8, "-o", tmp_path / "model.pt", "--overwrite"]
    for loss, more, outputs in (("kl", [], 5), ("feature", ["--arch-arg", "num_classes=0"], 24)):
        result = tokfilter("train", flat, *arguments, *more, "--loss", loss, *quick)
        assert result.exit_code == 0, result.output
        assert load_bundle(tmp_path / "model.pt").golden.full.shape[1] == outputs


def test_similarity_is_to_the_reference_and_uses_classes_where_there_are_any(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        write_images(tmp_path / name, 4, seed)
    model, other = small_embedding_model(), small_embedding_model(1)
    dataset = ImageDataset(images_from_folder(tmp_path), model.info.preprocessing)
    rows = evaluate_similarity(model, dataset, (1.0, 0.25), quiet)
    assert [row.tokens for row in rows] == [16, 4]
    assert rows[0].cosine == pytest.approx(1) and rows[0].same == 1 and rows[0].truth == "classes"
    assert rows[1].cosine < 1 and rows[0].queries == 8
    far = evaluate_similarity(model, dataset, (1.0,), quiet, full_outputs(other, dataset, quiet))
    assert far[0].cosine < 0.9 and far[0].recall == rows[0].recall


def test_with_cross_entropy_there_is_top1_whatever_the_checkpoint_calls_its_classes(tmp_path):
    for name in "abcde":
        write_images(tmp_path / name, 4)
    images = images_from_folder(tmp_path)
    backbone = create_backbone(SMALL)
    start = Start(
        SMALL, backbone, small_embedding_model().info.preprocessing, "folder", True, class_names=tuple("vwxyz")
    )
    assert has_top1(start, images, TrainConfig())
    assert not has_top1(start, images, TrainConfig(stages=("finetune",), finetune=FineTuning(loss="kl")))
    same = replace(start, class_names=tuple("abcde"))
    assert has_top1(same, images, TrainConfig(stages=("finetune",), finetune=FineTuning(loss="kl")))
