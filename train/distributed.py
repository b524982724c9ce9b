"""Several processes of one job, on one or several machines, started by torchrun.

For labels each writes the results of its own images to files, and only barriers and flags are exchanged. In training
each computes the gradients of its share of a step's images, which torch's DistributedDataParallel averages.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tokfilter.errors import DataError

__all__ = ["SINGLE_PROCESS", "DistContext", "context_from_torchrun", "local_processes"]

_TIMEOUT: Final = timedelta(days=7)
"""Timeout of a barrier: shards differ in time, and torchrun ends all processes when one dies."""

_BROKEN: Final = ("gloo", "nccl", "connection closed", "connection reset")
"""Parts of torch's messages when another process has gone; gloo's errors are plain RuntimeErrors."""


@dataclass(frozen=True)
class DistContext:
    """This process among those of a job.

    rank: index of this process
    size: number of processes
    local_rank: index on its machine, and so of its GPU
    local_size: number of processes on its machine
    flags: process group of CPU tensors; None: torch's default group
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    flags: Any = None

    @property
    def is_main(self) -> bool:
        """Whether this is the process that does what must be done once."""
        return self.rank == 0

    @property
    def device(self) -> str:
        """This process's GPU, or the CPU where there is none. Raises DataError for more processes than GPUs."""
        if not torch.cuda.is_available():
            return "cpu"
        if self.local_rank >= torch.cuda.device_count():
            raise DataError(
                f"this machine has {torch.cuda.device_count()} GPU, and process {self.local_rank + 1} gets none: "
                "start torchrun with --nproc-per-node gpu, or with CUDA_VISIBLE_DEVICES= to run on the CPU."
            )
        return f"cuda:{self.local_rank}"

    def barrier(self) -> None:
        """Wait until every process has called this. Raises DataError when one has died."""
        self.all_reduce(torch.zeros(1, dtype=torch.uint8))

    def all_reduce(self, flags: Tensor) -> Tensor:
        """Flags set by any process (maximum). flags: [n], uint8. Raises DataError when a process has died."""
        return self._joined(flags, dist.ReduceOp.MAX)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the processes. values: on the CPU. Raises DataError when a process has died."""
        return self._joined(values, dist.ReduceOp.SUM)

    def from_main(self, values: Tensor) -> Tensor:
        """The values of the first process. values: on the CPU, of the same shape and type everywhere."""
        return self.sum(values if self.is_main else torch.zeros_like(values))

    def check_same(self, text: str, difference: str) -> None:
        """Raise DataError with the sentence ``difference``, in every process, unless all have the same text."""
        if self.size == 1:
            return
        digest = torch.frombuffer(bytearray(hashlib.sha256(text.encode()).digest()), dtype=torch.uint8)
        if not torch.equal(self._joined(digest, dist.ReduceOp.MAX), self._joined(digest, dist.ReduceOp.MIN)):
            raise DataError(difference)

    def averaging(self, module: nn.Module, find_unused: bool) -> nn.Module:
        """The module whose gradients are the mean over the processes; the module itself for one process.

        Its parameters begin as the first process's.
        find_unused: look for parameters without a gradient in every step, as torch must where there may be some. A
            static graph would not do: a budget decides which parameters take part, and each step has other budgets
        """
        if self.size == 1:
            return module
        with self.waiting():
            return DistributedDataParallel(module, find_unused_parameters=find_unused)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Turn torch's errors about a process that has gone into a DataError."""
        try:
            yield
        except RuntimeError as error:
            known = isinstance(error, dist.DistError) or any(word in str(error).lower() for word in _BROKEN)
            if self.size == 1 or not known:
                raise
            raise DataError(
                f"worker {self.rank} of {self.size} waited for a process that has died. Complete shards and "
                "checkpoints are kept: run the same command again to continue, `train` with --resume."
            ) from error

    def _joined(self, values: Tensor, operation: Any) -> Tensor:
        if self.size == 1:
            return values
        joined = values.clone()
        with self.waiting():
            dist.all_reduce(joined, operation, group=self.flags)
        return joined


SINGLE_PROCESS: Final = DistContext()


@contextmanager
def context_from_torchrun() -> Iterator[DistContext]:
    """The context from torchrun's environment variables; a single process without torchrun.

    A process group that is there already is used, and stays. Gradients of GPUs go by NCCL, all else by gloo.
    """
    if dist.is_available() and dist.is_initialized():
        yield _context(dist.new_group(backend="gloo", timeout=_TIMEOUT))
        return
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        yield SINGLE_PROCESS
        return
    gpus = torch.cuda.is_available() and dist.is_nccl_available()
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=_TIMEOUT)
    context = _context(None)
    if gpus and context.local_rank < torch.cuda.device_count():
        torch.cuda.set_device(context.local_rank)
    try:
        yield context
    finally:
        dist.destroy_process_group()


def local_processes() -> int:
    """Processes of this job on this machine, as torchrun says; 1 without torchrun."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def _context(flags: Any) -> DistContext:
    local = int(os.environ.get("LOCAL_RANK", 0))
    return DistContext(dist.get_rank(), dist.get_world_size(), local, local_processes(), flags)
