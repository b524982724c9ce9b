"""List an engine that trtexec built in manifest.json, so that the C++ library opens it. Python 3.8, nothing to install.

On JetPack 5, whose TensorRT 8.5 this package does not build with (docs/tensorrt-8.md):

    python3 add_plan.py out model.k98.fp16.plan --graph model.k98.trt85.onnx --precision fp16 \\
        --batch 1:8:32 --tensorrt 8.5.2
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any, NoReturn


def main() -> None:
    """Read the command line, check it against the manifest, write the manifest."""
    parser = argparse.ArgumentParser(description="List an engine that trtexec built in manifest.json.")
    parser.add_argument("directory", type=Path, help="export directory, with the plan in it")
    parser.add_argument("plan", help="name of the plan file")
    parser.add_argument("--graph", required=True, help="name of the graph that it was built from")
    parser.add_argument("--precision", choices=["fp32", "fp16"], required=True, help="fp16 with trtexec's --fp16")
    parser.add_argument("--batch", required=True, help="batch sizes min:opt:max, as in --minShapes and so on")
    parser.add_argument("--budget", help="tokens min:opt:max, for a graph with the input slots")
    parser.add_argument("--tensorrt", required=True, help="version of TensorRT, such as 8.5.2")
    parser.add_argument("--plugin", help="name of the plugin library in the directory, for a graph with the plugin")
    options = parser.parse_args()
    path = options.directory / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        fail(f"{path} cannot be read ({error}): give the directory that `tokfilter export` wrote.")
    plan = plan_entry(options, manifest)
    added = [plan] if options.plugin is None else [plan, plugin_entry(options)]
    names = {entry["path"] for entry in added}
    manifest["files"] = [entry for entry in manifest["files"] if entry["path"] not in names] + added
    part = path.with_name("manifest.json.part")
    part.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    part.replace(path)


def plan_entry(options: argparse.Namespace, manifest: dict[str, Any]) -> dict[str, Any]:
    """What the manifest says of the plan."""
    graphs = {entry["path"]: entry for entry in manifest["files"] if entry["role"] in ("filtered", "full")}
    graph = graphs.get(options.graph)
    if graph is None:
        fail(f"--graph must be one of {', '.join(sorted(graphs))}; got {options.graph}.")
    elastic = graph["role"] == "filtered" and graph.get("budget") is None
    if elastic != (options.budget is not None):
        give = "give one" if elastic else "give none"
        fail(f"--budget is for graphs with the input slots: {give} for {options.graph}.")
    if bool(graph.get("target", {}).get("plugin_interface")) != (options.plugin is not None):
        fail(f"--plugin is for graphs with .plugin. in their name, and needed there; got --graph {options.graph}.")
    return {
        **described(options.directory, options.plan),
        "role": graph["role"],
        "runtime": "tensorrt",
        "precision": options.precision,
        "budget": graph.get("budget"),
        "batch_range": numbers("--batch", options.batch),
        "budget_range": numbers("--budget", options.budget) if elastic else None,
        "target": {"version": options.tensorrt, "plugin": options.plugin, "version_compatible": False},
        "verified": False,
        "unverified": "it was built by trtexec",
    }


def plugin_entry(options: argparse.Namespace) -> dict[str, Any]:
    """What the manifest says of the plugin library."""
    return {**described(options.directory, options.plugin), "role": "plugin", "runtime": "tensorrt"}


def described(directory: Path, name: str) -> dict[str, Any]:
    """Name, digest and size of a file in the directory itself."""
    if Path(name).name != name or not (directory / name).is_file():
        fail(f"expected a file in {directory}, without a folder in its name; got {name}.")
    content = (directory / name).read_bytes()
    return {"path": name, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def numbers(option: str, text: str) -> list[int]:
    """Three ascending numbers."""
    parts = text.split(":")
    if not (len(parts) == 3 and all(part.isdigit() for part in parts)):
        fail(f"{option} must be min:opt:max, got {text}.")
    low, best, high = (int(part) for part in parts)
    if not 1 <= low <= best <= high:
        fail(f"{option} must be 1 <= min <= opt <= max, got {text}.")
    return [low, best, high]


def fail(message: str) -> NoReturn:
    """End with an error message."""
    sys.exit(f"Error: {message}")


if __name__ == "__main__":
    main()
