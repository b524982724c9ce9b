"""The export that the tests of the page share."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def plain_export(tmp_path_factory, export_directory) -> Path:
    """The small model's export. For reading: copy it before you change it."""
    import onnx
    from onnx.inliner import inline_local_functions

    directory = tmp_path_factory.mktemp("plain") / "out"
    shutil.copytree(export_directory, directory)
    manifest = json.loads((directory / "manifest.json").read_text())
    for entry in manifest["files"]:
        path = directory / entry["path"]
        if path.suffix == ".onnx":
            onnx.save(inline_local_functions(onnx.load(path)), path)
            content = path.read_bytes()
            entry |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory
