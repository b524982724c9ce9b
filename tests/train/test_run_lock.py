"""The lock of a run's folder ends with the run: what it started may live longer."""

import os
import signal
import subprocess
import sys

from tokfilter.train.loop import RunDir

RUN = """
import os, sys, time
from pathlib import Path
from torch.utils.data import DataLoader, Dataset
from tokfilter.train.loop import RunDir

class Slow(Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, position):
        print(os.getpid(), flush=True)
        time.sleep(60)

with RunDir(Path(sys.argv[1])).locked():
    next(iter(DataLoader(Slow(), num_workers=1, multiprocessing_context="fork")))
"""


def test_a_killed_run_can_be_resumed_while_its_workers_still_live(tmp_path):
    with subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path)], text=True, stdout=subprocess.PIPE) as process:
        worker = int(process.stdout.readline())
        try:
            process.kill()
            process.wait(timeout=10)
            with RunDir(tmp_path, resume=True).locked():
                assert os.kill(worker, 0) is None  # it lives
        finally:
            os.kill(worker, signal.SIGKILL)
