"""The interface of token reducers: how a model gets rid of patch tokens, before its blocks or inside them.

A reducer stands in timm's slot ``patch_drop``, between the position embedding and the first block, so every forward
pass calls it once, before any block. A reducer that acts inside blocks (``in_block.py``) also wraps those blocks.

A budget k is the number of patch tokens that the first stage keeps, and k / N the fraction that every stage keeps of
the tokens that it gets (``counts.py``): with one stage, before the blocks, k is what all blocks see; with stages at
blocks 4, 7, 10 and a ratio of 0.7, 70 %, 49 % and 34 % of the tokens are left after them, as EViT and DynamicViT count.
At k = N nothing is done and the model is timm's. Equal budgets of two reducers do not cost the same; ``equal_macs.py``
gives the budget with the multiply-accumulates of another model.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tokfilter.artifacts.budget import Keep, tokens_from_keep
from tokfilter.artifacts.reducer import ReducerConfig
from tokfilter.errors import BudgetError
from tokfilter.kernels.torch_op import token_select
from tokfilter.vit.reducers.counts import RATIO, stage_counts

__all__ = ["BlockTokens", "CallState", "Reducer", "Select", "Selection", "as_index"]

Select = Callable[[Tensor, Tensor, int, int], tuple[Tensor, Tensor]]
"""(tokens, scores, k, prefix_tokens) -> (selected, indices): the pure function that selects tokens."""


def as_index(rows: Tensor) -> Tensor:
    """Rows as int64, as gathers and scatters want them.

    Not ``rows.long()``: the exporter cannot translate that as it stands, and then traces the model a second time.
    """
    index: Tensor = torch.ops.aten._to_copy.default(rows, dtype=torch.int64)
    return index


@dataclass
class Selection:
    """Input and result of a reducer in the last forward pass.

    tokens: [B, P+N, C] before the first block
    scores: [B, N], by which the first stage ranked the patches; None when every token was kept
    indices: [B, k] int32, positions that the first stage kept among the patches; None when every token was kept
    later: for each choice after the first [B, k_s] int32, the rows that it kept among the patch tokens that it got
    later_scores: for each of them [B, n_s], by which it ranked these
    partners: of a reducer that merges, for each choice [B, n_s] int32, the row that a token is merged into unless it is
        kept
    all_left: whether the tokens that were not kept are behind the last block too, in their places
    """

    tokens: Tensor
    scores: Tensor | None = None
    indices: Tensor | None = None
    later: list[Tensor] = field(default_factory=list)
    later_scores: list[Tensor] = field(default_factory=list)
    partners: list[Tensor] = field(default_factory=list)
    all_left: bool = False

    @property
    def places(self) -> Tensor | None:
        """Positions [B, k] of the patch tokens behind the last block; None when all are there.

        For reducers that only drop tokens (``Reducer.adds_tokens``).
        """
        if self.all_left:
            return None
        places = self.indices
        for rows in self.later:
            assert places is not None
            places = places.gather(1, as_index(rows))
        return places


@dataclass
class CallState:
    """Arguments and result of one forward pass, which timm's ``forward`` does not hand through.

    A plain object instead of module attributes: torch.export allows it to change while it traces. Copies and pickles
    of a model start with a new one, because tensors of a graph can be neither copied nor pickled.
    keep: budget
    slots: [k_s] for each stage, whose lengths are the counts while a graph is traced, instead of those of ``keep``
    given: what becomes ``last``, and tokens of any batch and length that are returned instead of a selection
    k: budget of this pass in tokens; None where every token stays
    last: selection of the last forward pass
    warned: whether the warning about an untrained filter was given
    """

    keep: Keep = 1.0
    slots: list[Tensor] | None = None
    given: tuple[Selection, Tensor] | None = None
    k: int | None = None
    last: Selection | None = None
    warned: bool = False

    def __reduce__(self) -> tuple[type["CallState"], tuple[()]]:
        return CallState, ()


@dataclass(frozen=True)
class BlockTokens:
    """Tokens in one block, prefix tokens counted.

    attention, mlp: rows that go through each
    """

    attention: int
    mlp: int


class Reducer(nn.Module, ABC):
    """Base class of all reducers, in the slot ``patch_drop`` of a timm model.

    name: in ``artifacts.reducer.REDUCERS``
    schedule: how the counts of later stages follow from the budget (``counts.py``)
    prefix_tokens, num_patches: P and N of the model
    select: replaced while a graph is traced
    """

    name: ClassVar[str]
    schedule: str = RATIO

    def __init__(self, prefix_tokens: int, num_patches: int) -> None:
        super().__init__()
        self.prefix_tokens = prefix_tokens
        self.num_patches = num_patches
        self.state = CallState()
        self.select: Select = token_select

    @classmethod
    @abstractmethod
    def check(cls, backbone: Any) -> None:
        """Raise UnsupportedModelError with the reason, unless this reducer can act in a timm model."""

    @property
    def config(self) -> ReducerConfig:
        """Name and settings, as a bundle records them."""
        return ReducerConfig(self.name, self.settings())

    def settings(self) -> dict[str, Any]:
        """The settings, defaults included."""
        return {}

    @property
    def trained(self) -> bool:
        """Whether what it learns was trained; True where it learns nothing."""
        return True

    @property
    def adds_tokens(self) -> bool:
        """Whether patch tokens behind the last block have no position among the patches."""
        return False

    @property
    def stage_count(self) -> int:
        """How many stages there are, each with a number of tokens of its own."""
        return 1

    @property
    def choices(self) -> list[int]:
        """For each time that tokens are chosen in a pass its stage, counted from 0."""
        return list(range(self.stage_count))

    @property
    def merges(self) -> bool:
        """Whether tokens that are not kept are merged into others (``Selection.partners``)."""
        return False

    def choices_in_blocks(self, depth: int) -> list[tuple[int, int]]:
        """For each choice its block, counted from 1, and its stage, from 0; none before the blocks."""
        return []

    @property
    def smallest(self) -> int:
        """The smallest budget."""
        return 1

    @property
    def largest(self) -> int:
        """The largest budget below every token that a graph with ``slots`` takes: N, or N - 1 for tokens that a stage
        adds, which are not there with every token."""
        return self.num_patches

    @abstractmethod
    def blocks(self, k: int, depth: int) -> list[BlockTokens]:
        """Tokens through each of ``depth`` blocks at a budget of k."""

    def tokens(self, keep: Keep) -> int:
        """A budget as a count. Raises BudgetError for what the reducer cannot do."""
        k = tokens_from_keep(keep, self.num_patches)
        if k < self.smallest:
            raise BudgetError(
                f"{self.name} needs a budget of at least {self.smallest} of this model's {self.num_patches} patch "
                f"tokens, got {keep} ({k} tokens)."
            )
        return k

    def begin(self, tokens: Tensor) -> int | None:
        """Start a forward pass; tokens: [B, P+N, C]. Returns the budget k, None where every token stays."""
        state = self.state
        state.k = None
        if state.given is not None:
            state.last = state.given[0]
            return None
        state.last = Selection(tokens)
        patches = tokens.shape[1] - self.prefix_tokens
        if state.slots is not None:
            state.k = state.slots[0].shape[0]
        elif (k := tokens_from_keep(state.keep, patches)) < patches:
            state.k = k
        return state.k

    def counts(self, k: int) -> list[int]:
        """Patch tokens that each stage keeps at a budget of k."""
        return stage_counts(k, self.num_patches, self.stage_count, self.schedule)

    def kept(self, stage: int) -> int:
        """Patch tokens that a stage keeps in this pass; stages count from 0."""
        state = self.state
        if state.slots is not None:
            return state.slots[stage].shape[0]
        assert state.k is not None and state.last is not None
        patches = state.last.tokens.shape[1] - self.prefix_tokens
        return stage_counts(state.k, patches, stage + 1, self.schedule)[stage]

    def chosen(self, tokens: Tensor, scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Keep the k patch tokens of the highest scores, in their order, and record them.

        tokens: [B, P+n, C]; scores: [B, n]
        Returns [B, P+k, C], and the rows [B, k] int32 among the n.
        """
        selected, rows = self.select(tokens, scores, k, self.prefix_tokens)
        last = self.state.last
        assert last is not None
        if last.indices is None:
            last.scores, last.indices = scores, rows
        else:
            last.later.append(rows)
            last.later_scores.append(scores)
        return selected, rows
