"""The training loop: AdamW, warm-up and cosine schedule by timm, checkpoints; a resumed run is bit-exact.

The random numbers of a step depend on (seed, name, step) alone, so a checkpoint holds weights, optimiser state and the
losses of the steps that are done, and no generator state.
"""

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import Tensor, nn

from tokfilter.artifacts.torch_file import read_torch_file, save_torch_file
from tokfilter.errors import DataError
from tokfilter.train.checksums import content_sum
from tokfilter.train.data import Progress, quiet
from tokfilter.train.dataset import Batch, TrainingData

__all__ = ["RunDir", "TrainingPlan", "batch_plan", "generator_from", "identity_text", "load_plain", "train"]

StepLoss = Callable[[Batch, torch.Generator], Tensor]
"""(batch, the step's random generator) -> loss, a scalar."""


@dataclass(frozen=True)
class TrainingPlan:
    """Length and learning rate of a stage.

    steps, batch: optimiser steps, images per step
    lr, weight_decay: of AdamW; norms and biases do not decay
    warmup: fraction of the steps in which the learning rate rises
    clip: largest gradient norm
    """

    steps: int
    batch: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.05
    clip: float = 1.0


@dataclass(frozen=True)
class RunDir:
    """Folder for the checkpoints of a run.

    folder: None writes no checkpoints
    resume: continue from the checkpoints in the folder
    save_seconds: time between two checkpoints of a stage; the end of a stage is always saved
    """

    folder: Path | None = None
    resume: bool = False
    save_seconds: float = 20.0
    progress: Progress = field(default=quiet)

    def path(self, name: str) -> Path | None:
        """The checkpoint file of a stage; None without a folder."""
        return None if self.folder is None else self.folder / f"{name}.checkpoint.pt"


def generator_from(*parts: object) -> torch.Generator:
    """A random generator whose seed depends on ``parts`` alone."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))


def batch_plan(count: int, batch: int, start: int, stop: int, *seed: object) -> Iterator[Tensor]:
    """Image positions of steps start..stop-1; a new order in every epoch, the last incomplete batch left out.

    Fewer images than a batch make one smaller batch.
    """
    per_epoch = max(1, count // batch)
    order, current = torch.empty(0), -1
    for step in range(start, stop):
        epoch, place = divmod(step, per_epoch)
        if epoch != current:
            order, current = torch.randperm(count, generator=generator_from(*seed, "epoch", epoch)), epoch
        yield order[place * batch : (place + 1) * batch]


def train(
    name: str,
    module: nn.Module,
    dataset: TrainingData,
    loss: StepLoss,
    plan: TrainingPlan,
    seed: int,
    identity: str,
    run_dir: RunDir,
) -> list[float]:
    """Minimise ``loss`` over the parameters of ``module`` that require gradients.

    identity: text of all that the run depends on; a checkpoint of another identity is refused
    Returns the loss of every step. Raises DataError, KeyboardInterrupt (the last checkpoint stays).
    """
    optimizer = create_optimizer_v2(module, opt="adamw", lr=plan.lr, weight_decay=plan.weight_decay)
    warmup = int(plan.warmup * plan.steps)
    schedule = CosineLRScheduler(  # timm warns of a cosine of one step; the first of two has the same learning rate
        optimizer, t_initial=max(2, plan.steps), warmup_t=warmup, warmup_lr_init=plan.lr / 100, t_in_epochs=False
    )
    identity = hashlib.sha256(f"{name}\n{identity_text(plan)}\n{seed}\n{identity}".encode()).hexdigest()
    path = run_dir.path(name)
    losses = _resumed(path, identity, module, optimizer) if run_dir.resume and path is not None else []
    saved, parameters = time.monotonic(), [p for p in module.parameters() if p.requires_grad]
    order = list(batch_plan(len(dataset), plan.batch, len(losses), plan.steps, seed, name))
    with torch.random.fork_rng():
        for batch in dataset.batches(order):
            step = len(losses)
            torch.manual_seed(generator_from(seed, name, "dropout", step).initial_seed())
            schedule.step_update(step)
            value = loss(batch, generator_from(seed, name, "step", step))
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(value)
            nn.utils.clip_grad_norm_(parameters, plan.clip)
            optimizer.step()
            losses.append(value.item())
            run_dir.progress(f"{name}: loss {losses[-1]:.3f}", len(losses) / plan.steps)
            if path is not None and time.monotonic() - saved >= run_dir.save_seconds and len(losses) < plan.steps:
                _save(path, identity, module, optimizer, losses)
                saved = time.monotonic()
    if path is not None and order:
        _save(path, identity, module, optimizer, losses)
    return losses


def identity_text(plan: TrainingPlan) -> str:
    """The plan as it enters the identity of a checkpoint; kept, so that checkpoints of earlier versions stay valid."""
    return f"Plan({', '.join(f'{name}={value!r}' for name, value in asdict(plan).items())})"


def _save(path: Path, identity: str, module: nn.Module, optimizer: torch.optim.Optimizer, losses: list[float]) -> None:
    content = {
        "identity": identity,
        "losses": losses,
        "weights": module.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    save_torch_file({**content, "sha256": content_sum(content)}, path)


def _resumed(path: Path, identity: str, module: nn.Module, optimizer: torch.optim.Optimizer) -> list[float]:
    """Load a checkpoint. Returns the losses of the steps that are done; none without a checkpoint."""
    if not path.is_file():
        return []
    content = load_plain(path)
    if str(content.get("identity")) != identity:
        raise DataError(
            f"{path} belongs to a run with other data, settings or start weights. Run without --resume to start again, "
            "or give another run directory."
        )
    expected = content.pop("sha256", None)  # older versions wrote none
    if expected is not None:
        try:
            found = content_sum(content)
        except ValueError as error:
            raise DataError(f"{path} is damaged: {error}. Delete it, and run again.") from error
        if str(expected) != found:
            raise DataError(f"{path} is damaged: its content has another checksum. Delete it, and run again.")
    try:
        module.load_state_dict(content["weights"])
        optimizer.load_state_dict(content["optimizer"])
        losses: list[float] = content["losses"]
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} does not fit this run: {str(error)[:200]}. Delete it, and run again.") from error
    return losses


def load_plain(path: Path) -> dict[str, Any]:
    """Read a dict of tensors and plain values that torch.save wrote, without unpickling. Raises DataError."""
    try:
        content = read_torch_file(path)
    except ValueError as error:
        raise DataError(
            f"{path} is damaged, or holds more than tensors and plain values ({error}); tokfilter never unpickles."
        ) from error
    if not isinstance(content, dict):
        raise DataError(f"{path} must hold a dict of named tensors, got {type(content).__name__}.")
    return content
