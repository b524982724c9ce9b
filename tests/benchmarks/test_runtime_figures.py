"""Figures that are taken part by part end in one document."""

import pytest

from tokfilter.benchmarks.runtime_figures import joined
from tokfilter.errors import DataError


def document(part, value, cores=2, comparisons=()):
    return {
        "schema": "tokfilter/figures",
        "machine": {"cores": cores},
        "versions": {},
        "architecture": "deit",
        "threads": 2,
        "figures": [{"part": part, "measured": value}],
        "comparisons": list(comparisons),
        "conditions": {part: {"before": value}},
    }


def test_a_part_replaces_its_own_and_keeps_the_others():
    old = joined(document("tune", 1.0), document("speed", 2.0, comparisons=["pairs"]))
    new = joined(old, document("tune", 3.0))
    assert [(figure["part"], figure["measured"]) for figure in new["figures"]] == [("speed", 2.0), ("tune", 3.0)]
    assert new["comparisons"] == ["pairs"]
    assert new["conditions"] == {"tune": {"before": 3.0}, "speed": {"before": 2.0}}


def test_parts_of_two_machines_are_not_joined():
    with pytest.raises(DataError, match="the parts that are there differ in machine: choose another file"):
        joined(document("tune", 1.0), document("speed", 2.0, cores=16))
