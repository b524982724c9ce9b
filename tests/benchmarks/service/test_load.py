"""The load test of the service, shortened."""

import json

import jsonschema
from paths import SCHEMAS

from tokfilter.benchmarks.service.load import document_from_load


def test_a_short_load_is_a_document_of_its_schema(export_directory):
    document = document_from_load(export_directory, 4, queue=8, clients=16)
    schema = json.loads((SCHEMAS / "service.json").read_text())
    head = {name: schema["properties"][name].get("const", {}) for name in ("schema", "version", "machine", "versions")}
    jsonschema.validate(document | head | {"created": "", "command": ""}, schema)
    assert document["goals"]["no error"]["reached"], document["phases"]
    assert document["goals"]["overload is refused"]["reached"]
    assert all(phase["answered"] > 0 for phase in document["phases"])
