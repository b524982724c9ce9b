import os
import signal
import socket
import subprocess
import sys
import textwrap
from contextlib import nullcontext
from pathlib import Path

import pytest

from tokfilter.artifacts.files import (
    atomic_path,
    check_target,
    existing_file,
    inside,
    new_folder,
    sha256,
    sweep_parts,
    sync_folder,
)
from tokfilter.errors import DataError, ExportError


def test_the_new_file_takes_the_place_of_the_old(tmp_path):
    path = tmp_path / "deep" / "file"
    for text in ("one", "two"):
        with atomic_path(path) as part:
            part.write_text(text)
        assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("links", [True, False], ids=["with links", "without links"])
@pytest.mark.parametrize("kind", [None, "file", "link"])
def test_a_new_file_replaces_none_that_came_meanwhile(tmp_path, monkeypatch, links, kind):
    def refused(*_):
        raise PermissionError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr(Path, "hardlink_to", refused)
    path, written = tmp_path / "e.tar", nullcontext() if kind is None else pytest.raises(FileExistsError)
    with written, atomic_path(path, new=True) as part:
        part.write_text("ours")
        if kind == "file":
            path.write_text("theirs")
        elif kind == "link":
            path.symlink_to(tmp_path / "nowhere")
    assert [item.name for item in tmp_path.iterdir()] == ["e.tar"]
    assert path.is_symlink() if kind == "link" else path.read_text() == ("ours" if kind is None else "theirs")


def test_an_error_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_path(path) as part:
        part.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_kill_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    program = textwrap.dedent(
        f"""
        import time
        from pathlib import Path
        from tokfilter.artifacts.files import atomic_path
        with atomic_path(Path({str(path)!r})) as part:
            part.write_text("half")
            print("writing", flush=True)
            time.sleep(60)
        """
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=10)
    assert path.read_text() == "old"


@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "socket"])
def test_no_file_takes_the_place_of_a_device(tmp_path, kind):
    """As root, a file that is renamed to /dev/null would be there for every program."""
    path = tmp_path / "target"
    if kind == "socket":
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(str(path))
    else:
        os.mkfifo(path if kind == "pipe" else tmp_path / "pipe")
    if kind == "link to a pipe":
        path.symlink_to(tmp_path / "pipe")
    before = sorted((one.name, one.lstat().st_ino) for one in tmp_path.iterdir())
    refused = "is a device, pipe or socket: expected the name of a file"
    with pytest.raises(DataError, match=refused), atomic_path(path) as part:
        part.write_text("x")
    with pytest.raises(DataError, match=refused):
        check_target(path)
    assert sorted((one.name, one.lstat().st_ino) for one in tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["/dev/null", "/dev/stdout", "/dev/nothing-yet", "/proc/self/x", "/dev/fd/1"])
def test_names_of_the_system_are_no_targets(name):
    with pytest.raises(DataError, match="is a device, pipe or socket"):
        check_target(Path(name))
    check_target(Path("/dev/shm/of-a-test"))  # memory as a file system


def test_permissions_follow_the_umask(tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("")
    with atomic_path(tmp_path / "ours") as part:
        part.write_text("")
    assert (tmp_path / "ours").stat().st_mode == plain.stat().st_mode


def test_a_folder_appears_whole(tmp_path):
    path = tmp_path / "deep" / "folder"
    with new_folder(path) as part:
        (part / "inner").mkdir()
        (part / "inner" / "file").write_text("x")
        assert not path.exists() and part.parent == path.parent
    assert (path / "inner" / "file").read_text() == "x"
    (tmp_path / "plain").mkdir()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_no_folder(tmp_path):
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "folder") as part:
        (part / "file").write_text("half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "folder", "empty folder", "dangling link"])
def test_what_stands_there_already_is_not_touched(tmp_path, kind):
    path = tmp_path / "taken"
    if kind == "dangling link":
        path.symlink_to(tmp_path / "nowhere")
    elif kind == "file":
        path.write_text("mine")
    else:
        path.mkdir()
    if kind == "folder":
        (path / "file").write_text("mine")
    before = sorted(tmp_path.iterdir()), path.lstat().st_ino
    refused = pytest.raises(ExportError, match="taken exists already and is not overwritten: choose another folder")
    with refused, new_folder(path):
        raise AssertionError("the block must not run")
    assert (sorted(tmp_path.iterdir()), path.lstat().st_ino) == before


def test_a_folder_that_came_meanwhile_is_kept(tmp_path):
    path = tmp_path / "folder"
    with pytest.raises(ExportError, match="folder exists already"), new_folder(path) as part:
        (part / "file").write_text("ours")
        path.mkdir()
        (path / "file").write_text("theirs")
    assert (path / "file").read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [path]


def test_links_are_not_followed_when_a_folder_is_synced(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("/nowhere/at/all")
    sync_folder(tmp_path)
    with pytest.raises(OSError, match="none"):
        sync_folder(tmp_path / "none")


def test_existing_file(tmp_path):
    (tmp_path / "file").write_text("x")
    assert existing_file(str(tmp_path / "file"), "a test") == tmp_path / "file"
    with pytest.raises(DataError, match="a test: expected a file, got the folder"):
        existing_file(tmp_path, "a test")
    with pytest.raises(DataError, match="a test: expected a file, but there is none"):
        existing_file(tmp_path / "none", "a test")


def test_a_file_that_was_never_written_is_refused(tmp_path):
    """Holes at the end, at the start, between and everywhere; as many as a copy by `cp --sparse` may have pass."""
    path = tmp_path / "file"
    for blocks, size in (
        ((), 1 << 40),
        ((0,), 1 << 31),
        ((1 << 30,), (1 << 30) + 1),
        (range(0, 1 << 29, 1 << 23), 1 << 29),
    ):
        path.unlink(missing_ok=True)
        with path.open("wb") as file:
            for at in blocks:
                file.seek(at)
                file.write(b"x")
            file.truncate(size)
        with pytest.raises(DataError, match=f"file is a sparse file: .* of its {size} bytes .* Fetch or copy it again"):
            existing_file(path, "a test")
    with path.open("wb") as file:
        file.write(b"x" * 4096)
        file.truncate((128 << 20) + 4096)
    assert existing_file(path, "a test") == path


def test_sha256_is_the_known_one(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def dead_pid():
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait(timeout=60)
    return process.pid


def test_what_killed_runs_left_is_swept_and_nothing_else(tmp_path):
    path, dead = tmp_path / "repo", dead_pid()
    swept = [tmp_path / f".repo.{dead}.abcdefgh.part", tmp_path / f".repo.{dead}.a1_defgh.part"]
    swept[0].mkdir()
    (swept[0] / "model.onnx").write_text("half")
    swept[1].write_text("half")
    kept = [
        tmp_path / f".repo.{os.getppid()}.abcdefgh.part",
        tmp_path / f".repo2.{dead}.abcdefgh.part",
        tmp_path / f"repo.{dead}.abcdefgh.part",
        tmp_path / f".repo.{dead}.abcdefgh.part.txt",
        tmp_path / ".repo.abcdefgh.part",
    ]
    for file in kept:
        file.write_text("mine")
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("mine")
    link = tmp_path / f".repo.{dead}.linklink.part"
    link.symlink_to(victim)
    sweep_parts(path)
    assert not any(file.exists() for file in swept) and not link.is_symlink()
    assert all(file.read_text() == "mine" for file in [*kept, victim / "file"])
    sweep_parts(tmp_path / "nowhere" / "repo")


@pytest.mark.parametrize("same_number", [True, False], ids=["in a container", "another number"])
@pytest.mark.parametrize("writer", [atomic_path, new_folder])
def test_what_is_being_written_stays_whatever_number_its_process_has(tmp_path, writer, same_number, monkeypatch):
    """In a container a killed run had the number that this one has; other containers' numbers are no processes here."""
    old = tmp_path / f".out.{os.getpid()}.abcdefgh.part"
    old.write_text("half")
    number = os.getpid() if same_number else dead_pid()
    monkeypatch.setattr(os, "getpid", lambda: number)
    with writer(tmp_path / "out") as part:
        monkeypatch.undo()
        sweep_parts(tmp_path / "out")
        assert part.exists() and not old.exists()
        (part / "file" if part.is_dir() else part).write_text("whole")
    assert [item.name for item in tmp_path.iterdir()] == ["out"]


def test_a_killed_folder_is_swept_by_the_next(tmp_path):
    program = textwrap.dedent(
        f"""
        import os, signal
        from pathlib import Path
        from tokfilter.artifacts.files import new_folder
        with new_folder(Path({str(tmp_path / "repo")!r})) as part:
            (part / "half").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    subprocess.run([sys.executable, "-c", program], check=False)
    assert len(list(tmp_path.iterdir())) == 1
    with new_folder(tmp_path / "repo") as part:
        (part / "file").write_text("whole")
    assert [item.name for item in tmp_path.iterdir()] == ["repo"]


@pytest.mark.parametrize(
    "name", ["..", ".", "", "a/b", "/etc/passwd", "a\\b", "a\n", "\x1b[31m", "\u202egnp", "\ud800", "x" * 256]
)
def test_no_name_leaves_its_folder(tmp_path, name):
    with pytest.raises(DataError, match="the name of a file inside"):
        inside(tmp_path, name)


@pytest.mark.parametrize("name", ["model.onnx", "é b.onnx", "$(reboot)", "-rf", "...", "x" * 255])
def test_names_of_files(tmp_path, name):
    assert inside(tmp_path, name) == tmp_path / name
