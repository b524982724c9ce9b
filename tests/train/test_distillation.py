"""Losses of fine-tuning beside the labels': token-cut, distance of features."""

from dataclasses import replace

import pytest
import timm
import torch
from torch.utils.data import TensorDataset

import tokfilter
from tokfilter.errors import DataError
from tokfilter.train.distillation import Features, feature_distance, final_features, token_cuts
from tokfilter.train.finetune import FineTuning
from tokfilter.train.fit import fit
from tokfilter.train.loop import TrainingPlan
from tokfilter.vit.bundle import load_bundle, save_bundle

SHAPE = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 4, "num_heads": 2, "num_classes": 3}
REDUCERS = [
    "filter",
    "evit",
    ("evit", {"fuse": False}),
    "idle",
    "frequency",
    "tome",
    "dynamic",
]


def model_of(reducer, **changes):
    torch.manual_seed(0)
    model = tokfilter.patch(timm.create_model("vit_tiny_patch16_224", **{**SHAPE, **changes}), reducer=reducer)
    model.drop.state.warned = True
    return model


def images(count=8):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, 32, 32, generator=generator)


def data(count=8):
    return TensorDataset(images(count), torch.arange(count) % 3)


def trained(reducer, folder=None, resume=False, progress=lambda *_: None, epochs=2, loss_of_all=None, **settings):
    """A model after fine-tuning at a budget of 12 of 16 tokens, and its record."""
    model = model_of(reducer)
    overrides = {"stages": ["finetune"], "finetune.epochs": epochs, "finetune.batch": 4, "finetune.fixed_keep": 12}
    overrides |= {f"finetune.{name}": value for name, value in settings.items()}
    options = {"folder": folder, "resume": resume, "progress": progress, "loss": loss_of_all}
    record = fit(model, data(), overrides={**overrides, "save_seconds": 0}, **options)
    return model, record["finetune"]


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def distance(reducer, prefix=True):
    """Distance of features from those with every token, at 12 tokens, and the model."""
    model = model_of(reducer, **({} if prefix else {"class_token": False, "global_pool": "avg"})).eval()
    teacher = model_of(reducer, **({} if prefix else {"class_token": False, "global_pool": "avg"})).eval()
    with final_features(model, True) as found:
        model(images()[:5], 12)
        model(images()[5:], 16)
    with torch.no_grad():
        target = teacher.forward_features(images(), 16)
    return feature_distance(found, target), model, found, target


@pytest.mark.parametrize("reducer", REDUCERS, ids=str)
def test_features_of_every_reducer_are_compared_with_those_of_their_places(reducer):
    value, model, (dropped, whole), target = distance(reducer)
    value.backward()
    assert 0 < float(value.detach()) < 4
    assert float(model.backbone.patch_embed.proj.weight.grad.abs().sum()) > 0
    torch.testing.assert_close(feature_distance([whole], target[5:]).detach(), torch.tensor(0.0), atol=1e-6, rtol=0)
    tokens, expected = torch.nn.functional.normalize(dropped.tokens.detach(), dim=-1), []
    target = torch.nn.functional.normalize(target, dim=-1)
    for image in range(5):
        rows = [0]
        if dropped.placed:
            rows += list(range(1, 17)) if dropped.places is None else (1 + dropped.places[image]).tolist()
        cosines = [float(tokens[image, i] @ target[image, row]) for i, row in enumerate(rows)]
        expected.append(2 - 2 * sum(cosines) / len(cosines))
    assert float(value.detach()) * 8 == pytest.approx(sum(expected), abs=1e-4)


@pytest.mark.parametrize("reducer", ["filter", "tome", "frequency"])
def test_models_without_a_class_token_are_compared_too(reducer):
    value, _, (dropped, _), _ = distance(reducer, prefix=False)
    assert dropped.prefix == 0 and 0 < float(value.detach()) < 4


def test_features_of_no_token_and_tokens_of_zeros_have_finite_gradients():
    tokens = torch.zeros(2, 3, 4, requires_grad=True)
    value = feature_distance([Features(tokens, 1, torch.zeros(2, 2, dtype=torch.int32), True)], torch.randn(2, 5, 4))
    value.backward()
    assert float(value.detach()) == pytest.approx(1.0) and tokens.grad.isfinite().all()


@pytest.fixture(scope="module")
def idle():
    """IdleViT fine-tuned on the labels alone."""
    return trained("idle", epochs=4, lr=2e-2)[0]


def test_token_cut_falls_where_it_is_trained(idle):
    def cut(model):
        with torch.no_grad(), token_cuts(model, True) as losses:
            model(images(), 12)
            model(images(), 16)  # adds none
        assert len(losses) == 3
        return float(torch.stack(losses).mean())

    with_it, record = trained("idle", epochs=4, lr=2e-2, token_cut=20.0)
    assert cut(with_it) < min(cut(model_of("idle")), cut(idle)) and record["last_loss"] < record["first_loss"]
    assert record["token_cut"] == 20.0 and record["distill_features"] == 0.0


def test_distilled_features_stay_nearer_to_those_with_every_token(idle):
    start = model_of("idle").eval()

    def moved(model):
        with torch.no_grad(), final_features(model, True) as found:
            model(images(), 12)
            return float(feature_distance(found, start.forward_features(images(), 16)))

    with_it, record = trained("idle", epochs=4, lr=2e-2, distill_features=20.0)
    assert moved(with_it) < moved(idle) and record["distill_features"] == 20.0


def test_a_run_with_all_losses_resumes_with_the_same_bits_and_its_record_stays(tmp_path):
    class Stop(Exception):  # noqa: N818
        pass

    def stop(step, fraction):
        if step.startswith("finetune") and fraction > 0.5:
            raise Stop

    losses = {"token_cut": 20.0, "distill": 1.0, "distill_features": 2.0, "fixed_keep": None}
    whole, record = trained("idle", **losses)
    with pytest.raises(Stop):
        trained("idle", tmp_path, progress=stop, **losses)
    for other in ({"token_cut": 0.0}, {"distill_features": 3.0}):
        with pytest.raises(
            DataError, match="belongs to a run with other data, settings or start weights, of another model"
        ):
            trained("idle", tmp_path, resume=True, **{**losses, **other})
    again, same = trained("idle", tmp_path, resume=True, **losses)
    assert torch.equal(weights(whole), weights(again)) and record == same
    save_bundle(again, tmp_path / "model.pt")
    kept = load_bundle(tmp_path / "model.pt").training["finetune"]
    assert (kept["token_cut"], kept["distill"], kept["distill_features"]) == (20.0, 1.0, 2.0)


def test_other_settings_of_a_reducer_are_another_run(tmp_path):
    trained(("evit", {"fuse": False}), tmp_path)
    with pytest.raises(
        DataError, match="belongs to a run with other data, settings or start weights, of another model"
    ):
        trained("evit", tmp_path, resume=True)
    trained(("idle", {"stages": [2, 3]}), tmp_path)
    with pytest.raises(
        DataError, match="belongs to a run with other data, settings or start weights, of another model"
    ):
        trained(("idle", {"stages": [2, 4]}), tmp_path, resume=True)


def test_checkpoints_of_earlier_versions_are_identified_by_the_same_settings():
    config = FineTuning(TrainingPlan(7, batch=16), fixed=0.5)
    text = (
        "{'plan': {'steps': 7, 'batch': 16, 'lr': 0.001, 'weight_decay': 0.05, 'warmup': 0.05, 'clip': 1.0}, "
        "'smoothing': 0.1, 'low': 0.125, 'budgets': 4, 'fixed': 0.5, 'distill': 0.0, "
        "'augmentation': {'zoom': 1.0, 'flip': 0.0}}"
    )
    assert str(config.identity()) == text
    assert str(replace(config, token_cut=20.0).identity()) == text[:-1] + ", 'token_cut': 20.0}"


@pytest.mark.parametrize("reducer", ["filter", "evit", "tome"])
def test_a_reducer_without_token_cut_is_refused(reducer):
    with pytest.raises(DataError, match=rf"that of the reducer idle, and this model's reducer is {reducer}: set"):
        trained(reducer, token_cut=20.0)


def test_features_and_token_cut_stand_beside_a_loss_without_class_labels():
    _, alone = trained("idle", epochs=0.5, loss_of_all="kl")
    _, both = trained("idle", epochs=0.5, loss_of_all="kl", token_cut=20.0, distill_features=5.0)
    assert both["first_loss"] > alone["first_loss"] > 0


def test_features_are_those_of_a_patched_model():
    with (
        pytest.raises(DataError, match=r"a model of tokfilter\.patch, got Linear"),
        final_features(torch.nn.Linear(2, 2), True),
    ):
        pass
