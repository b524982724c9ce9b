"""Locks: one writer at a time, released when a process ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tokfilter.artifacts import locks
from tokfilter.artifacts.locks import held, is_held, only_writer
from tokfilter.errors import DataError, ExportError

HOLDER = """
import sys
from pathlib import Path
from tokfilter.artifacts.locks import held
with held(Path(sys.argv[1])) as free:
    print(free, flush=True)
    sys.stdin.read()
"""

FORKING = """
import os, sys, time
from pathlib import Path
from tokfilter.artifacts.locks import held
with held(Path(sys.argv[1])):
    child = os.fork()
    if child == 0:
        print(os.getpid(), flush=True)
    time.sleep(60)
"""

LEAVING = """
import os, sys
from pathlib import Path
from tokfilter.artifacts.locks import held
with held(Path(sys.argv[1])):
    child = os.fork()
    if child == 0:
        mine = os.open(os.devnull, os.O_RDONLY)  # gets the number of the lock's file, which is closed here
    else:
        print(os.waitpid(child, 0)[1], flush=True)
        sys.stdin.read()
if child == 0:
    os.fstat(mine)
"""

WRITER = """
import sys
from pathlib import Path
from tokfilter.artifacts.locks import only_writer
from tokfilter.errors import DataError
with only_writer(Path(sys.argv[1]), "wait.", DataError, wait_s=60):
    print("writes", flush=True)
    sys.stdin.read()
"""

RACE = """
import os, sys
from pathlib import Path
from tokfilter.artifacts.locks import only_writer
from tokfilter.errors import DataError
folder, mark = Path(sys.argv[1]), Path(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for _ in range(1000):
    try:
        with only_writer(folder, "wait.", DataError):
            mark.touch(exist_ok=False)  # raises where two write at once
            mark.unlink()
    except DataError:
        pass
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_lock_is_held_until_its_process_is_killed(tmp_path, kind):
    path = tmp_path / "it"
    path.mkdir() if kind == "folder" else path.write_text("x")
    assert not is_held(path)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], text=True, **pipes) as process:
        assert process.stdout.readline() == "True\n"
        assert is_held(path)
        with held(path) as free:
            assert not free
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=10)
    assert not is_held(path)


def test_a_killed_process_leaves_no_lock_to_its_forked_children(tmp_path):
    command = [sys.executable, "-c", FORKING, str(tmp_path)]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE) as process:
        child = int(process.stdout.readline())
        try:
            assert is_held(tmp_path)  # the child has closed its file, and its parent still holds the lock
            process.kill()
            process.wait(timeout=10)
            assert not is_held(tmp_path)
        finally:
            os.kill(child, signal.SIGKILL)  # it was alive


def test_a_forked_child_that_leaves_the_block_neither_releases_the_lock_nor_closes_another_file(tmp_path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", LEAVING, str(tmp_path)], text=True, **pipes) as process:
        assert process.stdout.readline() == "0\n"
        assert is_held(tmp_path)


def test_a_folder_that_is_removed_while_another_waits_for_it_still_has_one_writer(tmp_path):
    folder = tmp_path / "run"
    command, pipes = [sys.executable, "-c", WRITER, str(folder)], {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with only_writer(folder, "wait.", DataError):
        process = subprocess.Popen(command, text=True, **pipes)
        while process.poll() is None and not _opens(process.pid, folder):
            time.sleep(0.01)
    with process:
        assert process.stdout.readline() == "writes\n"
        with pytest.raises(DataError, match="another process writes"), only_writer(folder, "wait.", DataError):
            raise AssertionError("two writers")
    assert list(tmp_path.iterdir()) == []


def test_processes_that_make_and_remove_the_same_folder_are_one_writer_at_a_time(tmp_path):
    """They meet at other moments in each run; whatever these are, each writes alone or is refused."""
    command = [sys.executable, "-c", RACE, str(tmp_path / "a" / "run"), str(tmp_path / "mark")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = [subprocess.Popen(command, text=True, **pipes) for _ in range(3)]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 3
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], errors


@pytest.mark.parametrize("kind", ["file", "dangling link"])
def test_what_is_no_folder_is_not_tried_for_ever(tmp_path, kind):
    (tmp_path / "run").symlink_to("nowhere") if kind == "dangling link" else (tmp_path / "run").touch()
    with pytest.raises(FileExistsError), only_writer(tmp_path / "run", "wait.", DataError):
        raise AssertionError("the block must not run")


def test_a_lock_is_one_writers_in_one_process_too(tmp_path):
    with only_writer(tmp_path / "a" / "run", "wait.", DataError):
        assert is_held(tmp_path / "a" / "run")
        refused = pytest.raises(ExportError, match="another process writes in .*run: choose another folder")
        with refused, only_writer(tmp_path / "a" / "run", "choose another folder.", ExportError):
            raise AssertionError("the block must not run")
        assert is_held(tmp_path / "a" / "run")
        (tmp_path / "a" / "run" / "file").write_text("x")
    assert not is_held(tmp_path / "a" / "run") and (tmp_path / "a" / "run" / "file").is_file()


def test_a_folder_that_stays_empty_is_removed(tmp_path):
    with pytest.raises(ZeroDivisionError), only_writer(tmp_path / "run", "wait.", DataError):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_an_error_releases_the_lock(tmp_path):
    with pytest.raises(ZeroDivisionError), held(tmp_path):
        raise ZeroDivisionError
    assert not is_held(tmp_path)


def test_links_pipes_and_missing_names_are_not_held(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # the open must not wait for a writer
    (tmp_path / "target").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with held(tmp_path / "target"):
        assert not any(is_held(tmp_path / name) for name in ("pipe", "link", "none"))


def test_without_locks_in_a_file_system_nothing_is_held(tmp_path, monkeypatch):
    import fcntl

    def refused(*_):
        raise OSError(9, "Bad file descriptor")  # NFS, for a folder

    monkeypatch.setattr(fcntl, "flock", refused)
    with locks.held(tmp_path) as free:
        assert free and not is_held(tmp_path)


def _opens(pid: int, path: Path) -> bool:
    """Whether the process has opened this path (Linux, proc(5))."""
    try:
        return any(link.readlink() == path for link in Path(f"/proc/{pid}/fd").iterdir())
    except FileNotFoundError:  # closed meanwhile
        return False
