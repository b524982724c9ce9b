"""The bundle's own model in PyTorch as a session, so that engines can be compared with where they come from."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from tokfilter.bundle import load_bundle, model_from_bundle
from tokfilter.errors import EngineError
from tokfilter.files import sha256
from tokfilter.manifest import Entry, Manifest
from tokfilter.model import FilteredViT
from tokfilter.runtime.artefacts import Role
from tokfilter.runtime.session import Array, Budgets, CheckedSession, Result, TensorSpec

__all__ = ["TorchSession"]


@dataclass
class TorchSession(CheckedSession):
    """A bundle in eager PyTorch on the CPU. Not safe for several threads: the model remembers its last selection.

    role: full or filtered, the same weights
    manifest: of the export directory, which names the bundle that it was made from
    """

    bundle: Path
    role: Role
    manifest: Manifest
    threads: int | None = None
    _model: FilteredViT | None = field(default=None, init=False, repr=False)

    @property
    def entry(self) -> Entry:
        """The bundle described as a file of the export directory."""
        digest = self.manifest.source.get("sha256", "")
        return Entry(self.bundle.name, self.role, digest, self.bundle.stat().st_size, precision="fp32")

    def _open(self) -> Callable[[], None]:
        if sha256(self.bundle) != self.manifest.source.get("sha256"):
            raise EngineError(
                f"{self.bundle} is not the bundle that this export was made from: export it again, or give the other."
            )
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        self._model = model = model_from_bundle(load_bundle(self.bundle))
        size, patches = self.manifest.model.input_size, model.patches
        self.inputs = (TensorSpec("images", ("batch", *size), np.dtype(np.float32)),)
        outputs = [TensorSpec("logits", ("batch", self.manifest.model.classes), np.dtype(np.float32))]
        low, high, default = (patches, patches, patches) if self.role == "full" else (1, patches, model.budget)
        if self.role == "filtered":
            outputs.append(TensorSpec("indices", ("batch", "k"), np.dtype(np.int32)))
        self.outputs, self._budgets = tuple(outputs), Budgets(low, high, default, patches)
        return self._release

    def _release(self) -> None:
        self._model = None

    @torch.inference_mode()
    def _execute(self, images: Array, k: int) -> Result:
        assert self._model is not None
        logits = self._model(torch.from_numpy(images), k).numpy()
        indices = self._model.last.indices
        return Result(logits, None if indices is None else indices.numpy())
