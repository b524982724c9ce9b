"""An environment for each runtime: a virtual environment, or a folder of npm packages. Made once, then reused."""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Final

from tokfilter.benchmarks.portability.runtimes import Runtime
from tokfilter.errors import MissingDependencyError

__all__ = ["PROBES", "command_of", "install"]

PROBES: Final = Path(__file__).parent / "probes"

_LIMIT_S: Final = 900


def install(runtime: Runtime, root: Path) -> Path:
    """The folder of the environment below ``root``, made unless it is there with the same packages.

    Raises MissingDependencyError with the last line of pip or npm.
    """
    folder, done = root / runtime.folder, root / runtime.folder / "installed"
    if done.is_file() and done.read_text(encoding="utf-8") == _text(runtime):
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if runtime.kind == "node":
        _install_npm(runtime, folder)
    else:
        _install_pip(runtime, folder)
    done.write_text(_text(runtime), encoding="utf-8")
    return folder


def command_of(runtime: Runtime, folder: Path, *arguments: str | Path) -> list[str]:
    """What runs the probe in its environment."""
    if runtime.kind == "node":  # Node looks for packages beside the script
        script = shutil.copy(PROBES / runtime.probe, folder)
        return ["node", str(script), runtime.packages[0].partition("@")[0], *map(str, arguments)]
    return [str(folder / "bin/python"), str(PROBES / runtime.probe), *map(str, arguments)]


def _install_pip(runtime: Runtime, folder: Path) -> None:
    _run([sys.executable, "-m", "venv", str(folder)], runtime)
    pip = [str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*pip, *(["--no-deps"] if runtime.alone else []), *runtime.packages], runtime)
    if runtime.with_torch:
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        site = folder / "lib" / version / "site-packages"
        (site / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")


def _install_npm(runtime: Runtime, folder: Path) -> None:
    if shutil.which("npm") is None:
        raise MissingDependencyError(f"{runtime.name} comes from npm, which is not installed: install Node.js.")
    (folder / "package.json").write_text('{"private": true}\n', encoding="utf-8")
    # onnxruntime-node's script would download CUDA's libraries.
    options = ["--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder)]
    _run(["npm", "install", *options, *runtime.packages], runtime)


def _run(command: list[str], runtime: Runtime) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower()]
        raise MissingDependencyError(f"{runtime.name} was not installed: {(errors or lines or ['no output'])[-1]}")


def _text(runtime: Runtime) -> str:
    return "\n".join(runtime.packages) + "\n"
