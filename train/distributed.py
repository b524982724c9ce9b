"""Several processes, on one machine or several, that share a job: torchrun starts them and watches over them.

Each takes its own part of the work and leaves it in files; what they tell each other is when all have come so far.
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
"""How long a worker waits for the others: shards differ in time, and torchrun itself ends all when one dies."""


@dataclass(frozen=True)
class DistContext:
    """The processes of a job.

    rank: which of them this one is
    size: how many they are
    local_rank: which one on its machine, and so which GPU is its own
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process does what must be done once."""
        return self.rank == 0

    @property
    def device(self) -> str:
        """This process's GPU, or the CPU where there is none. Raises DataError for more processes than GPUs."""
        if not torch.cuda.is_available():
            return "cpu"
        if self.local_rank >= torch.cuda.device_count():
            raise DataError(
                f"this machine shows {torch.cuda.device_count()} GPU, and process {self.local_rank + 1} has none left: "
                "start torchrun with --nproc-per-node gpu, or with CUDA_VISIBLE_DEVICES= to label on the CPU."
            )
        return f"cuda:{self.local_rank}"

    def barrier(self) -> None:
        """Wait until every process has come here. Raises DataError when one is gone."""
        self.all_reduce(torch.zeros(1, dtype=torch.uint8))

    def all_reduce(self, flags: Tensor) -> Tensor:
        """Flags that any process has raised. flags: [n], uint8. Raises DataError when a process is gone."""
        if self.size == 1:
            return flags
        joined = flags.clone()
        try:
            dist.all_reduce(joined, dist.ReduceOp.MAX)
        except RuntimeError as error:
            raise DataError(
                f"worker {self.rank} of {self.size} waited for another one that is gone. Whole shards are kept: "
                "run the same command again to go on."
            ) from error
        return joined


SINGLE_PROCESS: Final = DistContext()


@contextmanager
def context_from_torchrun() -> Iterator[DistContext]:
    """The dist_context that torchrun started this process in, or this process alone."""
    if not dist.is_torchelastic_launched():
        yield SINGLE_PROCESS
        return
    dist.init_process_group("gloo", timeout=_TIMEOUT)  # only flags travel, so the CPU's engine serves GPUs too
    try:
        yield DistContext(dist.get_rank(), dist.get_world_size(), int(os.environ["LOCAL_RANK"]))
    finally:
        dist.destroy_process_group()
