"""What a file that a command wrote says: two runs on equal inputs must agree in it."""

import hashlib
import json
from pathlib import Path

from safetensors.torch import load_file

from tokfilter.train.checksums import content_sum

TIMES = (
    "created",
    "command",
    "machine",
    "versions",
    "seconds",
    "images_per_s",
    "date",
    "conditions",
    "sha256",
    "bytes",
)


def content_of(path: Path) -> bytes:
    """A digest of a file without times."""
    if path.suffix == ".pt":
        import torch

        return content_sum(_without_times(torch.load(path, weights_only=True))).encode()
    if path.suffix == ".safetensors":
        return content_sum(load_file(path)).encode()
    if path.suffix == ".json":
        return json.dumps(_without_times(json.loads(path.read_text())), sort_keys=True).encode()
    if path.suffix in (".html", ".tar", ".onnx", ".md"):
        return str(path.stat().st_size > 0).encode()
    return hashlib.sha256(path.read_bytes()).digest()


def _without_times(value):
    if isinstance(value, dict):
        return {key: _without_times(item) for key, item in value.items() if key not in TIMES}
    if isinstance(value, (list, tuple)):
        return [_without_times(item) for item in value]
    return value
