"""Files that name a reducer which this version does not know: each command ends in a sentence."""

import json
import shutil

import pytest
from click.testing import CliRunner
from PIL import Image
from small_models import small_bundle

from tokfilter.artifacts.bundle import content_from_bundle, write_content
from tokfilter.cli import cli

REDUCERS = [
    ({"name": "topk", "settings": {}}, "one of filter, evit, tome, dynamic, idle, frequency"),
    ({"name": "tome", "settings": {"fuse": True}}, "the settings of tome are stages, schedule, got 'fuse'"),
]


@pytest.fixture
def photo(tmp_path):
    for name in ("ant", "bee"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for file in ("a.png", "b.png"):
            Image.new("RGB", (32, 32)).save(tmp_path / "data" / name / file)
    return tmp_path / "data" / "ant" / "a.png"


def refused(arguments, words):
    result = CliRunner().invoke(cli, [*map(str, arguments)])
    text = " ".join(result.output.split())
    assert result.exit_code == 1 and words in text, (arguments, result.output)
    assert "Traceback" not in text and "ValueError" not in text, (arguments, result.output)


@pytest.mark.parametrize(("reducer", "words"), REDUCERS, ids=["unknown", "setting"])
def test_bundles(photo, tmp_path, reducer, words):
    path, data = tmp_path / "model.pt", photo.parents[1]
    write_content({**content_from_bundle(small_bundle()), "reducer": reducer}, path)
    verbs = {
        "predict": [path, photo],
        "export": [path, "-o", tmp_path / "out"],
        "inspect": [path],
        "eval": [path, data],
        "label": [data, path, "-o", tmp_path / "labels"],
        "train": [data, "--checkpoint", path, "-o", tmp_path / "new.pt", "--stages", "finetune"],
        "report": ["--bundle", path, "-o", tmp_path / "report.html"],
    }
    for verb, arguments in verbs.items():
        refused([verb, *arguments], words)
    assert {item.name for item in tmp_path.iterdir()} <= {"data", "model.pt"}


@pytest.mark.parametrize(("reducer", "words"), REDUCERS, ids=["unknown", "setting"])
def test_exports(export_directory, photo, tmp_path, reducer, words):
    path = tmp_path / "export"
    shutil.copytree(export_directory, path)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["model"]["reducer"] = reducer
    (path / "manifest.json").write_text(json.dumps(manifest))
    verbs = {
        "verify": [path],
        "bench": [path],
        "tune": [path, "--speedup", "1.1"],
        "predict": [path, photo],
        "inspect": [path],
        "serve": [path],
        "engine": [path, "--rtx"],
        "triton-repo": [path, tmp_path / "triton"],
        "deepstream": [path, tmp_path / "deepstream"],
        "pack": [path, "-o", tmp_path / "edge.tar"],
        "page": [path, "-o", tmp_path / "page"],
    }
    for verb, arguments in verbs.items():
        refused([verb, *arguments], words)
    assert {item.name for item in tmp_path.iterdir()} == {"data", "export"}
