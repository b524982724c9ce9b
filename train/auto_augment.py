"""Policies of timm's automatic augmentation as text, such as ``rand-m9-mstd0.5-inc1``, checked before timm reads them.

timm skips parts that it does not know (``rand-foo``), takes any number, and stops by an assertion without a message.
"""

import re
from typing import Final

from tokfilter.errors import DataError

__all__ = ["check_policy"]

_LONGEST: Final = 64
_PART: Final = re.compile(r"([a-z]+)([0-9]{1,4}(?:\.[0-9]{1,4})?)")
_DEVIATION: Final = (0, 1000, False)

_POLICIES: Final[dict[str, dict[str, tuple[float, float, bool]]]] = {
    "rand": {
        "m": (0, 30, True),
        "n": (1, 10, True),
        "p": (0, 1, False),
        "mstd": _DEVIATION,
        "mmax": (1, 30, True),
        "inc": (0, 1, True),
    },
    "augmix": {
        "m": (0, 10, True),
        "w": (1, 10, True),
        "d": (1, 10, True),
        "a": (0.01, 10, False),
        "mstd": _DEVIATION,
    },
    **{name: {"mstd": _DEVIATION} for name in ("original", "originalr", "v0", "v0r", "3a")},
}
"""Policy -> its parts: least, most, whole number. timm reads the parts in ``timm/data/auto_augment.py``."""

_SETS: Final = ("tweights", "t3a", "t3aw")
"""Sets of operations that ``rand`` can choose from."""


def check_policy(text: str) -> None:
    """Raise DataError unless ``text`` is a policy with parts that timm knows, each at most once and in its range."""
    if len(text) > _LONGEST:
        raise DataError(f"a policy of augmentation must have at most {_LONGEST} characters, got {len(text)}.")
    name, *parts = text.split("-")
    if name not in _POLICIES:
        raise DataError(
            f"a policy of augmentation begins with one of {', '.join(_POLICIES)}, got {text!r}. Write for example "
            "rand-m9-mstd0.5-inc1, as for timm."
        )
    known, seen = _POLICIES[name], set[str]()
    for part in parts:
        key = _key(name, part, known)
        if key in seen:
            raise DataError(f"{text!r} has {key} more than once: leave one out.")
        seen.add(key)


def _key(name: str, part: str, known: dict[str, tuple[float, float, bool]]) -> str:
    """Which part of a policy this is. Raises DataError for none of them."""
    if name == "rand" and part in _SETS:
        return "t"
    found = _PART.fullmatch(part)
    if found is not None and found[1] in known:
        least, most, whole = known[found[1]]
        if least <= float(found[2]) <= most and not (whole and "." in found[2]):
            return found[1]
    ranges = [
        f"{key} {least:g} to {most:g}" + ("" if whole else ", also 0.5") for key, (least, most, whole) in known.items()
    ]
    sets = f"; or {', '.join(_SETS)}" if name == "rand" else ""
    raise DataError(
        f"{part!r} is no part of the policy {name}: expected a name and a number, {'; '.join(ranges)}{sets}."
    )
