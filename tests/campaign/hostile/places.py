"""What stands in place of a file: links, pipes, folders, holes."""

import os
import shutil
import socket
from pathlib import Path
from random import Random

KINDS = (
    "fifo",
    "folder",
    "loop",
    "dangling",
    "zero",
    "random",
    "null",
    "hole",
    "socket",
    "link",
    "missing",
    "chain",
    "tty",
    "memory",
)


def replaced(path: Path, rng: Random) -> str:
    """Put something else in the place of a file or folder. Returns what."""
    kind = rng.choice(KINDS)
    kept = path.with_name(f"kept-{path.name}")
    path.rename(kept)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "dangling":
        path.symlink_to("nowhere")
    elif kind in ("zero", "random", "null", "tty"):
        path.symlink_to({"zero": "/dev/zero", "random": "/dev/urandom", "null": "/dev/null", "tty": "/dev/tty"}[kind])
    elif kind == "hole":
        start = kept.read_bytes()[: rng.choice((0, 4, 64, 4096))] if kept.is_file() else b""
        with path.open("wb") as file:
            file.write(start)
            file.truncate(rng.choice((1 << 31, 1 << 36, 1 << 40)))
    elif kind == "socket":
        _socket(path)
    elif kind == "link":
        path.symlink_to(kept.name)
    elif kind == "chain":
        path.symlink_to(f"{path.name}.0")
        for i in range(60):
            path.with_name(f"{path.name}.{i}").symlink_to(f"{path.name}.{i + 1}")
    elif kind == "memory":
        path.symlink_to("/proc/self/mem")
    return kind


def _socket(path):
    """Bound by a short relative name: a path of a socket has at most 107 bytes."""
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir(path.parent)
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name[:90])
        if len(path.name) > 90:
            shutil.move(path.name[:90], path.name)
    finally:
        os.fchdir(here)
        os.close(here)


def odd_names(folder: Path, rng: Random) -> str:
    """Rename a file or folder in a data set to a name that a terminal, a page or UTF-8 does not take."""
    names = (
        b"\xff\xfe",
        b"a\x1b[31mb",
        b"[bold]x[red]",
        b"a\nb",
        b"\xe2\x80\xaegnp",
        b"-rf",
        b"--help",
        b" ",
        b"~",
        b"x" * 250,
        b"$(touch x)",
        b"<img src=x>",
        b"'\"",
        b"%s",
        b".hidden",
        b"con",
        b"a,b",
        b"a=b",
        b"\xc3\xa9",
        b"e\xcc\x81",
    )
    found = sorted(path for path in folder.rglob("*") if path.is_dir() or path.suffix == ".png")
    path, name = rng.choice(found), rng.choice(names)
    path.rename(path.parent / os.fsdecode(name[:240] + os.fsencode(path.suffix)))
    return f"{path.name} named {name!r}"
