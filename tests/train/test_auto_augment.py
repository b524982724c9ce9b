"""Policies of timm's augmentation as text: what passes runs, and what timm would skip or stop at is refused."""

import pytest
import torch
from PIL import Image

from tokfilter.artifacts.bundle import Preprocessing
from tokfilter.errors import DataError, RecipeError
from tokfilter.train.augmentation import Augmentation
from tokfilter.train.auto_augment import check_policy
from tokfilter.train.pixel_changes import PixelChange
from tokfilter.train.recipe_file import changed_recipe, recipe_from_source, text_from_recipe, values_from_texts

SOUND = [
    "rand",
    "rand-m9-mstd0.5-inc1",
    "rand-m30-n10-p1-mstd1000-mmax30-inc1-tweights",
    "rand-m0-n1-p0-mstd0-mmax1-inc0-t3a",
    "rand-t3aw-n10-m30-mmax30-p1",
    "rand-m30-mmax30-n10-p1",
    "rand-m30-mmax30-n10-p1-inc1",
    "augmix",
    "augmix-m10-w10-d10-a10-mstd1000",
    "augmix-m0-w1-d1-a0.01-mstd0",
    "original",
    "originalr-mstd0.5",
    "v0",
    "v0r-mstd1000",
    "3a",
]


@pytest.mark.parametrize("policy", SOUND)
@pytest.mark.parametrize("interpolation", ["bicubic", "lanczos"])
def test_policies_that_pass_run(policy, interpolation):
    preprocessing = Preprocessing((3, 20, 24), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), interpolation)
    change = PixelChange(Augmentation(auto_augment=policy), preprocessing)
    image = Image.linear_gradient("L").resize((24, 20)).convert("RGB")
    for seed in range(15):
        pixels = change(image, seed)
        assert pixels.shape == (3, 20, 24) and pixels.dtype == torch.uint8


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("", "begins with one of rand, augmix, original"),
        ("rand" + "-m9" * 30, "at most 64 characters, got 94"),
        ("Rand-m9", "begins with one of rand"),
        ("__import__('os').system('true')", "begins with one of"),
        (
            "rand-foo",
            "'foo' is no part of the policy rand: expected a name and a number, m 0 to 30; n 1 to 10; p 0 to 1",
        ),
        ("rand-", "'' is no part"),
        ("rand-m", "'m' is no part"),
        ("rand-m31", "m 0 to 30"),
        ("rand-m9.5", "'m9.5' is no part"),
        ("rand-m-9", "'m' is no part"),
        ("rand-m٣", "is no part"),
        ("rand-n0", "n 1 to 10"),
        ("rand-n99999", "n 1 to 10"),
        ("rand-p1.5", "p 0 to 1, also 0.5"),
        ("rand-mstdinf", "is no part"),
        ("rand-mstd1e9", "is no part"),
        ("rand-inc2", "inc 0 to 1"),
        ("rand-tother", "or tweights, t3a, t3aw"),
        ("rand-m9\n", "is no part"),
        ("rand-m9-m8", "has m more than once"),
        ("rand-t3a-tweights", "has t more than once"),
        ("augmix-a0", "'a0' is no part of the policy augmix"),
        ("augmix-n2", "'n2' is no part of the policy augmix"),
        ("v0-m9", "'m9' is no part of the policy v0: .* mstd 0 to 1000"),
        ("v1", "begins with one of"),
    ],
)
def test_others_are_refused(policy, words):
    with pytest.raises(DataError, match=words):
        check_policy(policy)
    with pytest.raises(DataError, match=words):
        Augmentation(auto_augment=policy)


def test_a_recipe_refuses_them_by_the_name_of_the_setting():
    recipe = recipe_from_source(
        "default", values_from_texts(["data.auto_augment=rand-m9-inc1", "data.crop_scale=0.08"])
    )
    assert recipe.data.augmentation == Augmentation(auto_augment="rand-m9-inc1", crop_scale=0.08)
    assert 'auto_augment = "rand-m9-inc1"' in text_from_recipe(recipe)
    assert changed_recipe(recipe, values_from_texts(["data.auto_augment=none"])).data.auto_augment is None
    with pytest.raises(RecipeError, match=r"^data\.auto_augment: 'foo' is no part"):
        changed_recipe(recipe, {"data.auto_augment": "rand-foo"})
    with pytest.raises(RecipeError, match=r"data\.auto_augment expects a text, got 9"):
        changed_recipe(recipe, {"data.auto_augment": 9})
