"""Which kind of checkpoint a folder is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokfilter.errors import DataError
from tokfilter.train.checkpoint.fields import read_json
from tokfilter.train.checkpoint.foreign import ForeignModel
from tokfilter.train.checkpoint.timm_folder import model_from_timm_folder
from tokfilter.train.checkpoint.transformers_folder import model_from_transformers_folder

__all__ = ["model_from_folder"]


def model_from_folder(folder: Path, overrides: Mapping[str, Any] | None = None) -> ForeignModel:
    """The model of a folder of timm or of transformers; ``overrides`` replace values of its preprocessing.

    Raises DataError, UnsupportedModelError with the reason.
    """
    if not (folder / "config.json").is_file():
        adapter = (folder / "adapter_config.json").is_file()
        reason = (
            "it holds an adapter (PEFT) without its model: call merge_and_unload() and save_pretrained(folder)"
            if adapter
            else "give a folder with config.json and model.safetensors, as timm and transformers save them, or a file"
        )
        raise DataError(f"{folder} is not a checkpoint's folder: {reason}.")
    config = read_json(folder / "config.json", "a model's configuration")
    given = {name: value for name, value in (overrides or {}).items() if value is not None}
    if "model_type" in config or ("architectures" in config and "pretrained_cfg" not in config):
        return model_from_transformers_folder(folder, config, given)
    if "architecture" in config:
        return model_from_timm_folder(folder, config, given)
    raise DataError(
        f"{folder / 'config.json'} names no model: expected architecture (timm) or model_type and architectures "
        "(transformers)."
    )
