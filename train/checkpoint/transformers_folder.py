"""A folder that ``save_pretrained`` of transformers wrote, read without transformers: JSON and safetensors only."""

from pathlib import Path
from typing import Any

from tokfilter.errors import DataError
from tokfilter.train.checkpoint.class_names import class_names_from_labels
from tokfilter.train.checkpoint.families import architecture_from_shape, family_from_config, shape_from_config
from tokfilter.train.checkpoint.fields import Fields
from tokfilter.train.checkpoint.foreign import ForeignModel, replaced
from tokfilter.train.checkpoint.image_processor import preprocessing_from_folder
from tokfilter.train.checkpoint.tensor_files import tensor_files_from_folder
from tokfilter.train.checkpoint.tensor_names import class_count, timm_weights

__all__ = ["model_from_transformers_folder"]


def model_from_transformers_folder(folder: Path, config: Fields, overrides: dict[str, Any]) -> ForeignModel:
    """The model of a folder; ``overrides`` replace the preprocessing's values.

    Raises UnsupportedModelError, DataError with the reason; no memory is taken before names and shapes were checked.
    """
    name, family = family_from_config(config)
    shape = shape_from_config(config, family)
    files = tensor_files_from_folder(folder)
    classes = class_count(files, family)
    names = class_names_from_labels(config.values.get("id2label"), classes, f"{config.source}, id2label")
    wanted = ("mean", "std", "interpolation", "input_size", "crop_pct", "crop_mode")
    complete = all(overrides.get(key) is not None for key in wanted)
    preprocessing = replaced({} if complete else preprocessing_from_folder(folder), overrides)
    image = preprocessing["input_size"][1], preprocessing["input_size"][2]
    if image[0] < shape.patch[0] or image[1] < shape.patch[1]:
        raise DataError(f"{folder}: the images {image} are smaller than the model's patches {shape.patch}.")
    weights = timm_weights(files, shape, family, classes, image)
    return ForeignModel(
        architecture=architecture_from_shape(shape, family, classes, image),
        weights=weights,
        preprocessing=preprocessing,
        class_names=names,
        folder=folder,
        convert=False,
        origin=f"transformers' {name} in {folder.name}",
        notes=()
        if image == shape.image
        else (f"the position embedding was resampled from {shape.image} to {image} pixels, as transformers does",),
    )
