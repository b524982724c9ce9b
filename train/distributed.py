"""Several processes of one job, on one or several machines, started by torchrun.

Each writes the results of its own images to files. Between processes only barriers and flags are exchanged.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import torch
import torch.distributed as dist
from torch import Tensor

from tokfilter.errors import DataError

__all__ = ["SINGLE_PROCESS", "DistContext", "context_from_torchrun"]

_TIMEOUT: Final = timedelta(days=7)
"""Timeout of a barrier: shards differ in time, and torchrun ends all processes when one dies."""


@dataclass(frozen=True)
class DistContext:
    """This process among those of a job.

    rank: index of this process
    size: number of processes
    local_rank: index on its machine, and so of its GPU
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

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
                "start torchrun with --nproc-per-node gpu, or with CUDA_VISIBLE_DEVICES= to label on the CPU."
            )
        return f"cuda:{self.local_rank}"

    def barrier(self) -> None:
        """Wait until every process has called this. Raises DataError when one has died."""
        self.all_reduce(torch.zeros(1, dtype=torch.uint8))

    def all_reduce(self, flags: Tensor) -> Tensor:
        """Flags set by any process (maximum). flags: [n], uint8. Raises DataError when a process has died."""
        if self.size == 1:
            return flags
        joined = flags.clone()
        try:
            dist.all_reduce(joined, dist.ReduceOp.MAX)
        except RuntimeError as error:
            raise DataError(
                f"worker {self.rank} of {self.size} waited for a process that has died. Complete shards are kept: "
                "run the same command again to continue."
            ) from error
        return joined


SINGLE_PROCESS: Final = DistContext()


@contextmanager
def context_from_torchrun() -> Iterator[DistContext]:
    """The context from torchrun's environment variables; a single process without torchrun."""
    if not dist.is_torchelastic_launched():
        yield SINGLE_PROCESS
        return
    dist.init_process_group("gloo", timeout=_TIMEOUT)  # only flags are sent, so the CPU back end serves GPUs too
    try:
        yield DistContext(dist.get_rank(), dist.get_world_size(), int(os.environ["LOCAL_RANK"]))
    finally:
        dist.destroy_process_group()
