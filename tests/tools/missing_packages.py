"""Python processes that find only some of the installed packages, and what the command line does in one.

``python missing_packages.py < COMMANDS`` takes JSON {name: arguments} and prints JSON {name: [exit code, output]}.
"""

import json
import re
import sys
from collections.abc import Collection, Iterable, Sequence
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution, PackageNotFoundError, packages_distributions, requires
from pathlib import Path
from typing import Any

BASE = ("click", "numpy", "rich")


def packages_of(extra: str) -> set[str]:
    """The packages that `pip install tokfilter[EXTRA]` installs, and theirs, as far as they are installed here.

    extra: one or several with commas; "" is an installation without extras
    """
    from tokfilter.artifacts.extras import extras

    waiting = [*BASE, *(package for name in extra.split(",") if name for package in extras()[name])]
    found: set[str] = set()
    while waiting:
        name = _plain(waiting.pop())
        if name not in found:
            found.add(name)
            waiting += _requirements(name)
    return found


def hiding_folder(folder: Path, extra: str) -> Path:
    """Write a folder for PYTHONPATH: a process, and those that it starts, find the packages of this extra only."""
    kept = packages_of(extra) | {"tokfilter"}
    owners = packages_distributions()
    hidden = [
        module for module, names in owners.items() if not kept & set(map(_plain, names)) and module != "tokfilter"
    ]
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        f"import sys\nsys.path.append({str(Path(__file__).parent)!r})\n"
        f"from missing_packages import hide\nhide({sorted(hidden)!r}, {sorted(kept)!r})\n"
    )
    return folder


def hide(modules: Collection[str], kept: Collection[str]) -> None:
    """From here on, imports do not find these modules, and metadata only those of the packages ``kept``."""
    sys.meta_path = [_Finder(list(sys.meta_path), set(modules), set(kept))]  # type: ignore[list-item]


class _Finder:
    """Asks other finders, except for hidden modules and distributions."""

    def __init__(self, finders: Sequence[Any], hidden: set[str], kept: set[str]) -> None:
        self.finders, self.hidden, self.kept = finders, hidden, kept

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name.split(".")[0] in self.hidden:
            return None
        specs = (finder.find_spec(name, path, target) for finder in self.finders)
        return next((spec for spec in specs if spec is not None), None)

    def find_distributions(self, context: Any = None) -> Iterable[Distribution]:
        for finder in self.finders:
            for found in finder.find_distributions(context) if hasattr(finder, "find_distributions") else ():
                if _plain(found.metadata["Name"] or "") in self.kept:
                    yield found

    def invalidate_caches(self) -> None:
        for finder in self.finders:
            if hasattr(finder, "invalidate_caches"):
                finder.invalidate_caches()


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _requirements(name: str) -> list[str]:
    try:
        lines = requires(name) or []
    except PackageNotFoundError:
        return []
    return [match[0] for line in lines if "extra ==" not in line and (match := re.match(r"[\w.-]+", line))]


def main() -> None:
    from click.testing import CliRunner

    from tokfilter.cli import cli

    results = {}
    for name, arguments in json.load(sys.stdin).items():
        result = CliRunner().invoke(cli, arguments)
        odd = None if isinstance(result.exception, SystemExit) else result.exception
        results[name] = (result.exit_code, f"{result.output}{odd!r}" if odd else result.output)
    sys.stdout.write(json.dumps(results))


if __name__ == "__main__":
    main()
