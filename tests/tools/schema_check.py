"""Check a document against its published schema."""

import json
from importlib.resources import files

from jsonschema import Draft202012Validator


def schema_errors(document):
    """Messages of a document that does not match its schema; empty where it does."""
    name = document["schema"].removeprefix("tokfilter/")
    schema = json.loads(files("tokfilter.benchmarks").joinpath(f"schemas/{name}.json").read_text(encoding="utf-8"))
    return [f"{e.json_path}: {e.message}" for e in Draft202012Validator(schema).iter_errors(document)]


def valid(document):
    """The document, after asserting that it matches its schema and can be written as JSON."""
    assert schema_errors(document) == []
    assert json.dumps(document, allow_nan=False)
    return document
