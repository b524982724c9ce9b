"""accuracy.json: top-1 of the filter, the other reducers and its baselines at equal cost, after the same fine-tuning.

``python -m tokfilter.benchmarks study WORK --data fashion-mnist,digits-in-scenes --seeds 0,1,2 --jobs 2`` runs the
study, one core a job, and writes ``WORK/<data>.json``. ``--reducers`` leaves the ablations out, ``--longer`` adds
longer fine-tuning of the filter and three baselines. Finished rows are kept: an interrupted study continues, and more
seeds or rows can be added. Images per second are measured last, when nothing else runs; they are also in
``WORK/<data>-speed.json``, and are not measured again while that file is there.
"""

import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from tokfilter.benchmarks.accuracy_document import with_rates
from tokfilter.benchmarks.study.baseline_speed import SpeedConfig
from tokfilter.benchmarks.study.baseline_speed import document_from_bundle as speed_from_bundle
from tokfilter.benchmarks.study.baselines import TOKEN_BASELINES
from tokfilter.benchmarks.study.equal_cost import OTHER_REDUCERS
from tokfilter.benchmarks.study.methods import (
    ABLATIONS,
    BEFORE,
    FILTER,
    LONG_SPECIALISTS,
    LONGER,
    MAIN,
    REDUCERS,
    SPECIALISTS,
)  # fmt: skip
from tokfilter.benchmarks.study.seed_run import Rows, SeedRun, has_rows, rows_from_method
from tokfilter.benchmarks.study.study_document import document_from_rows, study_command
from tokfilter.benchmarks.study.task_data import write_data
from tokfilter.benchmarks.study.tasks import DIGITS, StudyConfig, Task
from tokfilter.errors import DataError
from tokfilter.runtime.measure.record import write_json
from tokfilter.train.data import Progress

__all__ = ["BUDGETS", "REDUCERS", "STUDY", "WITH_LONGER", "demo_study", "run"]

BUDGETS: Final = DIGITS.budgets
STUDY: Final = (*MAIN, SPECIALISTS, *ABLATIONS)
WITH_LONGER: Final = (*STUDY, *LONGER, LONG_SPECIALISTS)
_DEMO: Final = (BEFORE, FILTER, *TOKEN_BASELINES)
_TIMED: Final = (FILTER, *OTHER_REDUCERS)
"""Methods that are timed. Other choices of tokens run at the filter's rate, less its scores."""


def demo_study(folder: Path, seed: int, progress: Progress, config: StudyConfig | None = None) -> dict[str, Any]:
    """One seed of digits-in-scenes, from data to accuracy.

    Writes ``folder/data``, ``folder/model.pt`` and ``folder/accuracy.json``; returns the document. Stages that an
    interrupted call finished are not repeated.
    """
    config = config or DIGITS.config
    seed_run = SeedRun(DIGITS, config, seed, folder / "data", folder, progress)
    rows = [row for method in _DEMO for row in rows_from_method(seed_run, method)]
    command = f"tokfilter demo --seed {seed}"
    document = document_from_rows(DIGITS, config, {seed: rows}, folder / "model.pt", command)
    write_json(folder / "accuracy.json", document)
    return document


def run(
    folder: Path,
    tasks: Sequence[Task],
    seeds: Sequence[int],
    jobs: int = 1,
    methods: Sequence[str] = WITH_LONGER,
    ablation_seeds: Sequence[int] | None = None,
    speed: SpeedConfig | None = None,
    train: bool = True,
    log: Callable[[str], None] = lambda line: None,
) -> dict[str, dict[str, Any]]:
    """The study with several seeds; each seed has its own backbone, labels, filter and baselines.

    jobs: seeds that run at the same time, one core each
    ablation_seeds: seeds that run the methods that are not in MAIN and LONGER; None is all
    speed: how images per second are measured, after everything else; None leaves them out
    train: False takes the rows that are there, and raises DataError where one is missing
    Writes ``folder/<data>.json`` for each task and returns the documents by task name. Raises DataError.
    """
    seed_jobs = [_SeedJob.of(folder, task, seed) for task in tasks for seed in seeds]
    with _on_one_core():
        for job in seed_jobs:
            write_data(job.task, job.task.config, job.seed, job.data, _silent)
    main = [method for method in methods if method in (*MAIN, *LONGER)]
    chosen: list[Sequence[str]] = [
        _methods_of(job.task, methods if ablation_seeds is None or job.seed in ablation_seeds else main)
        for job in seed_jobs
    ]
    if not train:
        _check_rows(seed_jobs, chosen)
    found = _run_jobs(seed_jobs, chosen, jobs, log)
    documents = {}
    for task in tasks:
        rows = {job.seed: rows for job, rows in zip(seed_jobs, found, strict=True) if job.task is task}
        command = study_command(task, seeds, ablation_seeds, methods)
        model = folder / task.name / f"seed-{seeds[0]}" / "model.pt"
        document = document_from_rows(task, task.config, rows, model, command)
        if speed is not None:
            document = with_rates(
                document, _rates(folder / f"{task.name}-speed.json", model, task, speed, command, log)
            )
        documents[task.name] = document
        write_json(folder / f"{task.name}.json", document)
    return documents


def _methods_of(task: Task, methods: Sequence[str]) -> Sequence[str]:
    return [method for method in methods if task.methods is None or method in task.methods]


def _rates(
    path: Path, model: Path, task: Task, speed: SpeedConfig, command: str, log: Callable[[str], None]
) -> dict[str, Any]:
    """baseline_speed.json at ``path``, measured where it is not there."""
    if not path.is_file():
        write_json(path, speed_from_bundle(model, task.budgets, speed, command, _TIMED, log=log))
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


@dataclass(frozen=True)
class _SeedJob:
    """One seed of a task, for a child process."""

    task: Task
    seed: int
    data: Path
    folder: Path

    @classmethod
    def of(cls, folder: Path, task: Task, seed: int) -> "_SeedJob":
        data = folder / task.name / (f"seed-{seed}/data" if task.seeded else "data")
        return cls(task, seed, data, folder / task.name / f"seed-{seed}")


def _run_jobs(
    seed_jobs: Sequence[_SeedJob], methods: Sequence[Sequence[str]], jobs: int, log: Callable[[str], None]
) -> list[Rows]:
    """The rows of every job, ``jobs`` of them at the same time; rows that are there need no process."""
    if all(has_rows(job.folder, name) for job, names in zip(seed_jobs, methods, strict=True) for name in names):
        return [_rows_of_job(job, names) for job, names in zip(seed_jobs, methods, strict=True)]
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _one_core) as pool:
        pending = [pool.submit(_rows_of_job, job, names) for job, names in zip(seed_jobs, methods, strict=True)]
        for done in as_completed(pending):
            job = seed_jobs[pending.index(done)]
            log(f"{job.task.name}: seed {job.seed}, {len(done.result())} rows")
    return [future.result() for future in pending]


def _check_rows(seed_jobs: Sequence[_SeedJob], methods: Sequence[Sequence[str]]) -> None:
    """Raise DataError for the first method that has no rows yet."""
    for job, names in zip(seed_jobs, methods, strict=True):
        for name in names:
            if not has_rows(job.folder, name):
                raise DataError(
                    f"{job.folder} has no rows of {name!r} yet: run the study without --speed-only first, or give "
                    "the --seeds and --data that are complete."
                )


@contextmanager
def _on_one_core() -> Iterator[None]:
    """As in the processes of the seeds, so that start weights have the same sums."""
    threads = torch.get_num_threads()
    _one_core()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _one_core() -> None:
    torch.set_num_threads(1)


def _rows_of_job(job: _SeedJob, methods: Sequence[str]) -> Rows:
    seed_run = SeedRun(job.task, job.task.config, job.seed, job.data, job.folder, _silent)
    return [row for method in methods for row in rows_from_method(seed_run, method)]


def _silent(stage: str, fraction: float) -> None:
    """No progress bar: several processes would write over each other."""
