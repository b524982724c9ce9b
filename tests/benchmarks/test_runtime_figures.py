"""Figures measured part by part are joined into one document."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from tokfilter.benchmarks.documents import with_current_keys
from tokfilter.benchmarks.records.paths import RESULTS
from tokfilter.benchmarks.runtime_figures import joined, main, session_overhead
from tokfilter.errors import DataError
from tokfilter.runtime.sessions import SessionOptions


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
    old = joined(document("tune", 1.0), document("speed", 2.0, comparisons=[{"rows": []}]))
    new = joined(old, document("tune", 3.0))
    assert [(figure["part"], figure["measured"]) for figure in new["figures"]] == [("speed", 2.0), ("tune", 3.0)]
    assert new["comparisons"] == [{"rows": []}]
    assert new["conditions"] == {"tune": {"before": 3.0}, "speed": {"before": 2.0}}


def test_parts_of_two_machines_are_not_joined():
    with pytest.raises(DataError, match="the parts in the file differ in machine: choose another file"):
        joined(document("tune", 1.0), document("speed", 2.0, cores=16))


def test_former_keys_have_their_present_names():
    old = json.loads((RESULTS / "runtime.json").read_text())
    found = with_current_keys(old)
    assert [figure["met"] for figure in found["figures"]] == [figure["reached"] for figure in old["figures"]]
    rows = [row for comparison in found["comparisons"] for row in comparison["rows"]]
    assert rows and all({"mac_ratio", "efficiency"} <= row.keys() for row in rows)


def test_program_is_a_click_command():
    done = CliRunner().invoke(main, ["--help"])
    assert done.exit_code == 0 and main.name == "runtime-figures" and "--part" in done.output


def test_session_overhead_is_measured_against_its_target(export_directory):
    found = session_overhead(export_directory, SessionOptions(threads=1), queries=50)
    assert found.wanted == "<= 0.01" and np.isfinite(found.measured)
    assert found.met == (found.measured <= 0.01)
