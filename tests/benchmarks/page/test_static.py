"""The page's own files: no markup from strings, nothing from another host, an inline script that the policy allows."""

import base64
import hashlib
import re
import sys

import pytest
from paths import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

STATIC = ROOT / "benchmarks" / "page" / "static"
SCRIPTS = sorted((STATIC / "js").glob("*.js"))
INDEX = (STATIC / "index.html").read_text(encoding="utf-8")


def test_the_policy_allows_the_inline_script_and_nothing_from_elsewhere():
    (script,) = re.findall(r"<script>(.*?)</script>", INDEX, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', INDEX)[1]
    assert f"'sha256-{digest}'" in policy
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    sources = {source for rule in rules.values() for source in rule.split()}
    assert sources == {"'none'", "'self'", "'wasm-unsafe-eval'", "blob:", f"'sha256-{digest}'"}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_string_becomes_markup_or_code(path):
    source = path.read_text(encoding="utf-8")
    for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "srcdoc"):
        assert sink not in source
    assert "http://" not in source and "https://" not in source


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_every_import_is_a_file_of_the_page(path):
    engine = "../onnxruntime-web/ort.wasm.bundle.min.js"
    for name in re.findall(r'from "([^"]+)"', path.read_text(encoding="utf-8")):
        assert name == engine or (path.parent / name).is_file(), name


def test_the_wheel_has_every_file():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    patterns = settings["package-data"]["tokfilter.benchmarks.page"]
    shipped = {file for pattern in patterns for file in STATIC.parent.glob(pattern) if file.is_file()}
    assert shipped == {file for file in STATIC.rglob("*") if file.is_file()}


def test_the_licence_of_the_engine_is_in_the_page():
    licence = (STATIC / "onnxruntime-web" / "LICENSE.txt").read_text()
    assert "MIT License. Copyright (c) Microsoft Corporation" in licence
    assert "shall be included in all copies" in licence


def test_every_id_that_a_script_asks_for_is_in_the_page():
    asked = re.compile(r'(?:byId|getElementById)\("([\w-]+)"\)')
    named = {name for path in SCRIPTS for name in asked.findall(path.read_text(encoding="utf-8"))}
    assert len(named) > 10
    assert named <= set(re.findall(r'id="([\w-]+)"', INDEX))
