"""What real TensorRT libraries printed (tests/trt/real/recorded), for tests of the messages made from it."""

import json
import re
from types import SimpleNamespace
from typing import Any

from paths import TESTS

RECORDED = TESTS / "trt" / "real" / "recorded"


def record(name: str) -> dict[str, Any]:
    """A library's record by its version, or "rtx"."""
    found: dict[str, Any] = json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))
    return found


def records() -> dict[str, dict[str, Any]]:
    """Version -> record, oldest first, TensorRT-RTX last."""
    names = [path.stem for path in RECORDED.glob("*.json") if re.fullmatch(r"[\d.]+", path.stem)]
    return {name: record(name) for name in [*sorted(names, key=lambda x: [int(n) for n in x.split(".")]), "rtx"]}


def logged(name: str, probe: str) -> list[str]:
    """The messages that an ErrorLog keeps of a probe: severity ERROR, in their order."""
    return [message for severity, message in record(name)["seen"][probe]["log"] if severity == "ERROR"]


def parser_errors(probe: str) -> list[SimpleNamespace]:
    """The errors of TensorRT-RTX's parser as its binding has them."""
    return [
        SimpleNamespace(desc=lambda d=desc: d, node_operator=lambda o=operator: o, node_name=lambda n=node: n)
        for _, desc, operator, node in record("rtx")["seen"][probe]["parser"]
    ]


def every_line() -> str:
    """All that the recorded libraries printed."""
    printed = []
    for path in sorted(RECORDED.glob("*.json")):
        for probe in record(path.stem).get("seen", {}).values():
            printed += [message for _, message in probe.get("log", [])] + [line[1] for line in probe.get("parser", [])]
    return "\n".join(printed)


def reported() -> list[dict[str, str]]:
    """Lines of TensorRT from public issues: version, source, line."""
    lines: list[dict[str, str]] = record("reported")["lines"]
    return lines
