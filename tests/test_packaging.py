"""The wheel and the folders of the repository: what is in them and what is not."""

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from paths import ROOT

import tokfilter

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ROOMS = {"artifacts", "benchmarks", "commands", "export", "kernels", "runtime", "train", "trt", "vit"}
NOT_SHIPPED = {"benchmarks.gpu_proof", "benchmarks.micro", "benchmarks.portability"}
"""Measurements on a GPU, of the kernel and in other runtimes: they need the checkout."""


def tracked() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone")
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [Path(name) for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """The files of the repository without those that git ignores."""
    tree = tmp_path_factory.mktemp("sources")
    for path in tracked():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_bytes((ROOT / path).read_bytes())
    return tree


def wheel_of(source: Path, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"pip cannot build a wheel here: {done.stderr[-300:]}")
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def wheel(sources, tmp_path_factory) -> Path:
    return wheel_of(sources, tmp_path_factory.mktemp("wheel"))


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def python_of(version: str) -> str:
    path = subprocess.run([ROOT / ".ci" / "python", version], capture_output=True, text=True, check=True).stdout.strip()
    return path or pytest.skip(f"no Python {version} on this machine")


def test_listed_packages_are_the_folders_with_python():
    rooms = {path.parent for path in tracked() if path.name == "__init__.py" and path.parts[0] in ROOMS}
    wanted = {".".join(["tokfilter", *room.parts]) for room in rooms} - {f"tokfilter.{name}" for name in NOT_SHIPPED}
    assert set(SETTINGS["tool"]["setuptools"]["packages"]) == {"tokfilter"} | wanted


def test_the_root_holds_three_python_files():
    assert {path.name for path in ROOT.glob("*.py")} == {"__init__.py", "cli.py", "errors.py"}


def test_the_root_has_at_most_twenty_entries_besides_dotfiles():
    entries = {path.parts[0] for path in tracked() if not path.parts[0].startswith(".")}
    assert len(entries) <= 20, sorted(entries)


def test_a_commit_runs_the_checks_of_make_check():
    hooks = re.findall(r"entry: \.venv/bin/(.+)", (ROOT / ".pre-commit-config.yaml").read_text())
    recipe = re.search(r"^check: install\n((?:\t.+\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None and hooks == re.findall(r"\$\(BIN\)/(.+)", recipe[1])


def test_the_citation_has_the_present_version():
    assert f"version: {tokfilter.__version__}\n" in (ROOT / "docs" / "CITATION.cff").read_text()


def test_bare_imports_of_every_room_are_banned():
    banned = SETTINGS["tool"]["ruff"]["lint"]["flake8-tidy-imports"]["banned-api"]
    assert set(banned) >= ROOMS


@pytest.mark.slow
def test_the_wheel_holds_the_rooms_and_no_tests(wheel):
    names = [name for name in contents(wheel) if ".dist-info/" not in name]
    top = {name.split("/")[1] for name in names}
    assert top == ROOMS | {"__init__.py", "cli.py", "errors.py", "py.typed"}
    assert all(name.startswith("tokfilter/") for name in names)
    for part in (
        "test",
        "cuda_on_cpu",
        "fake",
        "/cpu/",
        "benchmarks/gpu_proof",
        "benchmarks/micro",
        "benchmarks/results",
        ".pyc",
        "conftest",
    ):
        assert [name for name in names if part in name] == []


@pytest.mark.slow
def test_a_source_distribution_gives_the_same_wheel(sources, wheel, tmp_path):
    """`pip wheel` of the archive of `setuptools.build_meta.build_sdist`, in setuptools' own environment."""
    environment = tmp_path / "environment"
    script = "from setuptools.build_meta import build_sdist; import sys; build_sdist(sys.argv[1])"
    requires = SETTINGS["build-system"]["requires"]
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--target", environment, *requires]
    if subprocess.run(install, capture_output=True, check=False).returncode:
        pytest.skip("setuptools cannot be installed here")
    subprocess.run(
        [sys.executable, "-c", script, tmp_path / "dist"],
        cwd=sources,
        env={"PYTHONPATH": str(environment)},
        capture_output=True,
        check=True,
    )
    archive = next((tmp_path / "dist").glob("*.tar.gz"))
    with tarfile.open(archive) as opened:
        assert not [name for name in opened.getnames() if "results" in Path(name).parts]
    assert contents(wheel_of(archive, tmp_path)) == contents(wheel)


@pytest.mark.slow
def test_pip_of_python_3_9_refuses_the_wheel(wheel, tmp_path):
    python = python_of("3.9")
    command = [python, "-m", "pip", "install", "--no-deps", "--no-index", "--target", tmp_path, wheel]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and list(tmp_path.iterdir()) == []
    assert "requires a different Python: 3.9" in done.stderr and "not in '>=3.10'" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13"])
def test_pip_accepts_the_wheel_for(version, wheel, tmp_path):
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--only-binary=:all:"]
    done = subprocess.run(
        [*command, "--python-version", version, "--target", tmp_path, wheel],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "tokfilter" / "cli.py").is_file()


def test_the_makefile_names_files_that_exist():
    named = re.findall(r"\b(?:tests|benchmarks|kernels)/[\w/.-]+\.py", (ROOT / "Makefile").read_text())
    assert named and all((ROOT / name).is_file() for name in named), named
