"""A timm model's folder as hubs have it: ``config.json`` with architecture and preprocessing, and the weights."""

from pathlib import Path
from typing import Any

from tokfilter.artifacts.bundle import Architecture
from tokfilter.errors import DataError
from tokfilter.train.checkpoint.class_names import class_names_from_labels
from tokfilter.train.checkpoint.fields import Fields
from tokfilter.train.checkpoint.foreign import ForeignModel, replaced
from tokfilter.train.checkpoint.state_dict import state_dict_from_file

__all__ = ["model_from_timm_folder"]

_PLAIN = (str, int, float, bool)


def model_from_timm_folder(folder: Path, config: Fields, overrides: dict[str, Any]) -> ForeignModel:
    """The model of a folder; ``overrides`` replace the preprocessing's values. Its weights are not compared here.

    Raises DataError for a file that is absent or unsound.
    """
    cfg = config.part("pretrained_cfg") if "pretrained_cfg" in config else config
    classes = (config if "num_classes" in config else cfg).count("num_classes", 0, 1_000_000)  # 0: an embedding
    preprocessing = replaced(_preprocessing(cfg), overrides)
    arguments = {**_arguments(config), "num_classes": classes}
    if "input_size" in preprocessing and (overrides.get("input_size") or "img_size" not in arguments):
        height, width = preprocessing["input_size"][1:]
        arguments["img_size"] = height if height == width else [height, width]
    labels = config.values.get("label_names") or cfg.values.get("label_names")
    state = state_dict_from_file(_weights(folder))
    return ForeignModel(
        architecture=Architecture(config.text("architecture").partition(".")[0], arguments),
        weights=state.tensors,
        preprocessing=preprocessing,
        class_names=class_names_from_labels(labels, classes, f"{config.source}, label_names"),
        folder=folder,
        origin=f"timm's folder {folder.name}",
    )


def _weights(folder: Path) -> Path:
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{folder}: expected model.safetensors beside config.json, there is none. Copy the folder whole.")


def _arguments(config: Fields) -> dict[str, Any]:
    """``model_args``: plain values, or lists of them. Whether timm takes them is checked where the model is built."""
    values = config.part("model_args").values
    for key, value in values.items():
        parts = value if isinstance(value, list) and len(value) <= 16 else [value]
        highest = 512 if key == "depth" else 1 << 20
        small = all(abs(part) <= highest for part in parts if isinstance(part, int | float))
        if not small or not all(part is None or isinstance(part, _PLAIN) for part in parts):
            raise DataError(
                f"{config.source}, model_args: {key[:100]} must be a plain value of at most {highest}, got "
                f"{value!r:.100}."
            )
    return {key: value for key, value in values.items() if key != "num_classes"}


def _preprocessing(cfg: Fields) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "input_size" in cfg:
        size = cfg.values["input_size"]
        if not (isinstance(size, list) and len(size) == 3 and size[0] == 3 and all(type(s) is int for s in size)):
            raise cfg.error("input_size", "three channels, height and width")
        if not all(1 <= side <= 4096 for side in size[1:]):
            raise cfg.error("input_size", "sides from 1 to 4096 pixels")
        found["input_size"] = tuple(size)
    for key in ("mean", "std"):
        if key in cfg:
            found[key] = cfg.triple(key, -1e6 if key == "mean" else 1e-6, 1e6)
    if "crop_pct" in cfg:
        found["crop_pct"] = cfg.number("crop_pct", 0, 16)
    for key in ("interpolation", "crop_mode"):
        if key in cfg:
            found[key] = cfg.text(key)
    return found
