"""Every test asserts something."""

import ast
from collections.abc import Iterator
from pathlib import Path

from paths import TESTS

Function = ast.FunctionDef | ast.AsyncFunctionDef
CHECKS = ("assert", "check", "expect", "refuse")
"""First words of the names of helpers that assert, and of mock's methods."""


def functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def called_name(node: ast.Call) -> str:
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def asserts(function: Function, helpers: dict[str, Function]) -> bool:
    """Has the function an ``assert``, ``pytest.raises`` or ``warns``, or does it call a helper that has?"""
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            name = called_name(node)
            if name in ("raises", "warns", "fail", "deprecated_call") or name.lstrip("_").split("_")[0] in CHECKS:
                return True
            helper = helpers.get(name)
            if helper is not None and helper is not function and not helper.name.startswith("test_"):
                rest = {key: value for key, value in helpers.items() if key != name}
                if asserts(helper, rest):
                    return True
    return False


def without_assertion(source: str) -> list[str]:
    tree = ast.parse(source)
    helpers = {function.name: function for function in functions(tree)}
    tests = [function for function in functions(tree) if function.name.startswith("test_")]
    return [test.name for test in tests if not asserts(test, helpers)]


def test_every_test_asserts():
    files = sorted(TESTS.rglob("test_*.py"))
    found = {str(path.relative_to(TESTS)): names for path in files if (names := without_assertion(path.read_text()))}
    assert len(files) > 50 and found == {}


def test_a_test_that_only_runs_code_is_found():
    source = (Path(__file__).parent / "test_assertions.py").read_text()
    assert without_assertion(source) == []
    assert without_assertion(
        "def test_a(): run()\ndef test_b(): check_it()\ndef test_c(): helper()\ndef helper(): run()\n"
    ) == [
        "test_a",
        "test_c",
    ]
    assert without_assertion("def helper():\n    assert 1\ndef test_a(): helper()\n") == []
