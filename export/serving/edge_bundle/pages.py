"""README.md and run.sh of an edge bundle."""

from importlib.resources import files
from string import Template
from typing import Final

from tokfilter.artifacts.manifest import Entry, Manifest
from tokfilter.artifacts.pixels import input_shape
from tokfilter.export.serving.edge_bundle.steps import Step, edge_steps, plugin_of, trtexec_line

__all__ = ["readme", "run_script"]

_BY_ITSELF: Final = ("files", "install", "cpu")
"""Steps that need no GPU."""

_SCRIPT: Final = Template("""\
#!/bin/sh
# The steps of README.md: sh run.sh [$names] ...
set -eu
cd "$$(dirname "$$0")"

$functions
[ "$$#" -gt 0 ] || set -- $default
for step in "$$@"; do
  case "$$step" in
    $cases) echo "== $$step"; "$$step" ;;
    *) echo "run.sh: expected $names, got $$step" >&2; exit 2 ;;
  esac
done
""")


def readme(manifest: Manifest, wheel: str, version: str) -> str:
    """README.md: the contents of the bundle and its steps.

    manifest: of the files in the bundle
    """
    card, plugin, steps = manifest.model, plugin_of(manifest), edge_steps(manifest, wheel)
    graphs = [entry for entry in manifest.files if _builds(entry, plugin)]
    text = files("tokfilter.export.serving.edge_bundle").joinpath("README.template").read_text(encoding="utf-8")
    return Template(text).substitute(
        architecture=card.architecture,
        patches=card.num_patches,
        keep=card.keep,
        version=version,
        wheel=wheel,
        plugin_row="" if plugin is None else f", the plugin library `{plugin}`",
        default=", ".join(_default(steps)),
        steps="\n".join(_section(number, step) for number, step in enumerate(steps, 1)),
        trtexec_note="" if plugin else ", here from native ops",
        trtexec="\n".join(f"    {trtexec_line(entry, card, plugin)}" for entry in graphs),
        output=card.output_name,
        pixels=", ".join(map(str, input_shape(card.input, card.input_size))),
        dtype="float32, normalised" if card.input == "float" else "uint8, pixels as they are",
    )


def _builds(entry: Entry, plugin: str | None) -> bool:
    """Whether trtexec builds from a graph: with the plugin from the one with the node, else from the plain one."""
    if entry.role == "filtered" and entry.runtime in ("onnx", "onnx-plugin"):
        return entry.runtime == ("onnx" if plugin is None else "onnx-plugin")
    return entry.runtime in ("onnx", "onnx-tensorrt8")


def run_script(manifest: Manifest, wheel: str) -> str:
    """run.sh: the same steps."""
    steps = edge_steps(manifest, wheel)
    return _SCRIPT.substitute(
        names=", ".join(step.name for step in steps),
        cases=" | ".join(step.name for step in steps),
        functions="".join(f"{step.name}() {{\n{_lines(step, '  ')}}}\n" for step in steps),
        default=" ".join(_default(steps)),
    )


def _default(steps: list[Step]) -> list[str]:
    return [step.name for step in steps if step.name in _BY_ITSELF]


def _section(number: int, step: Step) -> str:
    return f"## {number}. {step.title} (`{step.name}`)\n\n{step.text}\n\n{_lines(step, '    ')}"


def _lines(step: Step, indent: str) -> str:
    return "".join(f"{indent}{command}\n" for command in step.commands)
