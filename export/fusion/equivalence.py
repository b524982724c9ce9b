"""Whether a reading of the graph is TokenSelect: decided by running it against the reference.

Exporters write one selection in dozens of ways (shape arithmetic, index offsets, expansions, wrap-around of negative
indices), so no list of node patterns is complete, and a pattern that is loose enough is wrong somewhere. But a
selection only moves rows. So the nodes between tokens, scores and kept rows are cut out, checked to move rows and
nothing else, and run: on rows that are all different, with scores that are all different until every position has been
kept once, and with scores full of ties; at two batch sizes where the batch is free. Each result must equal
``kernels/reference.py`` bit for bit.
"""

from dataclasses import dataclass

import onnx_ir as ir

from tokfilter.export.fusion.fragment import Fragment, FragmentError
from tokfilter.export.fusion.match import FLOATS, RAN, Guess, Miss
from tokfilter.export.fusion.probe import Trial, tried_scores, tried_tokens
from tokfilter.export.fusion.shapes import Shapes
from tokfilter.kernels.op import ORDERS

__all__ = ["Proof", "prove"]

# What changes no element of a tensor.
_MOVERS = {
    *("Concat", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Reshape", "Shape", "Size"),
    *("Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
}


@dataclass(frozen=True)
class Proof:
    """What a guess turned out to be.

    width: how many indices the TopK returns per image
    indices: index tensors inside that equal the op's ``indices`` output
    nodes: the nodes that compute the kept rows from tokens and scores
    """

    guess: Guess
    k: int
    prefix_tokens: int
    order: str
    width: int
    indices: tuple[ir.Value, ...]
    nodes: frozenset[ir.Node]


def prove(guess: Guess, topk: ir.Node, cone: set[ir.Value], model: ir.Model, shapes: Shapes) -> Proof:
    """Run ``guess`` about ``topk`` and find k, the prefix and the order. Raises Miss that says what came out instead.

    cone: all that is computed from the indices of ``topk``
    """
    budget = None if topk.inputs[1] is None else ir.convenience.get_const_tensor(topk.inputs[1])
    sizes = shapes.trials(guess.tokens, guess.scores, least=2 if budget is None else int(budget.numpy().item()))
    outputs = [*guess.left, guess.kept]
    fragment = Fragment(guess.tokens, guess.scores, outputs, shapes, sizes[0])
    _check_moves_only(fragment, guess, topk)
    inner = [value for value in fragment.computed() if value in cone and shapes.dtype(value) not in FLOATS]
    fragment.outputs += [value for value in inner if value not in outputs]
    try:
        trials = _run(fragment, model, guess, shapes, sizes)
    except FragmentError as error:
        raise Miss(f"its nodes do not run alone: {str(error).splitlines()[0]}", 1) from error
    k, prefix = _budget(trials)
    order = _order(trials, k, prefix)
    equal = tuple(v for v in inner if all(trial.gives_indices(v, k, prefix, order) for trial in trials))
    ranked = trials[0].results[topk.outputs[1]]
    return Proof(guess, k, prefix, order, ranked.size // len(ranked), equal, frozenset(fragment.nodes))


def _check_moves_only(fragment: Fragment, guess: Guess, topk: ir.Node) -> None:
    """The rows depend on tokens and scores alone, nothing computes with them, and scores serve to rank. Raises Miss."""
    if fragment.outside:
        names = ", ".join(sorted(repr(value.name) for value in fragment.outside))
        known = f"{guess.tokens.name!r}, {guess.scores.name!r} and shapes"
        raise Miss(f"the rows also depend on {names}, not only on {known}", 1)
    moved, ranks = {guess.tokens}, {guess.scores, topk.outputs[0]}
    negation = None if topk.inputs[0] in ranks or topk.inputs[0] is None else topk.inputs[0].producer()
    for node in topk.graph or ():
        if node not in fragment.nodes or node.op_type in ("Shape", "Size"):
            continue
        if moved.intersection(node.inputs):
            if node.op_type not in _MOVERS:
                raise Miss(f"{node.op_type} {node.name!r} computes with the rows", 1)
            moved.update(node.outputs)
        if ranks.intersection(node.inputs) and node not in (topk, negation):
            raise Miss(f"{node.op_type} {node.name!r} uses the scores for more than their order", 1)


def _run(fragment: Fragment, model: ir.Model, guess: Guess, shapes: Shapes, sizes: list[dict[str, int]]) -> list[Trial]:
    session = fragment.session(model)
    trials: list[Trial] = []
    for at in sizes:
        tokens = tried_tokens(shapes.at(guess.tokens, at))
        for tied, scores in tried_scores(shapes.at(guess.scores, at), lambda: trials[-1].kept):
            results = fragment.run(session, tokens, scores, at)
            trials.append(Trial(tied, tokens, scores, [results[v] for v in (*guess.left, guess.kept)], results))
    return trials


def _budget(trials: list[Trial]) -> tuple[int, int]:
    """k and the number of prefix tokens. Raises Miss."""
    budgets = {trial.kept for trial in trials}
    if len(budgets) > 1:
        found = " or ".join(map(str, sorted(budgets)))
        raise Miss(f"its budget follows the shape: k is {found}; TokenSelect wants a constant", RAN + 1)
    return trials[0].kept, trials[0].prefix


def _order(trials: list[Trial], k: int, prefix: int) -> str:
    """The order in which all trials equal the reference. Raises Miss with the first difference."""
    for order in ORDERS:
        if all(trial.gives_rows(k, prefix, order) for trial in trials):
            return order
    distinct = [trial for trial in trials if not trial.tied]
    if any(all(trial.gives_rows(k, prefix, order) for trial in distinct) for order in ORDERS):
        raise Miss("equal scores are ranked the other way round: TokenSelect keeps the lower position first", RAN + 1)
    wrong = next(trial for trial in distinct if not trial.gives_rows(k, prefix, "score"))
    raise Miss(wrong.first_difference(k, prefix), RAN + wrong.share_of_right_rows(k, prefix))
