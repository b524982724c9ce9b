"""What a child of the forking process does."""

import os
import sys
from pathlib import Path

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
STARTED = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "pty.spawn", "os.startfile")
MOVES = tuple(f"os.{name}" for name in ["rename", "link", "symlink", "mkdir", "remove", "rmdir", "truncate"])
TOOLS = ("ssh-keygen",)
"""What commands start on purpose; tune also starts its worker."""
WORKER = "tokfilter.runtime.comparison.worker"
MARK = "campaign-audit: "
NATIVE = "CAMPAIGN_NATIVE"
"""Environment variable: the folder with the programs of the C++ library's tests."""


def nothing(argv):
    return 0


def command(argv):
    """The command line; programs that it starts and paths that it changes outside the watched folder are reported."""
    from tokfilter.cli import cli

    watch(Path(os.environ["HOME"]).parent)
    sys.argv = ["tokfilter", *argv]
    cli.main(args=argv, prog_name="tokfilter")
    return 0


def native(argv):
    """A program of the C++ library's tests, which are built with sanitizers; what they find ends it by a signal."""
    os.environ.update(
        ASAN_OPTIONS="abort_on_error=1:detect_leaks=0:hard_rss_limit_mb=3000:allocator_may_return_null=1",
        UBSAN_OPTIONS="abort_on_error=1:print_stacktrace=1",
    )
    os.dup2(os.open("made/output", os.O_WRONLY | os.O_CREAT, 0o600), 1)  # pixels, or a sentence
    os.execv(Path(os.environ[NATIVE]) / argv[0], argv)


def watch(folder):
    """Report audit events (PEP 578) on standard error."""
    inside = os.path.realpath(folder)

    def hook(event, args):
        if event in STARTED:
            program = Path(os.fsdecode(args[0])).name if args and isinstance(args[0], (str, bytes)) else "?"
            if program not in TOOLS and WORKER not in (args[1] if len(args) > 1 and args[1] else ()):
                _say(f"started {event} {args[:2]!r:.300}")
        elif event == "open" and isinstance(args[0], (str, bytes)) and isinstance(args[2], int) and args[2] & WRITES:
            _check(event, args[0], inside)
        elif event in MOVES:
            for path in args[: 2 if event in ("os.rename", "os.link") else 1]:
                _check(event, args[1] if event == "os.symlink" else path, inside)

    sys.addaudithook(hook)


def _check(event, path, inside):
    if not isinstance(path, (str, bytes, os.PathLike)):
        return
    text = os.fsdecode(path)
    real = os.path.realpath(Path(text).parent) + "/" + Path(text).name
    if not real.startswith((inside, "/dev/null", "/proc/self/fd/", f"/proc/{os.getpid()}/")):
        _say(f"wrote {event} {text!r:.300}")


def _say(text):
    os.write(2, f"\n{MARK}{text}\n".encode("utf-8", "backslashreplace"))


def planted(argv):
    """Faults of every kind, for the tests of the verdicts."""
    import signal
    import time

    kind = argv[0]
    watch(Path(os.environ["HOME"]).parent)
    if kind == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if kind == "spin":
        while True:
            pass
    if kind == "wait":
        time.sleep(1000)
    if kind == "memory":
        sys.stdout.write(str(len(bytearray(1200 << 20))))
    if kind == "traceback":
        raise KeyError("planted")
    if kind == "outside":
        Path(argv[1]).write_text("planted")
    if kind == "execute":
        os.system("true")
    if kind == "escape":
        sys.stdout.write("\x1b[31mred")
    if kind == "refuse":
        sys.stderr.write("Error: expected a file, got none.\n")
        return 1
    if kind == "unexpected":
        sys.stderr.write("Error: unexpected KeyError: 'x'. This is a defect if your input is sound.\n")
        return 1
    return 0
