import dataclasses
from typing import get_args

import pytest
import torch

from tokfilter.artifacts.bundle import Architecture, FilterConfig
from tokfilter.artifacts.reducer import REDUCERS, ReducerConfig
from tokfilter.benchmarks.study.scenes import SceneConfig, write_scenes
from tokfilter.errors import BudgetError, DataError
from tokfilter.train.augmentation import Augmentation
from tokfilter.train.config import TrainConfig
from tokfilter.train.data import Splits, splits_from_folder
from tokfilter.train.dataset import ImageDataset
from tokfilter.train.filter_training import FilterTraining, Objective, ranking_loss, train_filter
from tokfilter.train.finetune import FineTuning, _budgets, train_elastic
from tokfilter.train.labels import LabelConfig
from tokfilter.train.loop import RunDir, TrainingPlan, batch_plan, identity_text
from tokfilter.train.pipeline import bundle_from_start, check_run, label_folder
from tokfilter.train.start import start_from_bundle, start_from_timm
from tokfilter.vit.backbone import create_backbone
from tokfilter.vit.bundle import UNTRAINED, load_bundle, model_from_bundle, save_bundle
from tokfilter.vit.model import FilteredViT

SMALL = Architecture(
    "vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
)


def quiet(step, fraction):
    pass


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, 0, train=96, test=40, config=SceneConfig(size=32, digits=(16,), window=(40, 60)))
    return splits_from_folder(folder)


def start(seed=0, **options):
    return start_from_timm(SMALL, 10, seed=seed, preprocessing={"crop_pct": 1.0}, **options)


def short(stages=("backbone", "label", "filter", "finetune"), seed=0, steps=6, **options):
    plan = TrainingPlan(steps, batch=16, lr=1e-3)
    return TrainConfig(
        stages=stages,
        seed=seed,
        backbone=FineTuning(plan),
        filter=FilterTraining(plan),
        finetune=FineTuning(plan, **options),
    )


def weights_of(bundle):
    return {**bundle.backbone, **{f"filter.{name}": value for name, value in bundle.filter.items()}}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Interrupted(Exception):  # noqa: N818  (a signal, not an error)
    pass


def stopping_at(stage, fraction):
    def progress(step, done):
        if step.startswith(stage) and done > fraction:
            raise Interrupted

    return progress


def test_the_same_seed_gives_the_same_weights_and_another_gives_others(tmp_path, splits):
    one, again, other = (
        bundle_from_start(start(seed), splits, short(seed=seed), RunDir(tmp_path / name))
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert same(weights_of(one), weights_of(again))
    assert not same(weights_of(one), weights_of(other))
    save_bundle(one, tmp_path / "model.pt")
    record = load_bundle(tmp_path / "model.pt").training
    assert record["label"]["mask"] == {"value": "zero", "point": "after"}
    assert record["label"]["images"] == 96 and record["backbone"]["steps"] == 6
    assert [row["tokens"] for row in record["accuracy"]] == [16, 8, 4]


@pytest.mark.parametrize("stage", ["backbone", "label", "filter", "finetune"])
def test_a_run_that_was_interrupted_resumes_with_the_same_result(tmp_path, splits, stage):
    whole = bundle_from_start(start(), splits, short(), RunDir(tmp_path / "whole"))
    run_dir = RunDir(tmp_path / "halved", save_seconds=0.0, progress=stopping_at(stage, 0.4))
    with pytest.raises(Interrupted):
        bundle_from_start(start(), splits, short(), run_dir)
    seen = []
    resumed = RunDir(tmp_path / "halved", resume=True, progress=lambda step, fraction: seen.append((step, fraction)))
    again = bundle_from_start(start(), splits, short(), resumed)
    assert same(weights_of(whole), weights_of(again))
    if stage != "label":  # the interrupted stage's first steps are not done twice
        assert min(fraction for step, fraction in seen if step.startswith(stage)) > 0.4
    if stage == "finetune":
        assert not any(step.startswith(("backbone: ", "filter: ")) for step, _ in seen)


def test_a_checkpoint_of_another_run_is_refused(tmp_path, splits):
    bundle_from_start(start(), splits, short(), RunDir(tmp_path))
    with pytest.raises(
        DataError, match="belongs to a run with other data, settings or start weights, of another model"
    ):
        bundle_from_start(start(), splits, short(steps=7), RunDir(tmp_path, resume=True))
    bundle_from_start(start(), splits, short(steps=7), RunDir(tmp_path))


def test_the_filter_of_a_backbones_bundle_is_new_and_gets_the_recipes_context(tmp_path, splits):
    save_bundle(bundle_from_start(start(), splits, short(("backbone",)), RunDir()), tmp_path / "backbone.pt")
    rest = dataclasses.replace(short(("label", "filter", "finetune")), new_context=16, neighbours=None)
    found = bundle_from_start(start_from_bundle(tmp_path / "backbone.pt", None), splits, rest, RunDir(tmp_path / "a"))
    assert found.filter_config.summary == 16 and not found.filter_config.neighbours
    save_bundle(found, tmp_path / "model.pt")
    rest = dataclasses.replace(rest, new_context=8)
    again = bundle_from_start(start_from_bundle(tmp_path / "model.pt", None), splits, rest, RunDir(tmp_path / "b"))
    assert again.filter_config.summary == 16  # a trained filter keeps its context


def test_a_resumed_backbone_has_no_trained_filter(tmp_path, splits):
    for resume in (False, True):
        found = bundle_from_start(start(), splits, short(("backbone",)), RunDir(tmp_path / "run", resume))
        assert found.training["filter"] == UNTRAINED


@pytest.mark.parametrize("stage", ["backbone", "finetune"])
def test_settings_that_exclude_each_other_are_refused_before_an_image_is_read(stage):
    plan = TrainingPlan(6, batch=33)
    config = short(("backbone", "finetune"))
    for change, words in (
        (FineTuning(plan, augmentation=Augmentation(mixup=0.2)), "must be even, got 33"),
        (FineTuning(checkpointing="on"), "by the filter, got evit"),
    ):
        wrong = dataclasses.replace(config, **{stage: change}, reducer=ReducerConfig("evit"))
        with pytest.raises(DataError, match=words):
            check_run(start(), wrong)


def test_checkpoints_of_earlier_versions_are_identified_by_the_same_text():
    text = "Plan(steps=7, batch=16, lr=0.002, weight_decay=0.01, warmup=0.05, clip=1.0)"
    assert identity_text(TrainingPlan(7, batch=16, lr=2e-3, weight_decay=0.01)) == text


def test_every_image_of_an_epoch_comes_once_and_small_data_makes_small_batches():
    steps = list(batch_plan(10, 3, 0, 6, "seed"))
    assert len(set(torch.cat(steps[:3]).tolist())) == 9
    assert [s.tolist() for s in batch_plan(10, 3, 4, 6, "seed")] == [s.tolist() for s in steps[4:]]
    assert [len(s) for s in batch_plan(2, 64, 0, 3, "seed")] == [2, 2, 2]


def test_fewer_images_than_a_batch_train(tmp_path, splits):
    few = Splits(splits.train.subset(range(0, 96, 12)), splits.test)
    bundle = bundle_from_start(start(), few, short(), RunDir(tmp_path))
    assert bundle.training["data"]["train"]["images"] == 8


def test_the_filter_learns_delta_loss(splits):
    torch.manual_seed(0)
    model = FilteredViT(create_backbone(SMALL))
    dataset = ImageDataset(splits.train, start().preprocessing)
    with torch.no_grad():
        tokens = model.embed(dataset.normalised(next(dataset.in_order(96)).images))
    delta = tokens[:, 1:, 0] - tokens[:, 1:, 1]
    for objective in get_args(Objective):
        config = FilterTraining(TrainingPlan(150, batch=32, lr=1e-2), objective)
        metrics = train_filter(model, dataset, delta, LabelConfig(fraction=0.25), config, 0, RunDir())
        with torch.no_grad():
            chosen = model.scorer(tokens[:, 1:]).flatten().topk(384).indices
        right = set(chosen.tolist()) & set(delta.flatten().topk(384).indices.tolist())
        assert len(right) / 384 > 0.6  # chance is 0.25
        assert metrics["last_loss"] < metrics["first_loss"]
        assert metrics["important"] == pytest.approx(0.25, abs=0.01)


def test_a_pair_in_order_costs_little_and_weighs_by_its_difference():
    delta = torch.tensor([[0.0, 4.0, 0.0]])
    assert ranking_loss(torch.zeros(1, 3), delta) == pytest.approx(0.6931, abs=1e-4)
    assert ranking_loss(torch.tensor([[0.0, 20.0, 0.0]]), delta) < 1e-6
    assert ranking_loss(torch.tensor([[20.0, 0.0, 20.0]]), delta) == pytest.approx(20, abs=1e-3)
    mixed = torch.tensor([[0.0, 1.0, 9.0]])  # pairs (0, 1), (0, 2), (1, 2) apart by 1, 9, 8
    wrong = ranking_loss(torch.tensor([[0.0, 0.0, -20.0]]), mixed)  # both pairs with the last are wrong
    assert wrong == pytest.approx((0.6931 + 20 * 3 + 20 * 8**0.5) / (1 + 3 + 8**0.5), abs=1e-3)
    assert ranking_loss(torch.ones(2, 4), torch.zeros(2, 4)) == 0  # nothing to tell apart


def budgets_of_steps(splits, config):
    """How many tokens and how many images each forward pass of a training had."""
    model = FilteredViT(create_backbone(SMALL))
    model.scorer.requires_grad_(False)
    before = {name: value.clone() for name, value in model.scorer.state_dict().items()}
    drawn = []
    hook = model.backbone.blocks[0].register_forward_hook(lambda m, i, out: drawn.append((out.shape[1] - 1, len(out))))
    train_elastic(model, ImageDataset(splits.train, start().preprocessing), config, 0, RunDir())
    hook.remove()
    assert same(before, dict(model.scorer.state_dict()))
    return drawn


@pytest.mark.parametrize("budgets", [2, 3, 4, 5])
def test_elastic_steps_divide_their_images_among_small_and_large_budgets(splits, budgets):
    drawn = budgets_of_steps(splits, FineTuning(TrainingPlan(40, batch=20), low=0.25, budgets=budgets))
    steps = [drawn[i : i + budgets] for i in range(0, len(drawn), budgets)]
    assert len(steps) == 40
    smaller = []
    for step in steps:
        assert sum(images for _, images in step) == 20
        counts = sorted((tokens for tokens, _ in step), reverse=True)
        assert counts[0] == 16 and counts[-1] >= 4
        if budgets >= 3:  # from 4 to 17 the middle of the logarithm is 8.2
            assert counts[-1] <= 8
        smaller += counts[1:]
    assert len(set(smaller)) > 8
    assert 0.35 < sum(tokens <= 8 for tokens in smaller) / len(smaller) < 0.65  # half of the logarithm
    assert len({tuple(tokens for tokens, _ in step).index(16) for step in steps}) > 1  # no image's place has its budget


def test_budgets_are_drawn_above_the_smallest_that_a_reducer_has():
    """ToMe has half of the tokens at least; smaller draws that are raised to it would be a half of all."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.tensor([_budgets(FineTuning(low=0.125), 49, 25, generator) for _ in range(500)]).flatten()
    smaller = drawn[drawn < 49]
    assert smaller.min() == 25 and (smaller == 25).float().mean() < 0.1
    assert 0.4 < (smaller <= 35).float().mean() < 0.6  # half of the logarithm from 25 to 50


def test_images_fewer_than_budgets_take_turns(splits):
    drawn = budgets_of_steps(splits, FineTuning(TrainingPlan(60, batch=1), low=0.25))
    assert len(drawn) == 60 and {images for _, images in drawn} == {1}
    assert 5 < sum(tokens == 16 for tokens, _ in drawn) < 30  # every token: a quarter
    assert min(tokens for tokens, _ in drawn) < 7


def test_a_fixed_budget_is_the_only_one(splits):
    assert set(budgets_of_steps(splits, FineTuning(TrainingPlan(5, batch=8), fixed=0.5))) == {(8, 8)}


@pytest.mark.parametrize("options", [{"low": 0.0}, {"low": 1.5}, {"budgets": 1}])
def test_elastic_settings_that_train_no_budgets_are_refused(options):
    with pytest.raises(BudgetError, match="elastic fine-tuning needs"):
        FineTuning(**options)


def test_distillation_changes_what_is_learned(tmp_path, splits):
    plain = bundle_from_start(start(), splits, short(), RunDir(tmp_path / "a"))
    distilled = bundle_from_start(start(), splits, short(distill=1.0), RunDir(tmp_path / "b"))
    assert same(plain.filter, distilled.filter) and not same(plain.backbone, distilled.backbone)


def test_new_weights_cannot_be_labelled_or_filtered(tmp_path, splits):
    with pytest.raises(DataError, match="has no head trained for the data's classes"):
        bundle_from_start(start(), splits, short(("label", "filter")), RunDir(tmp_path))
    with pytest.raises(DataError, match="train its backbone first"):
        label_folder(start(), splits.train, TrainConfig(), tmp_path / "labels", quiet)


@pytest.mark.parametrize("stages", [(), ("backbone", "export")])
def test_unknown_stages_are_refused(stages):
    with pytest.raises(DataError, match="stages are some of backbone, label, filter, finetune"):
        TrainConfig(stages=stages)


def test_labels_made_before_are_used_and_those_of_other_runs_refused(tmp_path, splits):
    bundle = bundle_from_start(start(), splits, short(("backbone",)), RunDir(tmp_path / "w"))
    assert bundle.training["filter"] == "untrained" and not model_from_bundle(bundle).scorer.trained
    save_bundle(bundle, tmp_path / "model.pt")
    names = splits.train.class_names
    begun = start_from_bundle(tmp_path / "model.pt", names)
    label_folder(begun, splits.train, TrainConfig(), tmp_path / "labels", quiet)
    recipe = short(("filter", "finetune"))
    begun = start_from_bundle(tmp_path / "model.pt", names)
    found = bundle_from_start(begun, splits, recipe, RunDir(tmp_path / "w2"), tmp_path / "labels")
    assert found.training["label"]["identity"]["mask"] == {"value": "zero", "point": "after"}
    assert "backbone" in found.training  # the record of the earlier training stays

    with pytest.raises(DataError, match="made with other weights than"):
        changed = start_from_bundle(tmp_path / "model.pt", names)
        torch.nn.init.zeros_(changed.backbone.head.bias)
        changed.backbone.head.bias.data += 1
        bundle_from_start(changed, splits, recipe, RunDir(tmp_path / "w3"), tmp_path / "labels")
    with pytest.raises(DataError, match="made with other mask than"):
        other = dataclasses.replace(recipe, labels=LabelConfig(dataclasses.replace(recipe.labels.mask, value="mean")))
        begun = start_from_bundle(tmp_path / "model.pt", names)
        bundle_from_start(begun, splits, other, RunDir(tmp_path / "w4"), tmp_path / "labels")


def test_fine_tuning_alone_keeps_the_bundles_filter(tmp_path, splits):
    first = bundle_from_start(start(), splits, short(), RunDir(tmp_path / "w"))
    save_bundle(first, tmp_path / "model.pt")
    begun = start_from_bundle(tmp_path / "model.pt", splits.train.class_names)
    second = bundle_from_start(begun, splits, short(("finetune",)), RunDir(tmp_path / "w2"))
    assert same(first.filter, second.filter) and not same(first.backbone, second.backbone)
    assert model_from_bundle(second).keep_tokens == 8
    with pytest.raises(DataError, match="was trained for 10 classes, first 0, 1, 2; the data has 2, first a, b"):
        start_from_bundle(tmp_path / "model.pt", ("a", "b"))


def scoring(bundle):
    return {name: value for name, value in bundle.filter.items() if not name.startswith("summary.")}


def test_a_global_context_is_trained_with_the_backbone_and_changes_no_scores(tmp_path, splits):
    plain = bundle_from_start(start(), splits, short(), RunDir(tmp_path / "a"))
    recipe = dataclasses.replace(short(), filter_config=FilterConfig(summary=4))
    context = bundle_from_start(start(), splits, recipe, RunDir(tmp_path / "b"))
    assert same(scoring(context), plain.filter) and context.filter_config.summary == 4
    assert context.filter["summary.expand.weight"].any() and not same(context.backbone, plain.backbone)
    untuned = dataclasses.replace(recipe, stages=("backbone", "label", "filter"))
    initial = bundle_from_start(start(), splits, untuned, RunDir(tmp_path / "c"))
    assert not initial.filter["summary.expand.weight"].any()


@pytest.mark.parametrize(("width", "found"), [(0, 4), (4, 4), (7, 7)])
def test_fine_tuning_keeps_a_bundles_global_context_or_adds_one(tmp_path, splits, width, found):
    recipe = dataclasses.replace(short(), filter_config=FilterConfig(summary=4))
    first = bundle_from_start(start(), splits, recipe, RunDir(tmp_path / "a"))
    save_bundle(first, tmp_path / "model.pt")
    begun = start_from_bundle(tmp_path / "model.pt", splits.train.class_names)
    tuned = dataclasses.replace(short(("finetune",)), filter_config=FilterConfig(summary=width))
    second = bundle_from_start(begun, splits, tuned, RunDir(tmp_path / "b"))
    assert second.filter_config.summary == found and same(scoring(second), scoring(first))
    assert second.filter["summary.expand.weight"].any()


@pytest.mark.parametrize("name", sorted(set(REDUCERS) - {"filter"}))
def test_another_reducer_is_trained_with_the_backbone(name, splits, tmp_path):
    config = dataclasses.replace(short(("backbone", "finetune"), steps=3), reducer=ReducerConfig(name))
    bundle = bundle_from_start(start(), splits, config, RunDir(tmp_path / "work"))
    save_bundle(bundle, tmp_path / "model.pt")
    model = model_from_bundle(load_bundle(tmp_path / "model.pt"))
    assert model.drop.name == name and model.drop.trained
    assert [row["tokens"] for row in bundle.training["accuracy"]][:2] == [16, 8]
    assert bundle.training["finetune"]["steps"] == 3


def test_labels_are_for_the_filter():
    with pytest.raises(DataError, match="the stage label trains a token filter, and the reducer is evit"):
        dataclasses.replace(short(), reducer=ReducerConfig("evit"))
