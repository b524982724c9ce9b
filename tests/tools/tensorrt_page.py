"""The table of docs/tensorrt-versions.md: what ran with which TensorRT, from tests/trt/real/recorded."""

import re
from collections.abc import Callable
from typing import Any

from paths import ROOT
from tensorrt_records import records

PAGE = ROOT / "docs" / "tensorrt-versions.md"
_TABLE = re.compile(r"(<!-- recorded -->\n).*?(<!-- end of what is recorded -->)", re.DOTALL)

Seen = dict[str, Any]


def page(text: str) -> str:
    """The page with its table brought up to date."""
    table = "\n".join(_rows())
    return _TABLE.sub(lambda found: f"{found[1]}{table}\n{found[2]}", text)


def _rows() -> list[str]:
    heads = ["TensorRT", "on Python", "import", *(name for name, _ in _COLUMNS), "recorded"]
    rows = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for found in records().values():
        version = found["library"]["version"]
        kind = {"tensorrt": "whole", "tensorrt_rtx": "RTX"}.get(found["library"]["module"], "lean")
        imported = "yes" if found["seen"]["import"]["result"]["version"] == version else "no"
        cells = [f"{version} ({kind})", found["python"], imported]
        cells += [cell(found["seen"]) for _, cell in _COLUMNS]
        rows.append("| " + " | ".join([*cells, found["date"]]) + " |")
    return rows


def _creators(seen: Seen) -> str:
    return f"{len(seen['registry']['result'])} creators"


def _plugin(seen: Seen) -> str:
    if "plugin" not in seen:
        return "registered" if seen.get("creation", {}).get("result", {}).get("no attributes") else "not tried"
    found = seen["plugin"]["result"]
    return "::".join(found["identity"][:2]) + f" {found['identity'][2]}" if found["loaded"] else "refused"


def _creation(seen: Seen) -> str:
    if "creation" not in seen:
        return "not tried"
    created = list(seen["creation"]["result"].values())
    return f"{created.count(True)} created, {created.count(False)} refused"


def _self_registering(seen: Seen) -> str:
    if "self-registering" not in seen:
        return "not tried"
    return "registers" if seen["self-registering"].get("result") else "declines: other major version"


def _runtime(seen: Seen) -> str:
    if "Runtime" not in seen:
        return "starts"
    ended = seen["Runtime"].get("ended by")
    return f"ends the process ({ended})" if ended else "an object that crashes when used"


def _builder(seen: Seen) -> str:
    if any(name.startswith("build, ") for name in seen):
        return "builds"
    return seen["Builder"]["raised"].split(":")[0] if "Builder" in seen else "has none"


_COLUMNS: list[tuple[str, Callable[[Seen], str]]] = [
    ("registry", _creators),
    ("plugin by load_library", _plugin),
    ("its creation", _creation),
    ("self-registering plugin", _self_registering),
    ("Builder without a driver", _builder),
    ("Runtime without a driver", _runtime),
]
