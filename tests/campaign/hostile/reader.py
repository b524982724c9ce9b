"""What a class of the campaign is, the changes that it chooses from, and options that several classes share."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from hostile.containers import npz_changed, safetensors_changed, tar_changed, zip_changed
from hostile.damage import damaged
from hostile.graphs import onnx_changed
from hostile.material import ARCH, ARGS
from hostile.pictures import picture_changed
from hostile.values import json_changed, toml_changed

Change = Callable[[bytes, Random, str], tuple[bytes, str]]


def _plain(change) -> Change:
    return lambda content, rng, canary: change(content, rng)


DAMAGE = _plain(damaged)
JSON, TOML, NPZ, TAR, ZIP = map(_plain, (json_changed, toml_changed, npz_changed, tar_changed, zip_changed))
SAFETENSORS, ONNX, PICTURE = map(_plain, (safetensors_changed, onnx_changed, picture_changed))
TARGET = "made"
"""Everything that a command writes is in this folder of the case, or below files of ``writes``."""


@dataclass(frozen=True)
class Reader:
    """One class of the campaign.

    files: names of material that are copied into the case
    changed: globs of the files of which one is changed
    changes: structured changes
    commands: command lines, of which one reads the input
    sums: whether the format has sums, so that damage must be noticed
    resum: whether the manifest's sums are made right after a structured change, as an attacker would
    weight: share of the inputs
    writes: further names that the commands may write to
    action: of ``hostile.actions``: the command line, or a program of the C++ library's tests
    """

    name: str
    files: tuple[str, ...]
    changed: tuple[str, ...]
    changes: tuple[Change, ...]
    commands: tuple[tuple[str, ...], ...]
    sums: bool = False
    resum: bool = False
    weight: int = 4
    writes: tuple[str, ...] = ()
    action: str = "command"


PNG = "images/photo.png"
MODEL = (*ARCH, *ARGS)
LABEL = ("-o", f"{TARGET}/labels", "--shard", "4", "--set", "labels.chunk=16")
