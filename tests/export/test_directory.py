"""A killed, failed or refused export leaves the old directory or the new one, whole."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from tokfilter.artifacts.manifest import NAME as MANIFEST
from tokfilter.artifacts.manifest import Manifest, ModelCard, entry_from_file, load_manifest
from tokfilter.errors import DataError, ExportError
from tokfilter.export import directory
from tokfilter.export.directory import engines_folder, new_directory

PREPROCESSING = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3}
CARD = ModelCard("vit", (3, 32, 32), 16, 1, 5, [], 8, {}, PREPROCESSING)

SCRIPT = """
import os, signal, sys
from pathlib import Path
from tokfilter.export import directory
from tokfilter.artifacts.manifest import Manifest, ModelCard, NAME, entry_from_file

def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

point, target, text = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
if point == "before the swap":
    directory._swap = kill
if point == "after the swap":
    directory.shutil.rmtree = kill
if point == "between the renames":
    rename = Path.rename
    def once(self, to):
        rename(self, to)
        kill()
    Path.rename = once
with directory.new_directory(target) as folder:
    (folder / "graph.onnx").write_text(text)
    if point == "while writing":
        kill()
    preprocessing = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3}
    card = ModelCard("vit", (3, 32, 32), 16, 1, 5, [], 8, {}, preprocessing)
    entry = entry_from_file(folder, "graph.onnx", "full", runtime="onnx")
    manifest = Manifest(card, [entry], {"name": text}, 18, {}, {}, "today")
    (folder / NAME).write_text(manifest.text())
"""


def write_export(target, text):
    with new_directory(target) as folder:
        write_into(folder, text)


def write_into(folder, text):
    (folder / "graph.onnx").write_text(text)
    entry = entry_from_file(folder, "graph.onnx", "full", runtime="onnx")
    (folder / MANIFEST).write_text(Manifest(CARD, [entry], {"name": text}, 18, {}, {}, "today").text())


def content(target):
    """The text of a whole export: its manifest and its file agree."""
    manifest = load_manifest(target)
    assert (target / manifest.files[0].path).read_text() == manifest.source["name"]
    return manifest.source["name"]


def killed_export(point, target, text):
    child = subprocess.run([sys.executable, "-c", SCRIPT, point, str(target), text], check=False)
    assert child.returncode == -signal.SIGKILL


POINTS = {"while writing": "old", "before the swap": "old", "after the swap": "new"}


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_export_leaves_one_whole_export(tmp_path, point):
    write_export(tmp_path / "out", "old")
    killed_export(point, tmp_path / "out", "new")
    assert content(tmp_path / "out") == POINTS[point]
    write_export(tmp_path / "out", "newest")
    assert content(tmp_path / "out") == "newest"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(("point", "left"), [("between the renames", None), ("after the swap", "new")])
def test_the_next_export_moves_the_old_one_back(tmp_path, point, left):
    write_export(tmp_path / "out", "old")
    killed_export(point, tmp_path / "out", "new")
    if left is None:
        assert not (tmp_path / "out").exists()
        with pytest.raises(ZeroDivisionError), new_directory(tmp_path / "out"):
            raise ZeroDivisionError
        left = "old"
    assert content(tmp_path / "out") == left
    write_export(tmp_path / "out", "newest")
    assert content(tmp_path / "out") == "newest"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_killed_first_export_leaves_nothing(tmp_path):
    killed_export("while writing", tmp_path / "out", "new")
    assert not (tmp_path / "out").exists()
    write_export(tmp_path / "out", "newest")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_export_that_fails_leaves_the_old_one_and_no_litter(tmp_path):
    write_export(tmp_path / "out", "old")
    with pytest.raises(ZeroDivisionError), new_directory(tmp_path / "out") as folder:
        (folder / "graph.onnx").write_text("half")
        raise ZeroDivisionError
    assert content(tmp_path / "out") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_old_export_that_cannot_be_read_is_refused_before_the_work(tmp_path):
    write_export(tmp_path / "out", "old")
    (tmp_path / "out" / MANIFEST).write_text("{")
    with pytest.raises(DataError, match="manifest.json"), new_directory(tmp_path / "out"):
        raise AssertionError("the work must not begin")
    assert (tmp_path / "out" / MANIFEST).read_text() == "{" and (tmp_path / "out" / "graph.onnx").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_the_manifest_does_not_list_is_taken_along(tmp_path):
    write_export(tmp_path / "out", "old")
    (tmp_path / "out" / "bench.json").write_text("measured")
    (tmp_path / "out" / "notes").mkdir()
    (tmp_path / "out" / "notes" / "a.txt").write_text("mine")
    write_export(tmp_path / "out", "new")
    assert content(tmp_path / "out") == "new"
    assert (tmp_path / "out" / "bench.json").read_text() == "measured"
    assert (tmp_path / "out" / "notes" / "a.txt").read_text() == "mine"


def test_a_link_to_a_folder_that_is_taken_along_stays_a_link(tmp_path):
    """Its folder may be a data set of a terabyte."""
    write_export(tmp_path / "out", "old")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_text("large")
    (tmp_path / "out" / "images").symlink_to(tmp_path / "images")
    write_export(tmp_path / "out", "new")
    assert content(tmp_path / "out") == "new"
    assert (tmp_path / "out" / "images").is_symlink()
    assert (tmp_path / "out" / "images" / "a.png").read_text() == "large"


def test_of_two_exports_at_once_the_last_one_stays(tmp_path):
    write_export(tmp_path / "out", "old")
    (tmp_path / "out" / "bench.json").write_text("measured")
    with new_directory(tmp_path / "out") as folder:
        write_into(folder, "first")
        write_export(tmp_path / "out", "second")
        assert content(tmp_path / "out") == "second" and folder.is_dir()
    assert content(tmp_path / "out") == "first"
    assert (tmp_path / "out" / "bench.json").read_text() == "measured"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


RACE = """
import sys
from pathlib import Path
from tokfilter.artifacts.manifest import Manifest, ModelCard, NAME, entry_from_file
from tokfilter.export.directory import new_directory
preprocessing = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3}
card = ModelCard("vit", (3, 32, 32), 16, 1, 5, [], 8, {}, preprocessing)
print("ready", flush=True)
sys.stdin.readline()
for number in range(25):
    text = f"{sys.argv[2]} {number}"
    with new_directory(Path(sys.argv[1])) as folder:
        (folder / "graph.onnx").write_text(text)
        entry = entry_from_file(folder, "graph.onnx", "full", runtime="onnx")
        (folder / NAME).write_text(Manifest(card, [entry], {"name": text}, 18, {}, {}, "today").text())
"""


def test_processes_that_write_the_same_target_leave_one_whole_export(tmp_path):
    """They meet at other moments in each run; whatever these are, each succeeds and nothing is left over."""
    write_export(tmp_path / "out", "old")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    command = [sys.executable, "-c", RACE, str(tmp_path / "out")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([*command, name], **pipes) for name in ("one", "two", "three")]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 3
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], errors
    assert content(tmp_path / "out") in ("one 24", "two 24", "three 24")
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


CHANGE = """
import sys
from dataclasses import replace
from pathlib import Path
from tokfilter.artifacts.manifest import load_manifest
from tokfilter.artifacts.manifest_change import change_manifest
def change(manifest):
    print("changes", flush=True)
    sys.stdin.readline()
    return replace(manifest, versions={"engine": "1"})
change_manifest(sys.argv[1], load_manifest(sys.argv[1]), change)
"""


@pytest.fixture
def changing(tmp_path):
    """A process that changes the manifest of an export, old, until it reads a line."""
    write_export(tmp_path / "out", "old")
    command, pipes = [sys.executable, "-c", CHANGE, str(tmp_path / "out")], {"stdin": subprocess.PIPE}
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, **pipes) as process:
        assert process.stdout.readline() == "changes\n"
        yield process


def test_an_export_waits_for_a_change_of_the_old_manifest(tmp_path, changing):
    with ThreadPoolExecutor() as pool:
        written = pool.submit(write_export, tmp_path / "out", "new")
        wait([written], timeout=0.5)
        changing.communicate("\n")
        written.result()
    assert changing.returncode == 0
    assert content(tmp_path / "out") == "new" and load_manifest(tmp_path / "out").versions == {}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_export_does_not_wait_for_ever(tmp_path, changing, monkeypatch):
    monkeypatch.setattr(directory, "_WAIT_S", 0.05)
    with pytest.raises(ExportError, match="another process writes in .*out: run this command again when it has"):
        write_export(tmp_path / "out", "new")
    changing.communicate("\n")
    assert content(tmp_path / "out") == "old" and load_manifest(tmp_path / "out").versions == {"engine": "1"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_export_that_another_process_places_between_the_renames_is_replaced(tmp_path, monkeypatch):
    write_export(tmp_path / "out", "old")
    write_export(tmp_path / "theirs", "theirs")
    rename = Path.rename

    def renamed(self, to):
        rename(self, to)
        if (tmp_path / "theirs").is_dir() and self.name == "out":  # ours is moved aside, and theirs comes
            rename(tmp_path / "theirs", tmp_path / "out")

    monkeypatch.setattr(Path, "rename", renamed)
    write_export(tmp_path / "out", "ours")
    assert content(tmp_path / "out") == "ours"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_link_that_takes_the_targets_place_is_refused(tmp_path):
    """What the link leads to is neither moved nor removed."""
    write_export(tmp_path / "out", "old")
    write_export(tmp_path / "victim", "precious")
    refused = pytest.raises(ExportError, match="out has become a link meanwhile and is not replaced")
    with refused, new_directory(tmp_path / "out") as folder:
        write_into(folder, "new")
        (tmp_path / "out").rename(tmp_path / "elsewhere")
        (tmp_path / "out").symlink_to(tmp_path / "victim")
    assert (tmp_path / "out").is_symlink() and content(tmp_path / "victim") == "precious"
    assert content(tmp_path / "elsewhere") == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "out", "victim"]


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_what_takes_the_targets_place_is_not_removed(tmp_path, kind):
    target = tmp_path / "out"
    refused = pytest.raises(ExportError, match=r"is not replaced|is a file")
    with refused, new_directory(target) as folder:
        write_into(folder, "new")
        if kind == "folder":
            target.mkdir()
            (target / "thesis.tex").write_text("precious")
        elif kind == "file":
            target.write_text("precious")
        else:
            target.symlink_to(tmp_path / "nowhere")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    if kind == "dangling link":
        assert target.is_symlink()
    else:
        assert (target / "thesis.tex" if kind == "folder" else target).read_text() == "precious"


def test_files_of_an_export_that_came_meanwhile_are_taken_along_too(tmp_path, monkeypatch):
    write_export(tmp_path / "out", "old")
    (tmp_path / "out" / "notes").mkdir()
    (tmp_path / "out" / "notes" / "a.txt").write_text("of the old one")
    (tmp_path / "out" / "notes" / "b.txt").write_text("of the old one")
    write_export(tmp_path / "theirs", "theirs")
    (tmp_path / "theirs" / "bench.json").write_text("of theirs")
    copy = shutil.copytree

    def copied(source, *arguments, **options):
        if (tmp_path / "theirs").is_dir():
            (tmp_path / "out").rename(tmp_path / "gone")
            (tmp_path / "theirs").rename(tmp_path / "out")
        return copy(source, *arguments, **options)

    monkeypatch.setattr(directory.shutil, "copytree", copied)
    write_export(tmp_path / "out", "ours")
    assert content(tmp_path / "out") == "ours"
    assert (tmp_path / "out" / "bench.json").read_text() == "of theirs"
    assert not (tmp_path / "out" / "notes").exists()  # it went away while it was copied: no half of it is left


def test_folders_of_a_killed_process_with_this_ones_number_are_removed(tmp_path):
    """In a container every run may have the same number. Names of before had no random part."""
    (tmp_path / f".out.{os.getpid()}.part").mkdir()
    (tmp_path / f".out.{os.getpid()}.0123abcd.part").mkdir()
    write_export(tmp_path / f".out.{os.getpid()}.89ab4567.old", "old")
    with pytest.raises(ZeroDivisionError), new_directory(tmp_path / "out"):
        raise ZeroDivisionError
    assert content(tmp_path / "out") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_name_with_a_number_that_no_process_has_is_left_alone(tmp_path):
    other = tmp_path / f".out.{10**30}.part"
    other.mkdir()
    write_export(tmp_path / "out", "new")
    assert content(tmp_path / "out") == "new" and other.is_dir()


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "out").write_text("precious")
    with pytest.raises(ExportError, match="must be a directory, but .*out is a file"):
        write_export(tmp_path / "out", "new")
    assert (tmp_path / "out").read_text() == "precious"


def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("precious")
    with pytest.raises(ExportError, match=r"holds files and no manifest.json"):
        write_export(tmp_path / "out", "new")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "thesis.tex"]


def test_an_empty_folder_and_a_missing_parent_are_fine(tmp_path):
    (tmp_path / "out").mkdir()
    write_export(tmp_path / "out", "new")
    write_export(tmp_path / "a" / "b" / "out", "new")
    assert content(tmp_path / "out") == content(tmp_path / "a" / "b" / "out") == "new"


def test_a_link_to_a_directory_stays_a_link(tmp_path):
    write_export(tmp_path / "real", "old")
    (tmp_path / "out").symlink_to(tmp_path / "real")
    write_export(tmp_path / "out", "new")
    assert (tmp_path / "out").is_symlink()
    assert content(tmp_path / "real") == "new"


def test_a_place_that_cannot_be_written_is_refused():
    with pytest.raises(ExportError, match=r"cannot be written: .*Choose another -o"):
        write_export(Path("/proc/tokfilter"), "new")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere; /proc stands in above")
def test_a_read_only_directory_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ExportError, match="Permission denied"):
        write_export(tmp_path / "out", "new")


def test_a_full_disk_leaves_the_old_export(tmp_path):
    write_export(tmp_path / "out", "old")
    script = textwrap.dedent(
        f"""
        import resource, signal
        from pathlib import Path
        from tokfilter.errors import ExportError
        from tokfilter.export.directory import new_directory
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, {resource.RLIM_INFINITY}))
        try:
            with new_directory(Path({str(tmp_path / "out")!r})) as folder:
                (folder / "graph.onnx").write_bytes(bytes(8192))
        except ExportError as error:
            print(error)
        """
    )
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "failed: File too large. The old export is unchanged" in child.stdout
    assert content(tmp_path / "out") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


KILLED_BUILD = """
import os, signal, sys
from pathlib import Path
from tokfilter.export.directory import engines_folder
with engines_folder(Path(sys.argv[1])) as folder:
    (folder / "model.plan").write_text("half of an engine")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("then", ["build", "export"])
def test_what_a_killed_build_of_engines_left_is_removed_by_the_next_run(tmp_path, then):
    target = tmp_path / "out"
    write_export(target, "old")
    child = subprocess.run([sys.executable, "-c", KILLED_BUILD, str(target)], check=False)
    assert child.returncode == -signal.SIGKILL
    (left,) = target.glob(".engines.*")
    assert (left / "model.plan").is_file()
    if then == "export":
        write_export(target, "new")
    else:
        with engines_folder(target) as folder:
            assert folder.is_dir() and folder.parent == target and not left.exists()
    assert not list(target.glob(".engines.*"))
    assert content(target) == ("new" if then == "export" else "old")
