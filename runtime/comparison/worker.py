"""Worker process of one engine: one JSON line in (request), one JSON line out (reply).

Started by ``comparison.processes``. The field ``do`` of a request is its kind. A reply holds the result's fields, or
``error`` (a class of ``tokfilter.errors``) and ``message``. Output of libraries is sent to standard error.
"""

import gc
import json
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import IO, Any, Final

import numpy as np

from tokfilter.artifacts.files import sha256
from tokfilter.artifacts.golden import GoldenArrays
from tokfilter.artifacts.manifest import GOLDEN_FILE, Entry, load_manifest
from tokfilter.artifacts.npz import arrays_from_npz
from tokfilter.artifacts.zip_parts import open_regular
from tokfilter.errors import TokfilterError
from tokfilter.runtime.measure.memory import device_bytes, host_peak_bytes
from tokfilter.runtime.model_files import ModelFile, model_file_at
from tokfilter.runtime.naive_onnx_session import NaiveOnnxSession
from tokfilter.runtime.session import Array, CheckedSession, Result
from tokfilter.runtime.sessions import SessionOptions, session_from_model_file
from tokfilter.runtime.verification import golden_for, verify

__all__ = ["main", "run_block", "run_compute", "serve"]

_LONG_MS: Final = 50.0
"""A first query longer than this may be counted: refilling the caches is a small part of it."""
_LIKE_OTHERS: Final = 1.5
"""A first query is counted up to this multiple of the others' median. Above it, the engine made something for its
shape: sessions hold few shapes, and another budget may have taken this one's place."""


@dataclass
class _Engine:
    """An open session with its golden tensors and input batches."""

    session: CheckedSession
    model_file: ModelFile
    golden: GoldenArrays
    batches: dict[int, Array]

    def images(self, batch: int) -> Array:
        if batch not in self.batches:
            self.batches = {batch: self.golden.tiled(batch, self.session.inputs[0].dtype)}
        return self.batches[batch]


def run_block(
    session: CheckedSession,
    images: Array,
    tokens: int,
    seconds: float,
    clock: Callable[[], float] = perf_counter,
) -> dict[str, Any]:
    """Run queries for ``seconds``, at least two. The first one is counted only if it is long and like the others.

    images: [B, 3, H, W]
    clock: seconds, monotonic
    Returns samples_ms, end to end on the host, and timings (host to device, compute, device to host, enqueue;
    milliseconds) where the engine provides them.
    """
    samples: list[float] = []
    timings: list[tuple[float, ...]] = []
    gc.collect()
    gc.disable()
    try:
        start = clock()
        result = session.run(images, tokens)
        now = clock()
        first, stages = (now - start) * 1e3, _stages(result)
        while not samples or now - start < seconds:
            before = now
            result = session.run(images, tokens)
            now = clock()
            samples.append((now - before) * 1e3)
            timings += _stages(result)
        if _LONG_MS < first <= _LIKE_OTHERS * float(np.median(samples)):
            samples.insert(0, first)
            timings = stages + timings
    finally:
        gc.enable()
    return {"samples_ms": samples, "timings": timings or None}


def _stages(result: Result) -> list[tuple[float, ...]]:
    """Times of the stages of one query; none on a CPU."""
    t = result.timing
    return [] if t is None else [(t.h2d_ms, t.compute_ms, t.d2h_ms, t.enqueue_ms)]


def run_compute(session: CheckedSession, images: Array, tokens: int, seconds: float) -> dict[str, Any]:
    """Repeat the computation alone for ``seconds``, at least twice. The first call is not counted.

    Returns samples_ms, by the host's clock, and timings as ``run_block`` does, of which only compute is not 0.
    """
    gc.collect()
    gc.disable()
    try:
        times = list(session.compute(images, tokens, seconds))
        if len(times) == 1:
            times += session.compute(images, tokens, seconds)
    finally:
        gc.enable()
    counted = times[1:]
    return {"samples_ms": [t.host_ms for t in counted], "timings": [(0.0, t.device_ms, 0.0, 0.0) for t in counted]}


def serve(requests: Iterable[str], replies: IO[str]) -> None:
    """Reply to requests until the input ends or a request is ``close``."""
    engine: _Engine | None = None
    try:
        for line in requests:
            request = json.loads(line)
            try:
                if request["do"] == "close":
                    break
                if request["do"] == "open":
                    engine = _open(request)
                    reply: dict[str, Any] = {"pid": os.getpid()}
                else:
                    assert engine is not None
                    reply = _reply(engine, request)
            except TokfilterError as error:
                reply = {"error": type(error).__name__, "message": str(error)}
            replies.write(json.dumps(reply) + "\n")
            replies.flush()
    finally:
        if engine is not None:
            engine.session.__exit__(None, None, None)


def _open(request: dict[str, Any]) -> _Engine:
    options = SessionOptions(**request["options"])
    if request["graphs"] is not None:
        return _open_naive(Path(request["directory"]), Path(request["graphs"]), request["path"], options)
    model_file = model_file_at(
        Path(request["directory"]), request["path"], request["role"], options.runtime, options.precision, options.bundle
    )
    model_file = replace(model_file, entry=replace(model_file.entry, path=request["path"]))  # the name in messages
    session = session_from_model_file(model_file, options)
    session.__enter__()
    return _Engine(session, model_file, golden_for(session, model_file), {})


def _open_naive(directory: Path, graphs: Path, name: str, options: SessionOptions) -> _Engine:
    manifest, graph = load_manifest(directory), graphs / "model.onnx"
    with open_regular(graphs / GOLDEN_FILE) as file:
        arrays = arrays_from_npz(file)
    golden = GoldenArrays(arrays["images"], arrays["scores"], arrays["full"], {})
    entry = Entry(name, "full", sha256(graph), graph.stat().st_size, runtime="onnx", precision=options.precision)
    patches = manifest.model.num_patches
    session = NaiveOnnxSession(graph, patches, options.provider, options.device, options.threads)
    session.__enter__()
    return _Engine(session, ModelFile(graphs, manifest, entry), golden, {})


def _reply(engine: _Engine, request: dict[str, Any]) -> dict[str, Any]:
    if request["do"] == "memory":
        return {"host_peak_bytes": host_peak_bytes(), "device_bytes": device_bytes(os.getpid())}
    batch, tokens = request["batch"], request["tokens"]
    if request["do"] == "verify":
        return asdict(verify(engine.session, engine.model_file, engine.golden, batch, tokens))
    if request["do"] == "compute":
        return run_compute(engine.session, engine.images(batch), tokens, request["seconds"])
    if request["do"] == "block":
        return run_block(engine.session, engine.images(batch), tokens, request["seconds"])
    raise ValueError(f"unknown request {request['do']!r}")


def main() -> None:
    """Serve requests on standard input; standard output holds replies only."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    np.seterr(all="ignore")
    serve(sys.stdin, replies)


if __name__ == "__main__":
    main()
