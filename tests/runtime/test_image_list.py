"""Images that a command names: files, folders and lists."""

import os
from pathlib import Path

import pytest

from tokfilter.artifacts.limits import MAX_IMAGE_LIST
from tokfilter.errors import DataError
from tokfilter.runtime.image_list import NamedImage, images_from_paths, picture_names


def touched(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_a_folder_is_walked_by_name_and_links_are_not_followed(tmp_path):
    folder = touched(tmp_path / "x", "b.PNG", "a.jpg", "sub/c.webp", "a/z.bmp", "notes.txt", "._a.jpg", "d.eps")
    (folder / "sub" / "loop").symlink_to(folder)
    found = images_from_paths([folder])
    assert [image.place.as_posix() for image in found] == ["a.jpg", "b.PNG", "a/z.bmp", "sub/c.webp"]
    assert [image.path for image in found] == [folder / image.place for image in found]


def test_a_list_has_a_path_in_each_line_relative_to_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = os.fsdecode(b"caf\xe9.png")  # not UTF-8
    Path("list.txt").write_bytes(b"one.png\r\n\n sub/two.jpg \n/abs/three.gif\n" + os.fsencode(name))
    found = images_from_paths([Path("list.txt")])
    assert [str(image.path) for image in found] == ["one.png", "sub/two.jpg", "/abs/three.gif", name]
    assert [str(image.place) for image in found] == ["one.png", "two.jpg", "three.gif", name]


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "names no image"), (b"a\0b", "is no list of images"), (None, "a list of images: expected a file")],
)
def test_what_is_no_list_is_refused(tmp_path, content, words):
    if content is not None:
        (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(DataError, match=words):
        images_from_paths([tmp_path / "list.txt"])


def test_a_list_of_any_size_is_refused(tmp_path):
    with (tmp_path / "list.txt").open("wb") as file:
        file.truncate(MAX_IMAGE_LIST + 1)
    with pytest.raises(DataError, match="at most 64 MiB"):
        images_from_paths([tmp_path / "list.txt"])
    os.mkfifo(tmp_path / "fifo.txt")
    with pytest.raises(DataError, match="expected a file"):
        images_from_paths([tmp_path / "fifo.txt"])


def test_folders_without_images_and_missing_files_are_refused(tmp_path):
    for path, words in ((touched(tmp_path / "empty", "a.md"), "names no image"), (tmp_path / "x.png", "none at")):
        with pytest.raises(DataError, match=words):
            images_from_paths([path])


def test_names_of_pictures_differ_and_stay_in_the_folder():
    places = ["a.png", "sub/a.png", "a.png", "a.png-2", "a.png", "image"]
    names = list(picture_names(NamedImage(Path("x"), Path(place)) for place in places))
    assert len(set(names)) == len(names)
    assert [name.as_posix() for name in names[:3]] == ["a.png.png", "sub/a.png.png", "a.png-2.png"]
    assert not any(name.is_absolute() or ".." in name.parts for name in names)


@pytest.mark.parametrize("line", ["..", "a/..", "/", "."])
def test_lines_of_a_list_do_not_name_places_outside(tmp_path, line):
    (tmp_path / "list.txt").write_text(line)
    (image,) = images_from_paths([tmp_path / "list.txt"])
    (name,) = picture_names([image])
    assert len(name.parts) == 1 and name.name not in ("..", ".")
