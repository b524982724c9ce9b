"""Images and start weights of a study's task, which its seeds share; what is there is not made again."""

from dataclasses import asdict
from pathlib import Path

from safetensors.torch import save_file

from tokfilter.artifacts.files import atomic_path
from tokfilter.benchmarks.study.tasks import StudyConfig, Task
from tokfilter.benchmarks.study.work_folder import check_work_folder
from tokfilter.train.data import Progress

__all__ = ["start_weights", "write_data"]


def write_data(task: Task, config: StudyConfig, seed: int, data: Path, progress: Progress) -> None:
    """Write a task's images, and its start weights beside them, unless they are there. Raises DataError."""
    path = start_weights(data)
    if task.start is not None:  # images and weights are of all seeds
        check_work_folder(path.parent, [task.name, asdict(config)])
    if not (data / "complete").is_file():
        task.write(data, seed, config, progress, task.wheels)
        (data / "complete").touch()
    if task.start is not None and not path.is_file():
        weights = task.start(path.parent, config, progress, task.wheels)
        with atomic_path(path) as part:
            save_file({name: value.contiguous() for name, value in weights.items()}, part)


def start_weights(data: Path) -> Path:
    """The same for every seed."""
    return data.parent / "start" / "weights.safetensors"
