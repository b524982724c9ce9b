"""README of a Triton model repository, and the command that starts Triton."""

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokfilter.artifacts.manifest import Entry, ModelCard
from tokfilter.artifacts.pixels import input_shape

__all__ = ["readme", "start_line"]


def start_line(models: Iterable[Entry], plugin: Path | None) -> str:
    """The command that starts Triton, with settings as --backend-config=<backend>,<name>=<value>.

    plugin: the library inside the repository; None where no plan needs one
    """
    words = ['--model-repository="$here/models"']
    if plugin is not None:
        words.append(f'--backend-config=tensorrt,plugins="$here"/{shlex.quote(str(plugin))}')
    if any(entry.target.get("version_compatible") for entry in models):
        words.append("--backend-config=tensorrt,version-compatible=true")
    return " ".join(["tritonserver", *words])


def readme(
    card: ModelCard,
    sources: Mapping[str, Entry],
    configs: Mapping[str, Any],
    left_out: Mapping[str, Sequence[str]],
    start: str,
) -> str:
    """The page.

    sources, configs: name of a model -> its file in the export, its ModelConfig
    left_out: reason -> files of the export that are not in the repository
    """
    lines = [
        f"# {card.architecture} for Triton",
        "",
        f"    ./start.sh    # {start}",
        "",
        "or in Triton's container, YY.MM being a release:",
        "",
        '    docker run --rm --gpus all -p 8000-8002:8000-8002 -v "$PWD":/repository '
        "nvcr.io/nvidia/tritonserver:YY.MM-py3 /repository/start.sh",
        "",
        _input_line(card),
        f"Output `{card.output_name}`; `indices` are the positions of the kept patches.",
        "Where a model has an input `slots`, its length is the budget in tokens and its values are unused;",
        f"the default budget is {card.keep} of {card.num_patches}.",
        "",
        *_model_lines(sources, configs),
        *_plan_lines([entry for entry in sources.values() if entry.runtime == "tensorrt"]),
        *(f"Left out, because {reason}: {', '.join(paths)}.\n" for reason, paths in left_out.items()),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _input_line(card: ModelCard) -> str:
    shape, rules = list(input_shape(card.input, card.input_size)), _preprocessing(card)
    if card.input == "float":
        return f"Input `images`: {shape}, FP32, RGB, preprocessed by the client ({rules})."
    return f"Input `images`: {shape}, UINT8, RGB, resized by the client and normalised by the model ({rules})."


def _preprocessing(card: ModelCard) -> str:
    return ", ".join(f"{name} {value}" for name, value in card.preprocessing.items() if name != "input_size")


def _model_lines(sources: Mapping[str, Entry], configs: Mapping[str, Any]) -> Iterator[str]:
    for name, config in configs.items():
        shapes = ["--shape", "images:" + ",".join(str(size) for size in config.model_warmup[0].inputs["images"].dims)]
        if len(config.input) == 2:
            shapes += ["--shape", f"slots:{config.model_warmup[0].inputs['slots'].dims[0]}"]
        command = ["perf_analyzer", "-m", name, *shapes, "--concurrency-range", "1:16", "--percentile", "99"]
        yield f"## {name}"
        yield ""
        yield f"From `{sources[name].path}`. {_batching(config)}"
        yield ""
        yield f"    {shlex.join(command)}"
        yield ""


def _batching(config: Any) -> str:
    if config.max_batch_size == 0:
        return (
            "No dynamic batching: the plan's `slots` [k] has no batch dimension, so each request is a batch of its own "
            "(`images` [B, 3, H, W]). For dynamic batching export a plan with a fixed budget (--keep)."
        )
    joined = " A batch ends at the first request with another budget." if len(config.input) == 2 else ""
    return f"Batches of up to {config.max_batch_size} are formed by Triton.{joined}"


def _plan_lines(plans: Sequence[Entry]) -> Iterator[str]:
    if not plans:
        return
    target = plans[0].target
    yield (
        f"The plans were built by TensorRT {target.get('version')} for {target.get('gpu')}: use the Triton container "
        "of that TensorRT version, on that GPU."
    )
    if any(plan.target.get("plugin") not in (None, "serialized") for plan in plans):
        yield (
            "Their plugin must be loaded before them. Triton only logs it when it cannot load a plugin; "
            "its documentation also names LD_PRELOAD of the library in `plugins/`."
        )
    yield ""
