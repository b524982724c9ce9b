"""MLPerf's scenarios over an export directory: the full model and every budget, one engine open at a time."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from tokfilter.artifacts.budget import Keep
from tokfilter.artifacts.golden import golden_of
from tokfilter.artifacts.manifest import load_manifest
from tokfilter.errors import DataError
from tokfilter.runtime.comparison.workers import specs_for
from tokfilter.runtime.measure.latency import ScenarioResult, multi_stream, single_stream
from tokfilter.runtime.measure.loadgen import Load, run_loadgen
from tokfilter.runtime.measure.machine import conditions
from tokfilter.runtime.measure.metrics import PERCENTILE_RULE
from tokfilter.runtime.measure.record import header
from tokfilter.runtime.measure.throughput import offline, server
from tokfilter.runtime.model_files import ModelFile
from tokfilter.runtime.session import Array, CheckedSession
from tokfilter.runtime.sessions import SessionOptions, session_from_model_file
from tokfilter.runtime.verification import verify

__all__ = ["NAMES", "Setting", "scenarios"]

NAMES: Final[Mapping[str, str]] = {
    "single-stream": "SingleStream",
    "multi-stream": "MultiStream",
    "offline": "Offline",
    "server": "Server",
}

_LIBRARY: Final = 64
"""Images that queries are drawn from."""


@dataclass(frozen=True)
class Setting:
    """How to run a scenario.

    loadgen: let MLCommons' load generator drive it
    streams: sessions that run at once (Offline)
    batch: largest number of images run together (Offline, Server)
    qps, latency_bound_ms: of Server
    """

    duration_s: float = 3.0
    warm_up_s: float = 0.2
    loadgen: bool = False
    streams: int = 1
    batch: int = 8
    qps: float = 10.0
    latency_bound_ms: float = 100.0
    seed: int = 0


def scenarios(
    directory: str | Path,
    names: Sequence[str],
    keeps: Sequence[Keep],
    options: SessionOptions | None = None,
    setting: Setting | None = None,
    command: str = "",
    said: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Run scenarios (keys of NAMES) and return ``schemas/scenario.json``'s content.

    Raises VerificationError before any time is taken when outputs differ from the golden tensors, DataError,
    BudgetError, EngineError, MissingDependencyError.
    """
    options, setting, directory = options or SessionOptions(), setting or Setting(), Path(directory)
    unknown = [name for name in names if name not in NAMES]
    if unknown or not names:
        raise DataError(f"a scenario is one of {', '.join(NAMES)}, got {', '.join(unknown) or 'none'}.")
    manifest = load_manifest(directory)
    before, verdicts, rows = conditions(), [], []
    for tokens, spec in specs_for(directory, manifest, keeps, options).items():
        entry = next(e for e in manifest.files if e.path == spec.path)
        chosen = ModelFile(directory, manifest, entry)
        golden = golden_of(chosen.directory, chosen.manifest)
        with ExitStack() as stack:
            sessions = [stack.enter_context(session_from_model_file(chosen, options)) for _ in range(setting.streams)]
            verdicts.append(asdict(verify(sessions[0], chosen, golden, 1, tokens)))
            images = golden.tiled(_LIBRARY, sessions[0].inputs[0].dtype)
            for name in names:
                said(f"{NAMES[name]}, {tokens} tokens")
                result = _run(NAMES[name], sessions, images, tokens, setting)
                rows.append(
                    {
                        "role": spec.role,
                        "tokens": tokens,
                        "path": spec.path,
                        **asdict(result),
                        "notes": list(result.notes),
                    }
                )
    return {
        **header("scenario", command),
        "conditions": {"before": before, "after": conditions()},
        "settings": {**asdict(options), **asdict(setting), "percentile_rule": PERCENTILE_RULE},
        "verification": verdicts,
        "rows": rows,
    }


def _run(name: str, sessions: Sequence[CheckedSession], images: Array, k: int, setting: Setting) -> ScenarioResult:
    session = sessions[0]
    if setting.loadgen:
        load = Load(name, setting.duration_s, setting.batch, setting.qps, setting.latency_bound_ms)
        return run_loadgen(session, images, load, k)
    if name == "SingleStream":
        return single_stream(session, images, k, setting.duration_s, setting.warm_up_s)
    if name == "MultiStream":
        return multi_stream(session, images, k, setting.duration_s, setting.warm_up_s)
    if name == "Offline":
        return offline(sessions, images, k, setting.batch, setting.duration_s, setting.warm_up_s)
    return server(
        session, images, k, setting.qps, setting.latency_bound_ms, setting.batch, setting.duration_s, setting.seed
    )
