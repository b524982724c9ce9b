"""Which layers must stay fp32: the smallest set of groups with which a model's outputs are right, by bisection.

Each probe builds a model and compares it, which takes up to a minute for an engine, so the number of probes counts. The
method is that of Polygraphy's `debug precision` (bisect on the number of layers that are fp32), repeated: Polygraphy
gives every layer up to the last one that matters, this search only those that matter. n groups of which m matter take
about m * log2(n) + m + 1 probes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from tokfilter.errors import VerificationError

if TYPE_CHECKING:
    from tokfilter.export.layer_groups import Group

__all__ = ["FP32_REMEDY", "NoFp32SetError", "kept_fp32", "merged", "nodes_of", "search", "smallest_fp32_set"]


FP32_REMEDY: Final = (
    "--auto-fp32 finds the layers for which this type is too narrow, and keeps them in fp32. Or choose another "
    "--precision."
)


class NoFp32SetError(Exception):
    """Outputs are wrong with every group in fp32 too."""


def smallest_fp32_set(
    groups: "Sequence[Group]", passes: "Callable[[Sequence[Group]], bool]", probes: int
) -> "tuple[list[Group], bool]":
    """Groups with which ``passes`` is true, and whether each of them is known to be needed.

    Assumptions: ``passes`` is false without any group, and true for a set that contains one for which it is true.

    passes: whether outputs are right with these groups in fp32
    probes: most calls of ``passes``, at least 1; once they are used up, the smallest set so far is returned
    Raises NoFp32SetError. The last call of ``passes`` that returned true had the set that is returned.
    """
    if not groups or not passes(groups):
        raise NoFp32SetError
    left = probes - 1
    best = list(groups)
    needed: list[Group] = []
    candidates = list(groups)  # `needed` and these together pass
    bad = 0  # `needed` and this many candidates fail; -1: not known of any number
    while candidates:
        good = len(candidates)
        while good - bad > 1:
            if not left:
                return best, False
            left -= 1
            middle = (bad + good) // 2 if bad >= 0 else 0
            tried = [*needed, *candidates[:middle]]
            if passes(tried):
                good, best = middle, tried
            else:
                bad = middle
        if not good:
            break
        needed.append(candidates[good - 1])
        candidates = candidates[: good - 1]
        bad = -1
    return best, True


def kept_fp32(groups: "Sequence[Group]", minimal: bool, probes: int) -> dict[str, Any]:
    """``Entry.kept_fp32`` of the manifest."""
    return {"groups": {group.name: list(group.nodes) for group in groups}, "minimal": minimal, "probes": probes}


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Both sets together; either may be empty."""
    if not first or not second:
        return dict(first or second)
    return {
        "groups": {**first["groups"], **second["groups"]},
        "minimal": first["minimal"] and second["minimal"],
        "probes": first["probes"] + second["probes"],
    }


def nodes_of(kept: Mapping[str, Any]) -> list[str]:
    """Names of all nodes of ``Entry.kept_fp32``."""
    return [node for nodes in kept.get("groups", {}).values() for node in nodes]


def search(
    what: str,
    groups: "Sequence[Group]",
    passes: Callable[[dict[str, Any]], bool],
    probes: int,
    progress: Callable[[str], None],
    failure: VerificationError,
) -> dict[str, Any]:
    """``smallest_fp32_set`` with progress and messages; returns ``Entry.kept_fp32``.

    what: the model, for messages
    failure: how it differs without any group
    Raises VerificationError: no set passes, or ``probes`` is 0.
    """
    if probes < 1:
        raise VerificationError(
            f"{failure} As many models as --auto-fp32-builds allows were built already: allow more, or choose another "
            "--precision."
        ) from failure
    done = 0

    def probe(chosen: "Sequence[Group]") -> bool:
        nonlocal done
        done += 1
        names = ", ".join(group.name for group in chosen[:2]) + (f" and {len(chosen) - 2} more" * (len(chosen) > 2))
        progress(f"{what}, build {done} of at most {probes}: {names} in fp32")
        return passes(kept_fp32(chosen, False, done))

    try:
        found, minimal = smallest_fp32_set(groups, probe, probes)
    except NoFp32SetError:
        raise VerificationError(
            f"{failure} It differs with all {len(groups)} groups of its layers in fp32, too, so --auto-fp32 cannot "
            "repair it: choose another --precision."
        ) from failure
    return kept_fp32(found, minimal, done)
