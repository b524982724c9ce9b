"""One engine in a process of its own: reads JSON lines from its standard input, answers each with one JSON line.

Started by ``benchmarks.engines``, never by hand. A request names what to ``do``; the answer is the reply's fields, or
``error`` and ``message`` for an error of ours. Whatever a library prints goes to standard error.
"""

import gc
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import IO, Any, Final

import numpy as np

from tokfilter.artifacts.golden import GoldenArrays, golden_of
from tokfilter.artifacts.manifest import Manifest, load_manifest
from tokfilter.errors import TokfilterError
from tokfilter.runtime.measure.memory import device_bytes, host_peak_bytes
from tokfilter.runtime.model_files import ModelFile
from tokfilter.runtime.session import Array, CheckedSession
from tokfilter.runtime.sessions import SessionOptions, session_from_model_file
from tokfilter.runtime.verification import verify

__all__ = ["main", "run_block", "serve"]

_LONG_MS: Final = 50.0
"""A query that takes longer than this is timed from the first: refilling the caches is lost in it."""


@dataclass
class _Engine:
    """An open session with what it is verified with and fed."""

    session: CheckedSession
    model_file: ModelFile
    golden: GoldenArrays
    batches: dict[int, Array]

    def images(self, batch: int) -> Array:
        if batch not in self.batches:
            self.batches = {batch: self.golden.tiled(batch, self.session.inputs[0].dtype)}
        return self.batches[batch]


def run_block(session: CheckedSession, images: Array, tokens: int, seconds: float) -> dict[str, Any]:
    """Query for ``seconds``, at least once. The first query brings caches and threads back, and counts only if long.

    images: [B, 3, H, W]
    Returns samples_ms, end to end on the host's steady clock, and timings (host to device, compute, device to host,
    enqueue; milliseconds) where the engine tells them.
    """
    samples: list[float] = []
    timings: list[tuple[float, ...]] = []
    gc.collect()
    gc.disable()
    try:
        start = perf_counter()
        session.run(images, tokens)
        now = perf_counter()
        first = (now - start) * 1e3
        if first > _LONG_MS:
            samples.append(first)
        while not samples or now - start < seconds:
            before = now
            result = session.run(images, tokens)
            now = perf_counter()
            samples.append((now - before) * 1e3)
            if result.timing is not None:
                t = result.timing
                timings.append((t.h2d_ms, t.compute_ms, t.d2h_ms, t.enqueue_ms))
    finally:
        gc.enable()
    return {"samples_ms": samples, "timings": timings or None}


def serve(requests: Iterable[str], replies: IO[str]) -> None:
    """Answer requests until they end or one says ``close``."""
    engine: _Engine | None = None
    try:
        for line in requests:
            request = json.loads(line)
            try:
                if request["do"] == "close":
                    break
                if request["do"] == "open":
                    engine = _opened(request)
                    reply: dict[str, Any] = {"pid": os.getpid()}
                else:
                    assert engine is not None
                    reply = _answer(engine, request)
            except TokfilterError as error:
                reply = {"error": type(error).__name__, "message": str(error)}
            replies.write(json.dumps(reply) + "\n")
            replies.flush()
    finally:
        if engine is not None:
            engine.session.__exit__(None, None, None)


def _opened(request: dict[str, Any]) -> _Engine:
    directory = Path(request["directory"])
    manifest = load_manifest(directory)
    if request["bundle"] is not None:
        session, model_file = _torch_session(request, manifest)
    else:
        entry = next(e for e in manifest.files if e.path == request["path"])
        model_file = ModelFile(directory, manifest, entry)
        session = session_from_model_file(model_file, SessionOptions(**request["options"]))
    golden = golden_of(model_file.directory, model_file.manifest)
    return _Engine(session.__enter__(), model_file, golden, {})


def _torch_session(request: dict[str, Any], manifest: Manifest) -> tuple[CheckedSession, ModelFile]:
    """torch is imported in the one process that runs it: its threads and ONNX Runtime's disturb each other."""
    from tokfilter.runtime.torch_session import TorchSession

    chosen = {name: request["options"][name] for name in ("threads", "provider", "precision", "cuda_graph")}
    session = TorchSession(Path(request["bundle"]), request["role"], manifest, **chosen)
    return session, ModelFile(Path(request["directory"]), manifest, session.entry)


def _answer(engine: _Engine, request: dict[str, Any]) -> dict[str, Any]:
    if request["do"] == "memory":
        return {"host_peak_bytes": host_peak_bytes(), "device_bytes": device_bytes(os.getpid())}
    batch, tokens = request["batch"], request["tokens"]
    if request["do"] == "verify":
        return asdict(verify(engine.session, engine.model_file, engine.golden, batch, tokens))
    if request["do"] == "block":
        return run_block(engine.session, engine.images(batch), tokens, request["seconds"])
    raise ValueError(f"unknown request {request['do']!r}")


def main() -> None:
    """Serve standard input, with standard output kept for the answers alone."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    np.seterr(all="ignore")
    serve(sys.stdin, replies)


if __name__ == "__main__":
    main()
