"""Async wrapper around an inference session: every call runs in one worker thread, so it works with every runtime."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tokfilter.artifacts.budget import Keep
from tokfilter.artifacts.golden import golden_of
from tokfilter.runtime.model_files import ModelFile, find_model_file
from tokfilter.runtime.predict import class_name, probabilities_from_logits
from tokfilter.runtime.preprocess import Array, Preprocess, preprocess_from_card
from tokfilter.runtime.session import CheckedSession
from tokfilter.runtime.sessions import SessionOptions, session_from_model_file
from tokfilter.runtime.verification import verify

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["LARGEST", "Engine", "engine_from_directory"]

LARGEST: Final = 8
"""Images of a batch of an engine that takes any number."""


@dataclass
class Engine:
    """An open session with its model's metadata. Use in a ``with`` block.

    smallest, largest: batch sizes that the session accepts
    """

    session: CheckedSession
    model_file: ModelFile
    preprocess: Preprocess
    smallest: int
    largest: int
    _thread: ThreadPoolExecutor
    _opened: ExitStack

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def tokens(self, keep: Keep | None) -> int:
        """The budget in tokens. Raises BudgetError, which lists the budgets available."""
        return self.session.budgets.tokens(keep)

    @property
    def embeds(self) -> bool:
        """Whether the model gives embeddings in place of classes."""
        return self.model_file.manifest.model.embeds

    async def outputs(self, images: Sequence[Array], tokens: int) -> Sequence[Array]:
        """Run images [3, H, W] at one budget. Returns probabilities [classes] of each, or its embedding [C]."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._run, images, tokens)

    def _run(self, images: Sequence[Array], tokens: int) -> Sequence[Array]:
        # Pad a batch below the engine's minimum with copies of the last image.
        rows = [*images, *[images[-1]] * (self.smallest - len(images))]
        logits = self.session.run(np.stack(rows), tokens).logits[: len(images)]
        with np.errstate(invalid="ignore"):  # of one image: its own request gets the error
            return list(logits.astype(np.float32) if self.embeds else probabilities_from_logits(logits))

    def best(self, probabilities: Array, count: int) -> list[dict[str, Any]]:
        """The most probable classes, in descending order."""
        order = np.argsort(-probabilities, kind="stable")[:count]
        names = self.model_file.manifest.model.class_names
        return [{"class": class_name(names, int(i)), "index": int(i), "score": float(probabilities[i])} for i in order]


def engine_from_directory(directory: Path, options: SessionOptions, largest: int | None = None) -> Engine:
    """Open the filtered model of an export directory, verify it against its golden tensors, and warm it up.

    largest: largest batch; None: the batch size the engine was tuned for, or 8
    Raises DataError, EngineError, VerificationError, MissingDependencyError.
    """
    opened = ExitStack()
    try:
        thread = opened.enter_context(ThreadPoolExecutor(1, "engine"))
        chosen = find_model_file(directory, "filtered", options.runtime, options.precision, provider=options.provider)
        chosen.manifest.model.require_one_row("the service")
        session = session_from_model_file(chosen, options)
        thread.submit(session.__enter__).result()
        opened.callback(lambda: thread.submit(session.__exit__, None, None, None).result())
        low, best, high = chosen.entry.batch_range or (1, LARGEST, largest or LARGEST)
        preprocess = preprocess_from_card(chosen.manifest.model)
        engine = Engine(session, chosen, preprocess, low, max(low, min(largest or best, high)), thread, opened)
        golden = golden_of(chosen.directory, chosen.manifest)
        for batch in sorted({low, engine.largest}):
            thread.submit(verify, session, chosen, golden, batch, session.budgets.default).result()
    except BaseException:
        opened.close()
        raise
    return engine
