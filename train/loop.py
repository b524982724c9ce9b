"""The training loop: AdamW, warm-up and cosine schedule by timm, checkpoints; a resumed run is bit-exact.

The random numbers of a step depend on (seed, name, step) alone, so a checkpoint holds weights, optimiser state and the
losses of the steps that are done, and no generator state.
"""

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

import torch
from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]
from timm.scheduler.cosine_lr import CosineLRScheduler
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from tokfilter.artifacts.locks import only_writer
from tokfilter.errors import DataError
from tokfilter.train.data import Progress, quiet
from tokfilter.train.dataset import Batch, TrainingData
from tokfilter.train.distributed import SINGLE_PROCESS, DistContext
from tokfilter.train.parameter_groups import head_apart
from tokfilter.train.run_checkpoint import restored, save_run
from tokfilter.train.share import Share, check_divisible, shares_of_step
from tokfilter.train.structure import structure_text
from tokfilter.vit.model import FilteredViT
from tokfilter.vit.scorers import TokenFilter

__all__ = [
    "Precision",
    "RunDir",
    "TrainingPlan",
    "batch_plan",
    "generator_from",
    "identity_text",
    "loss_metrics",
    "train",
]

Precision = Literal["fp32", "bf16", "fp16"]

_HALVES: Final = {"bf16": torch.bfloat16, "fp16": torch.float16}

_SKIPPED_IN_A_ROW: Final = 25
"""Steps without finite gradients that end a training; the scale of fp16 has then fallen from 65536 to 1 / 512."""

StepLoss = Callable[[Batch, Share, torch.Generator], Tensor]
"""(the share's images, the share, the step's random generator) -> mean loss over the share's images, a scalar."""


@dataclass(frozen=True)
class TrainingPlan:
    """Length and learning rate of a stage.

    steps, batch: optimiser steps, images per step in all processes together
    lr, weight_decay: of AdamW; norms and biases do not decay
    warmup: fraction of the steps in which the learning rate rises
    clip: largest gradient norm
    precision: of the forward passes, by torch's autocast; weights and losses stay in fp32, fp16 scales its gradients
    accumulate: passes that divide a process's images of a step, for less memory; the gradients are the same
    ema: decay of a mean of the weights over the steps (timm's ModelEmaV3), which the stage ends with; 0: none
    head_lr: factor on the learning rate of the classes' head, for a new head on trained weights
    """

    steps: int
    batch: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.05
    clip: float = 1.0
    precision: Precision = "fp32"
    accumulate: int = 1
    ema: float = 0.0
    head_lr: float = 1.0

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise DataError(f"the precision is one of {', '.join(get_args(Precision))}, got {self.precision!r}.")

    def identity(self) -> dict[str, Any]:
        """The settings as they enter the identity of a checkpoint; those of earlier versions stay valid."""
        fields = asdict(self)
        for name in ("precision", "accumulate", "ema", "head_lr"):
            if fields[name] == TrainingPlan.__dataclass_fields__[name].default:
                del fields[name]
        return fields


@dataclass(frozen=True)
class RunDir:
    """Folder for the checkpoints of a run, and the processes that share it.

    folder: None writes no checkpoints
    resume: continue from the checkpoints in the folder
    save_seconds: time between two checkpoints of a stage; the end of a stage is always saved
    processes: of torchrun; all see the folder, and the first one writes
    """

    folder: Path | None = None
    resume: bool = False
    save_seconds: float = 20.0
    progress: Progress = field(default=quiet)
    processes: DistContext = SINGLE_PROCESS

    def locked(self) -> AbstractContextManager[None]:
        """Let no other run write in the folder while the block runs. Raises DataError where one does."""
        if self.folder is None or not self.processes.is_main:
            return nullcontext()
        return only_writer(self.folder, "wait until it has ended, or give another folder for this run.", DataError)

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

    The processes of ``run_dir`` divide each step's images among themselves; their losses and weights are the same.

    identity: text of all that the run depends on beside these and the kinds of the module's layers; a checkpoint of
        another identity is refused
    Returns the loss of every step. Raises DataError, KeyboardInterrupt (the last checkpoint stays).
    """
    processes = run_dir.processes
    check_divisible(min(plan.batch, len(dataset)), processes.size, plan.accumulate)
    groups = module if plan.head_lr == 1 else head_apart(module, plan.weight_decay, plan.head_lr)
    optimizer = create_optimizer_v2(groups, opt="adamw", lr=plan.lr, weight_decay=plan.weight_decay)
    warmup = int(plan.warmup * plan.steps)
    schedule = CosineLRScheduler(  # timm warns of a cosine of one step; the first of two has the same learning rate
        optimizer, t_initial=max(2, plan.steps), warmup_t=warmup, warmup_lr_init=plan.lr / 100, t_in_epochs=False
    )
    texts = [name, identity_text(plan), str(seed), identity, structure_text(module)]
    identity = hashlib.sha256("\n".join(texts).encode()).hexdigest()
    device = next(module.parameters()).device
    scaler = torch.amp.GradScaler(device.type, enabled=plan.precision == "fp16")
    ema = ModelEmaV3(module, plan.ema, use_warmup=True) if plan.ema else None
    path, parts = run_dir.path(name), {"weights": module, "optimizer": optimizer}
    parts |= ({"scaler": scaler} if plan.precision == "fp16" else {}) | ({} if ema is None else {"ema": ema})
    flags = [(part, part.trained) for part in module.modules() if isinstance(part, TokenFilter)]
    losses = restored(path, identity, parts) if run_dir.resume and path is not None else []
    for part, trained in flags:  # loading weights marks a filter as trained, also a new one in the stage backbone
        part.trained = trained
    processes.check_same(
        f"{identity} {len(losses)}",
        f"the processes of this run differ in data, settings, start weights or checkpoint at the stage {name}: give "
        "all the same command, and folders that every machine sees.",
    )
    if len(losses) >= plan.steps:
        _average(module, ema)
        return losses
    half = _HALVES.get(plan.precision)
    saved, parameters = time.monotonic(), [p for p in module.parameters() if p.requires_grad]
    averaged = processes.averaging(_Step(module, loss), _some_unused(module))
    with torch.random.fork_rng():
        for images in _steps(dataset, plan, len(losses), (seed, name), processes):
            schedule.step_update(len(losses))
            optimizer.zero_grad(set_to_none=True)
            with nullcontext() if half is None else torch.autocast(device.type, half):
                value = _gradients(averaged, images, (seed, name), len(losses), processes, scaler)
            scaler.unscale_(optimizer)
            norm = float(nn.utils.clip_grad_norm_(parameters, plan.clip))
            finite = math.isfinite(norm) and math.isfinite(value)  # the same in all processes
            if finite:
                scaler.step(optimizer)
            scaler.update()
            losses.append(value if finite else math.nan)
            if not finite:
                _check_skipped(name, losses)
            elif ema is not None:
                ema.update(module, step=len(losses))
            run_dir.progress(f"{name}: loss {value:.3f}", len(losses) / plan.steps)
            due = time.monotonic() - saved >= run_dir.save_seconds or len(losses) == plan.steps
            if path is not None and processes.is_main and due:
                save_run(path, identity, losses, parts)
                saved = time.monotonic()
    processes.barrier()  # the checkpoint is there when the first process goes on
    _average(module, ema)
    return losses


def loss_metrics(losses: list[float]) -> dict[str, Any]:
    """First loss, mean of the last tenth (one step's is too noisy), and how many steps were skipped, if any.

    Raises DataError when all were skipped.
    """
    finite = [loss for loss in losses if math.isfinite(loss)]
    if not finite:
        raise DataError(f"none of {len(losses)} steps had finite gradients. {_REMEDY}")
    last = finite[-max(1, len(finite) // 10) :]
    skipped = len(losses) - len(finite)
    return {
        "first_loss": finite[0],
        "last_loss": sum(last) / len(last),
        **({"skipped_steps": skipped} if skipped else {}),
    }


_REMEDY: Final = "Lower the learning rate, or take precision bf16 or fp32; and check the images and labels for NaN."


def _check_skipped(name: str, losses: list[float]) -> None:
    last = losses[-_SKIPPED_IN_A_ROW:]
    if len(last) == _SKIPPED_IN_A_ROW and not any(math.isfinite(loss) for loss in last):
        raise DataError(f"{name}: {len(last)} steps in a row had no finite gradients and were skipped. {_REMEDY}")


def _average(module: nn.Module, ema: ModelEmaV3 | None) -> None:
    """Give a module the mean of its weights."""
    if ema is not None:
        module.load_state_dict(ema.module.state_dict())


def _some_unused(module: nn.Module) -> bool:
    """Whether a step may leave trained parameters without a gradient.

    Images that keep every token give none to what a reducer learns, nor to the summary of a token filter; filter
    training gives none to the summary, and a mask head none to the head of classes. A timm model alone uses all.
    """
    if not isinstance(module, FilteredViT) or module.mask_head is not None:
        return True
    return any(parameter.requires_grad for parameter in module.drop.parameters())


class _Step(nn.Module):
    """The loss of a step as a module: one forward pass for DistributedDataParallel, whatever budgets it runs."""

    def __init__(self, module: nn.Module, loss: StepLoss) -> None:
        super().__init__()
        self.module = module
        self.loss = loss

    def forward(self, batch: Batch, share: Share, generator: torch.Generator) -> Tensor:
        return self.loss(batch, share, generator)


def _steps(
    dataset: TrainingData, plan: TrainingPlan, start: int, seed: tuple[object, ...], processes: DistContext
) -> Iterator[list[tuple[Batch, Share]]]:
    """The images of each step from ``start`` on that this process handles, pass by pass; listed epoch by epoch."""
    per_epoch = max(1, len(dataset) // plan.batch)
    while start < plan.steps:
        stop = min(plan.steps, (start // per_epoch + 1) * per_epoch)
        wholes = batch_plan(len(dataset), plan.batch, start, stop, *seed)
        mine = range(processes.rank * plan.accumulate, (processes.rank + 1) * plan.accumulate)
        shares = [s for whole in wholes for s in shares_of_step(whole, processes.size * plan.accumulate, mine)]
        passes = []
        seeds = [generator_from(*seed, "pixels", i).initial_seed() for i in range(start, stop) for _ in mine]
        for batch, share in zip(dataset.batches([s.positions for s in shares], seeds), shares, strict=True):
            passes.append((batch, share))
            if len(passes) == plan.accumulate:
                yield passes
                passes = []
        start = stop


def _gradients(
    averaged: Any,
    images: list[tuple[Batch, Share]],
    seed: tuple[int, str],
    step: int,
    processes: DistContext,
    scaler: torch.amp.GradScaler,
) -> float:
    """Gradients of a step's mean loss. Returns that loss."""
    total = 0.0
    for done, (batch, share) in enumerate(images, 1):
        draws = (*seed, "dropout", step, *([] if share.fraction == 1 else [processes.rank, done]))
        torch.manual_seed(generator_from(*draws).initial_seed())
        last = done == len(images) or processes.size == 1
        with processes.waiting(), nullcontext() if last else averaged.no_sync():
            value = averaged(batch, share, generator_from(*seed, "step", step)) * share.fraction
            torch.autograd.backward(scaler.scale(value * processes.size))  # torch averages over the processes
        total += value.item()
    return float(processes.sum(torch.tensor(total, dtype=torch.float64)))


def identity_text(plan: TrainingPlan) -> str:
    """The plan as it enters the identity of a checkpoint; kept, so that checkpoints of earlier versions stay valid."""
    return f"Plan({', '.join(f'{name}={value!r}' for name, value in plan.identity().items())})"
