"""A bound on the memory of a process while it runs graphs of others on the CPU.

A graph of a few bytes can ask for any tensor at run time (ConstantOfShape, Expand, Tile), and no engine bounds that.
The kernel does: setrlimit(2) RLIMIT_DATA counts private memory that can be written to, on Linux. What asks for more
gets an error, and the machine stays usable.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tokfilter.artifacts.limits import MAX_FILE, MAX_IMAGE_MEMORY, MAX_RUN_MEMORY
from tokfilter.errors import EngineError, TokfilterError

__all__ = ["bounded_memory"]

_COPIES: Final = 8
"""Of a model file in memory: as read, parsed, rewritten by the optimizer and compiled, for each of two models."""

_WEIGHTS: Final = (".data", ".bin", ".weights")
"""Ends of names that exporters give to the external weights of a graph."""

_PER_CORE: Final = 64 << 20
"""Stacks and buffers of the threads of an engine."""

_REFUSED: Final = ("bad_alloc", "bad allocation", "failed to allocate", "allocaterawinternal", "cannot allocate memory")
"""What engines and workers say where the kernel gave them no memory, in lower case."""


@contextmanager
def bounded_memory(source: Path, images: int = 1, more: int = 0) -> Iterator[None]:
    """Bound the memory of this process, and of those that it starts, while the block runs.

    source: the export directory or graph whose model runs
    images: of the largest batch
    more: bytes that the process may take besides
    Raises EngineError where the block asked for more. Without effect on other systems than Linux.
    """
    cores = os.cpu_count() or 1
    bound = MAX_RUN_MEMORY + _COPIES * _bytes(source) + images * MAX_IMAGE_MEMORY + cores * _PER_CORE + more
    try:
        with _limited(bound):
            yield
    except (MemoryError, RuntimeError, TokfilterError) as error:
        if not isinstance(error, MemoryError) and not any(word in str(error).lower() for word in _REFUSED):
            raise
        raise EngineError(
            f"running {source} takes more than {bound / 2**30:.1f} GiB of memory, which is what its files and "
            f"{images} image{'s' * (images > 1)} at once let expect: it is no Vision Transformer, or damaged. Export "
            "it again."
        ) from error


def _bytes(source: Path) -> int:
    """Of a directory's files; of a graph and the files beside it that hold weights, by their names."""
    files: Iterable[Path]
    if source.is_dir():
        files = source.iterdir()
    else:
        beside = source.parent.iterdir() if source.parent.is_dir() else ()
        files = [path for path in beside if path.name.startswith(source.stem) or path.suffix in _WEIGHTS]
    return sum(min(path.stat().st_size, MAX_FILE) for path in files if path.is_file())


@contextmanager
def _limited(bound: int) -> Iterator[None]:
    """The soft limit is what is taken now and ``bound``, where none below that is set."""
    taken = _taken()
    if taken is None or sys.platform != "linux":
        yield
        return
    import resource

    before = soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = min(value for value in (taken + bound, soft, hard) if value != resource.RLIM_INFINITY)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _taken() -> int | None:
    """Bytes of this process that the limit counts; None where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmData:")), None)
