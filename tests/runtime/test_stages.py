"""What each choice does with the patches: by hand on known rows, and against models in torch."""

import numpy as np
import pytest
import timm
import torch

import tokfilter
from tokfilter.artifacts.reducer import REDUCERS, ReducerConfig
from tokfilter.errors import DataError
from tokfilter.runtime.predict import stages_from_model
from tokfilter.runtime.stages import output_lengths, stages_from_outputs

IN_BLOCK = sorted(set(REDUCERS) - {"filter"})
CHOICES = [[1, 0], [3, 1]]


def rows(*numbers):
    return np.array(numbers, np.int32)


def stages(name, first, later, partners=None, choices=CHOICES, grid=(2, 4), **settings):
    reducer = {"name": name, "settings": settings}
    return stages_from_outputs(reducer, choices, grid, rows(*first), rows(*later), partners)


def test_dropped_patches_stay_dropped():
    first, second = stages("dynamic", (0, 2, 5, 7), (1, 3))
    assert (first.block, first.alone, first.dropped, first.groups) == (1, [0, 2, 5, 7], [1, 3, 4, 6], [])
    assert (second.block, second.alone, second.dropped) == (3, [2, 7], [0, 1, 3, 4, 5, 6])
    assert first.summary == "block 1: 4 kept, 4 dropped"


@pytest.mark.parametrize(
    ("later", "alone", "groups"),
    [((1, 3), [2, 7], [[0, 1, 3, 4, 5, 6]]), ((1, 4), [2], [[1, 3, 4, 6], [0, 5, 7]])],
)
def test_a_fused_token_can_be_kept_beside_the_next_one(later, alone, groups):
    first, second = stages("evit", (0, 2, 5, 7), later, fuse=True)
    assert first.groups == [[1, 3, 4, 6]] and first.dropped == []
    assert second.alone == alone and second.groups == groups
    assert first.summary == "block 1: 4 kept, 4 in 1 token"


def test_one_fused_patch_is_a_group_too():
    (only,) = stages_from_outputs(
        {"name": "evit", "settings": {"fuse": True}}, [[2, 0]], (1, 3), rows(0, 2), None, None
    )
    assert only.groups == [[1]] and only.alone == [0, 2]


def test_idle_patches_wait_and_come_back():
    first, second = stages("idle", (0, 2, 5, 7), (1, 3))
    assert first.waiting == [1, 3, 4, 6] and first.alone == [0, 2, 5, 7] and first.dropped == []
    assert second.alone == [1, 3]
    assert second.summary == "block 3: 2 kept, 6 idle"


def test_merged_patches_share_a_token_through_later_merges():
    partners = rows(1, 0, 1, 0, 5, 0, 7, 0, 1, 0, 0, 0)  # of 8 tokens, then of the 4 that are left
    first, _ = stages("tome", (1, 3, 5, 7), (1, 3), partners)
    assert first.groups == [[0, 1, 2], [4, 5], [6, 7]] and first.alone == [3]
    partners[8], partners[10] = 1, 3
    assert stages("tome", (1, 3, 5, 7), (1, 3), partners)[1].groups == [[0, 1, 2, 3], [4, 5, 6, 7]]
    with pytest.raises(DataError, match="do not fit each other"):
        stages("tome", (1, 3, 5, 7), (1, 3), partners[:-1])


def test_windows_hold_the_patches_that_are_not_kept():
    first, second = stages("frequency", (0, 2, 5, 7), (1, 3), windows=[2, 1])
    assert first.alone == [0, 2, 5, 7] and first.groups == [[1], [3], [4], [6]]
    assert second.alone == [2, 7] and second.groups == [[0, 1, 3, 4, 5, 6]]


def test_rows_that_do_not_belong_to_the_choices_are_refused():
    with pytest.raises(DataError, match=r"evit keep \[4, 2\] tokens, got 7 rows"):
        stages("evit", (0, 2, 5, 7), (1, 2, 3))
    with pytest.raises(DataError, match="do not fit each other"):
        stages("evit", (0, 2, 5, 7), (1, 9))
    assert stages("filter", (0, 1), (), choices=[]) == []


def test_the_columns_of_further_outputs_follow_from_the_choices():
    ratio = ReducerConfig("tome").as_dict()
    assert output_lengths(ratio, [], 16, 8) == {}
    assert output_lengths(ratio, [[2, 0]], 16, 8) == {"later_indices": 0, "partners": 16}
    assert output_lengths(ratio, [[1, 0], [2, 0], [3, 1]], 16, 8) == {"later_indices": 12, "partners": 32}
    constant = ReducerConfig("tome", {"schedule": "constant"}).as_dict()
    assert output_lengths(constant, [[1, 0], [2, 1], [3, 2]], 16, 13) == {"later_indices": 17, "partners": 39}


@pytest.mark.parametrize("name", IN_BLOCK)
def test_there_are_as_many_tokens_as_the_model_runs(name):
    torch.manual_seed(0)
    shape = {"img_size": 24, "patch_size": 4, "embed_dim": 12, "depth": 3, "num_heads": 3, "num_classes": 2}
    backbone = timm.create_model("vit_tiny_patch16_224", **shape)
    model = tokfilter.patch(backbone.eval(), reducer=ReducerConfig(name, {"stages": (1, 2)}))
    model.drop.state.warned = True
    with torch.no_grad():
        model(torch.randn(2, 3, 24, 24), 21)
    expected = model.drop.blocks(21, 3)
    for image, found in enumerate(stages_from_model(model)):
        assert [stage.block for stage in found] == [block for block, _ in model.drop.choices_in_blocks(3)]
        for stage in found:
            tokens = len(set(stage.owner[(stage.owner >= 0) & ~stage.idle].tolist()))
            added = expected[stage.block - 1].mlp - 1 - tokens
            assert added == 0 or (name == "frequency" and 0 < added < 4)  # a window without a dropped patch
        if name == "tome":
            sizes = np.bincount(found[-1].owner).tolist()
            assert sizes == model.drop.sizes.value[image].tolist()
