"""Real TensorRT libraries that run without a GPU: which there are, their installation, a process for each probe.

The lean runtimes have Runtime and plugin registry, no builder. TensorRT 8.6.0 is the whole library, for Python 3.10.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paths import BUILD, ROOT, TESTS

FOLDER = BUILD / "tensorrt"
RECORDED = TESTS / "trt" / "real" / "recorded"
_TOOLS = Path(__file__).parent
_PYTHON = ".".join(map(str, sys.version_info[:2]))
_TIMEOUT = 120  # seconds; a probe takes two


@dataclass(frozen=True)
class Library:
    """One version of TensorRT.

    python: minor version of the interpreter that its module was compiled for; None: this one
    newer: packages for a folder of their own, "newer", which a probe may put first
    stubs: libraries that it links and this project never calls (cuBLAS, cuDNN: 1.2 GB); empty ones stand in
    """

    version: str
    module: str
    packages: tuple[str, ...]
    python: str | None = None
    newer: tuple[str, ...] = ()
    stubs: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return FOLDER / self.version

    @property
    def installed(self) -> bool:
        """Whether it is there for its Python; the modules of the lean runtimes are compiled for one version each."""
        marker = self.folder / "installed"
        return marker.is_file() and marker.read_text() == (self.python or _PYTHON)

    @property
    def record(self) -> Path:
        """What it did when it was recorded."""
        return RECORDED / f"{self.version}.json"

    @property
    def lean(self) -> bool:
        return self.module == "tensorrt_lean_bindings"

    @property
    def probes(self) -> str:
        return "rtx_probes" if self.module == "tensorrt_rtx" else "tensorrt_probes"


def _lean(version: str) -> Library:
    packages = tuple(f"tensorrt-lean-cu13-{part}=={version}" for part in ("libs", "bindings"))
    return Library(version, "tensorrt_lean_bindings", packages)


_CUBLAS_CUDNN = ("libcublas.so.12", "libcublasLt.so.12", "libcudnn.so.8")
_LEAN = ("10.15.1.29", "10.16.1.11", "11.0.0.114", "11.1.0.106", "11.2.1.2", "11.3.0.99", "11.4.0.106")
LIBRARIES = (
    Library(
        "8.6.0",
        "tensorrt",
        ("tensorrt==8.6.0", "numpy==1.23.5"),
        python="3.10",
        newer=("numpy==1.26.4",),
        stubs=_CUBLAS_CUDNN,
    ),
    *(_lean(version) for version in _LEAN),
)
RTX = Library("rtx", "tensorrt_rtx", ())
"""TensorRT-RTX of the environment, whatever its version."""


def chosen(beginnings: Iterable[str]) -> list[Library]:
    """The libraries whose version begins with one of these; every TensorRT without one. Exits where one is unknown."""
    found = []
    for beginning in beginnings:
        matching = [x for x in (*LIBRARIES, RTX) if f"{x.version}.".startswith(f"{beginning}.")]
        if not matching:
            known = ", ".join(x.version for x in LIBRARIES)
            raise SystemExit(f"no TensorRT version begins with {beginning}; known are {known}.")
        found += matching
    return found or list(LIBRARIES)


def interpreter(library: Library) -> str | None:
    """Path of the Python that imports the library; None where this machine has none of that version."""
    if library.python is None or library.python == _PYTHON:
        return sys.executable
    found = subprocess.run([ROOT / ".ci" / "python", library.python], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def install(library: Library) -> None:
    """Install the wheels; a library that is installed stays. Exits with the reason where pip fails."""
    if not library.packages or library.installed:
        sys.stdout.write(f"TensorRT {library.version}: installed\n")
        return
    _pip(library, library.folder, library.packages)
    if library.newer:
        _pip(library, library.folder / "newer", library.newer)
    if library.stubs:
        _write_stubs(library)
        _make_tree(library)
    (library.folder / "installed").write_text(library.python or _PYTHON)
    sys.stdout.write(f"TensorRT {library.version}: installed into {library.folder.relative_to(ROOT)}\n")


def _make_tree(library: Library) -> None:
    """The layout that TOKFILTER_TENSORRT8 names: lib/, site/ and python/, as links."""
    folder = library.folder
    (folder / "lib").mkdir(exist_ok=True)
    for path in [*(folder / library.module).glob("lib*.so*"), *(folder / "stubs").glob("lib*.so*")]:
        link(folder / "lib" / path.name, path)
    link(folder / "site", folder)
    python = interpreter(library)
    if python is not None:
        link(folder / "python", Path(python).resolve().parents[1])


def link(path: Path, target: Path) -> None:
    """A symbolic link, made anew."""
    path.unlink(missing_ok=True)
    path.symlink_to(target.resolve())


def _pip(library: Library, folder: Path, packages: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:", "--upgrade"]
    if library.python is not None:
        command += ["--python-version", library.python]
    result = subprocess.run([*command, "--target", str(folder), *packages], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        lines = [line for line in result.stderr.splitlines() if line.startswith("ERROR")] or result.stderr.splitlines()
        raise SystemExit(
            f"pip could not install {' '.join(packages)}: {' '.join(lines[-2:])}\n"
            f"Is the package index reachable? Then run it again: make tensorrt VERSIONS={library.version}"
        )


def _write_stubs(library: Library) -> None:
    """Libraries of the given names with the functions that are linked; each returns 1, an error."""
    if shutil.which("cc") is None or shutil.which("nm") is None:
        raise SystemExit(f"TensorRT {library.version} links {', '.join(library.stubs)}: apt install gcc binutils.")
    wanted: dict[str, set[str]] = {name: set() for name in library.stubs}
    for path in sorted((library.folder / library.module).glob("lib*.so*")):
        symbols = subprocess.run(["nm", "-D", "--undefined-only", path], capture_output=True, text=True, check=True)
        for line in symbols.stdout.splitlines():
            name, _, needed = line.split()[-1].partition("@")
            if needed.lstrip("@") in wanted:
                wanted[needed.lstrip("@")].add(name)
    stubs = library.folder / "stubs"
    stubs.mkdir(exist_ok=True)
    script = stubs / "map"
    for name, functions in wanted.items():
        script.write_text(f"{name} {{ global: *; }};\n")
        code = "int stub;\n" + "".join(f"int {function}(void) {{ return 1; }}\n" for function in sorted(functions))
        command = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(stubs / name), f"-Wl,-soname,{name}"]
        subprocess.run([*command, f"-Wl,--version-script={script}"], input=code, text=True, check=True)
    script.unlink()


def run_probe(
    library: Library,
    probe: str,
    /,
    *arguments: object,
    stubs: bool = True,
    search: Path | None = None,
    modules: Path | None = None,
    python: str | None = None,
    **files: Path,
) -> dict[str, Any]:
    """Run one function of ``tensorrt_probes`` or ``rtx_probes`` in a process that imports the library.

    stubs: False leaves out those of cuBLAS and cuDNN
    search: another folder in which libraries are looked for, modules: one of Python packages that come first
    python: another interpreter
    files: paths by the name that stands for them in what is recorded ("plugin")
    Returns its result, or the exception or signal that ended it; TensorRT's log; the lines of standard error.
    """
    python = python or interpreter(library)
    assert python is not None, library
    given = json.dumps({"arguments": arguments, **{name: str(path) for name, path in files.items()}})
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "LD_LIBRARY_PATH")}
    first = [str(modules)] if modules else []
    environment["PYTHONPATH"] = os.pathsep.join([*first, str(library.folder), str(ROOT / ".typing"), str(_TOOLS)])
    folders = [str(search)] if search else [str(library.folder / "stubs")] if library.stubs and stubs else []
    if folders:
        environment["LD_LIBRARY_PATH"] = folders[0]
    ended = subprocess.run(
        [python, "-u", "-W", "ignore", str(_TOOLS / f"{library.probes}.py"), library.module, probe, given],
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT,
        env=environment,
    )

    def plain(text: str) -> str:
        for name, path in {**files, "library's folder": library.folder}.items():
            text = text.replace(str(path), f"<{name}>")
        return text

    events = [json.loads(line) for line in plain(ended.stdout).splitlines() if line.startswith("{")]
    seen: dict[str, Any] = {}
    for event in events:
        for key, value in event.items():
            if key in ("log", "parser"):
                seen.setdefault(key, []).append(value)
            else:
                seen[key] = value
    if ended.returncode < 0:
        seen["ended by"] = signal.Signals(-ended.returncode).name
    elif ended.returncode > 0:
        seen["exit status"] = ended.returncode
    if ended.stderr:
        seen["stderr"] = plain(ended.stderr).splitlines()
    return seen
