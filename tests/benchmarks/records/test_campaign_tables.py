import json

from paths import RESULTS
from schema_check import valid

from tokfilter.benchmarks.records.campaign_tables import campaign_table, kills_table, load_table


def test_the_published_campaign_follows_its_schema_and_its_sums():
    document = valid(json.loads((RESULTS / "campaign.json").read_text()))
    rows = document["classes"]
    assert document["inputs"] == sum(row["inputs"] for row in rows)
    assert all(row["inputs"] == row["refused"] + row["equal"] + row["different"] for row in rows)
    assert document["faults"] == {name: sum(row["faults"][name] for row in rows) for name in document["faults"]}
    lines = campaign_table(document).splitlines()
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert f"| **all** | {document['inputs']} |" in lines[2 + len(rows)]


def test_parts_that_were_left_out_are_named():
    document = {"kills": [], "service": {}}
    assert kills_table(document) == load_table(document) == "No part of the last run; `make campaign` runs every part."
    goal = {"reached": False, "found": "a|b"}
    assert load_table({"service": {"heads": goal}}).splitlines()[-1] == "| heads | **no** | a/b |"
    killed = {"name": "pack", "kills": 3, "finished": 1, "old": 2, "new": 2, "faults": ["x"]}
    assert kills_table({"kills": [killed]}).splitlines()[-1] == "| `pack` | 3 | 1 | 2 | 2 | 1 |"
