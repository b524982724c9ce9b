"""MLPerf's scenarios on an export directory: the full model and every budget, one engine open at a time."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from tokfilter.artifacts.budget import Keep
from tokfilter.artifacts.manifest import load_manifest
from tokfilter.errors import DataError
from tokfilter.runtime.comparison.processes import specs_for
from tokfilter.runtime.measure.latency import multi_stream, single_stream
from tokfilter.runtime.measure.loadgen import run_loadgen
from tokfilter.runtime.measure.machine import conditions
from tokfilter.runtime.measure.metrics import PERCENTILE_RULE
from tokfilter.runtime.measure.record import header
from tokfilter.runtime.measure.scenario import MULTI_STREAM_SAMPLES, SCENARIOS, ScenarioConfig, ScenarioResult
from tokfilter.runtime.measure.throughput import offline, server
from tokfilter.runtime.model_files import ModelFile, model_file_at
from tokfilter.runtime.session import Array, CheckedSession
from tokfilter.runtime.sessions import SessionOptions, session_from_model_file
from tokfilter.runtime.verification import Verdict, golden_for, verify

__all__ = ["run_scenarios"]

_LIBRARY: Final = 64
"""Number of images that queries are taken from."""


def run_scenarios(
    directory: str | Path,
    names: Sequence[str],
    keeps: Sequence[Keep],
    options: SessionOptions | None = None,
    config: ScenarioConfig | None = None,
    command: str = "",
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Run scenarios (keys of SCENARIOS) and return the content of ``schemas/scenario.json``.

    Raises VerificationError before anything is timed when outputs differ from the golden tensors, DataError,
    BudgetError, EngineError, MissingDependencyError.
    """
    options, config, directory = options or SessionOptions(), config or ScenarioConfig(), Path(directory)
    unknown = [name for name in names if name not in SCENARIOS]
    if unknown or not names:
        raise DataError(f"a scenario is one of {', '.join(SCENARIOS)}, got {', '.join(unknown) or 'none'}.")
    manifest = load_manifest(directory)
    model_files = {
        (tokens, spec.role): model_file_at(
            directory, spec.path, spec.role, options.runtime, options.precision, options.bundle
        )
        for tokens, spec in specs_for(directory, manifest, keeps, options).items()
    }
    before, rows = conditions(), []
    verdicts = [
        asdict(verdict)
        for (tokens, _), model_file in model_files.items()
        for verdict in _verdicts(model_file, tokens, names, options, config)
    ]
    for (tokens, role), model_file in model_files.items():
        for group, chosen, count in _groups(names, options, config):
            with ExitStack() as stack:
                sessions = [stack.enter_context(session_from_model_file(model_file, chosen)) for _ in range(count)]
                images = golden_for(sessions[0], model_file).tiled(_LIBRARY, sessions[0].inputs[0].dtype)
                for name in group:
                    progress(f"{SCENARIOS[name]}, {tokens} tokens")
                    result = _run(SCENARIOS[name], sessions, images, tokens, config)
                    place = {"role": role, "tokens": tokens, "path": model_file.entry.path}
                    rows.append({**place, **asdict(result), "notes": list(result.notes)})
    return {
        **header("scenario", command),
        "conditions": {"before": before, "after": conditions()},
        "settings": {**asdict(options), **asdict(config), "percentile_rule": PERCENTILE_RULE},
        "verification": verdicts,
        "rows": rows,
    }


def _verdicts(
    model_file: ModelFile, tokens: int, names: Sequence[str], options: SessionOptions, config: ScenarioConfig
) -> Iterator[Verdict]:
    """One verdict for each batch size that the scenarios run."""
    sizes = {"single-stream": {1}, "multi-stream": {MULTI_STREAM_SAMPLES}, "offline": {config.batch}}
    for group, chosen, _ in _groups(names, options, config):
        with session_from_model_file(model_file, chosen) as session:
            golden = golden_for(session, model_file)
            for batch in sorted(set().union(*(sizes.get(name, {1, config.batch}) for name in group))):
                yield verify(session, model_file, golden, batch, tokens)


def _groups(
    names: Sequence[str], options: SessionOptions, config: ScenarioConfig
) -> Iterator[tuple[list[str], SessionOptions, int]]:
    """Scenarios that share open sessions, their options, and how many sessions there are.

    OpenVINO runs several requests at a time in one session, which is compiled for that: Offline has one of its own.
    """
    if options.runtime != "openvino" or config.loadgen:
        yield list(names), options, config.streams
        return
    if others := [name for name in names if name != "offline"]:
        yield others, options, 1
    if "offline" in names:
        streams = config.streams if config.streams > 1 else options.streams
        yield ["offline"], replace(options, hint="throughput", streams=streams), 1


def _run(
    name: str, sessions: Sequence[CheckedSession], images: Array, keep: int, config: ScenarioConfig
) -> ScenarioResult:
    if config.loadgen:
        return run_loadgen(sessions[0], images, name, config, keep)
    if name == "Offline":
        return offline(sessions, images, config, keep)
    loop = {"SingleStream": single_stream, "MultiStream": multi_stream, "Server": server}[name]
    return loop(sessions[0], images, config, keep)
