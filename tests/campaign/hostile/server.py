"""Runs commands in forks of one process that has imported everything: an input costs its reading, not the imports.

The parent imports, starts no thread and forks; each child is limited (RLIMIT_AS, RLIMIT_FSIZE, RLIMIT_CPU, no core),
has its own folder for HOME, TMPDIR and caches, and runs ``tokfilter.cli`` as the installed command does. Baseline of
memory and processor time: a child that runs nothing.
"""

import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MODULES = [
    "timm",
    "torch",
    "onnx",
    "onnx_ir",
    "onnxscript",
    "PIL.Image",
    "safetensors.torch",
    "matplotlib.figure",
    "jinja2",
    "jsonschema",
    "scipy.stats",
    "rich.table",
    "tritonclient.grpc.model_config_pb2",
    "tokfilter.benchmarks.report.render",
    "tokfilter.benchmarks.report.gallery",
]
"""ONNX Runtime and OpenVINO are not among them: their imports start threads, which a fork would not have."""
ROOMS = ("artifacts", "vit", "trt", "train", "export", "runtime", "commands")
"""Every module of these is imported too, so that a run is of one state of the code."""
CPU_S = 10.0
"""Processor time beyond the baseline above which a command hangs."""
WALL_S = 60.0
"""Wall time after which a command is killed that waits for something (``Patience``)."""
ADDRESS_SPACE = 6 << 30
FILE_BYTES = 4 << 30


@dataclass(frozen=True)
class Done:
    """How a command ended.

    code: exit code, negative for a signal
    cpu_s, wall_s, peak: seconds, seconds, bytes of the child, with the baseline
    timed_out: whether it was killed because it took its wall time and did nothing, or ten times that
    """

    code: int
    cpu_s: float
    wall_s: float
    peak: int
    timed_out: bool


class Server:
    """The process that forks. ``action`` names a function of ``hostile.actions`` that the child calls with ``argv``."""

    def __init__(self, modules=MODULES):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1"}
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__)), *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._answer()
        self.baseline = self.run("nothing", [], Path("/"), Path("/"), os.devnull)

    def run(self, action, argv, home, cwd, log, wall_s=WALL_S, kill_after=None):
        """Run an action in a child. kill_after: seconds until it gets SIGKILL."""
        asked = {"action": action, "argv": [*map(str, argv)], "home": str(home), "cwd": str(cwd), "log": str(log)}
        print(json.dumps({**asked, "wall_s": wall_s, "kill_after": kill_after}), file=self._process.stdin, flush=True)
        return Done(**self._answer())

    def _answer(self):
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the forking process has ended: see its error above")
        return json.loads(line)

    def close(self):
        with self._process:  # closes its pipes, and waits
            pass


def _serve(modules):
    for module in modules:
        importlib.import_module(module)
    if modules:
        _import_rooms()
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import hostile.actions  # noqa: F401

    tasks = len(list(Path("/proc/self/task").iterdir()))
    if tasks > 1:
        raise SystemExit(f"an import has started {tasks - 1} threads: a fork would not have them")
    answers = os.fdopen(os.dup(1), "w")
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(_forked(json.loads(line))), file=answers, flush=True)


def _import_rooms():
    import tokfilter

    root = Path(tokfilter.__file__).parent
    for path in sorted(path for room in ROOMS for path in (root / room).rglob("*.py")):
        name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        try:
            importlib.import_module(f"tokfilter.{name}")
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("tokfilter"):
                raise


class Patience:
    """When a command is killed: after ``kill_after``, or where it takes ``wall_s`` and does nothing.

    On a machine that others use, or that was stopped, a command that computes may take longer: after ``wall_s`` it goes
    on while its processes get 2 % of a core, up to ten times ``wall_s``. RLIMIT_CPU ends one that computes without end.
    """

    def __init__(self, begin, wall_s, kill_after, cpu_seconds):
        self.wall_s, self.exact, self.cpu_seconds = wall_s, kill_after is not None, cpu_seconds
        self.deadline = begin + (kill_after if self.exact else wall_s)
        self.last_look, self.last_cpu, self.latest = begin, None, begin + 10 * wall_s

    def is_over(self, now):
        """Whether to kill it now."""
        if now <= self.deadline:
            return False
        if self.exact or now > self.latest:
            return True
        cpu, elapsed = self.cpu_seconds(), now - self.last_look
        if self.last_cpu is not None and cpu - self.last_cpu < 0.02 * elapsed:
            return True
        self.last_look, self.last_cpu, self.deadline = now, cpu, now + self.wall_s / 3
        return False


def _cpu_seconds(session):
    """Processor time of all processes of a session, and of those that they have waited for."""
    total = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                total += sum(map(int, fields[11:15]))
    return total / os.sysconf("SC_CLK_TCK")


def _forked(asked):
    begin = time.monotonic()
    pid = os.fork()
    if not pid:
        _child(asked)
    patience = Patience(begin, asked["wall_s"], asked["kill_after"], lambda: _cpu_seconds(pid))
    killed = False
    while True:
        found, status, used = os.wait4(pid, os.WNOHANG)
        if found:
            break
        if not killed and patience.is_over(time.monotonic()):
            killed = True
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)  # what it has started
    code = os.waitstatus_to_exitcode(status)
    wall, cpu = time.monotonic() - begin, used.ru_utime + used.ru_stime
    timed_out = killed and asked["kill_after"] is None
    return {"code": code, "cpu_s": cpu, "wall_s": wall, "peak": used.ru_maxrss * 1024, "timed_out": timed_out}


def _child(asked):
    code = 70
    try:
        os.setsid()
        log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        limit = int(CPU_S + 20)
        for kind, value in (
            (resource.RLIMIT_FSIZE, FILE_BYTES),
            (resource.RLIMIT_CPU, limit),
            (resource.RLIMIT_CORE, 0),
            *([(resource.RLIMIT_AS, ADDRESS_SPACE + _address_space())] * (asked["action"] != "native")),
        ):
            resource.setrlimit(kind, (value, value))  # address sanitizer takes 16 TB of addresses
        home = asked["home"]
        os.environ.update(HOME=home, TMPDIR=f"{home}/tmp", XDG_CACHE_HOME=_cache(asked), COLUMNS="200")
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{home}/cache/inductor"
        os.chdir(asked["cwd"])
        import tempfile

        import hostile.actions

        tempfile.tempdir = None
        code = getattr(hostile.actions, asked["action"])(asked["argv"])
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code or 0)


def _cache(asked):
    """The case's own folder ``cache``, where it has one."""
    own = Path(asked["cwd"]) / "cache"
    return str(own if own.is_dir() else Path(asked["home"]) / "cache")


def _address_space():
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    _serve(sys.argv[1:])
