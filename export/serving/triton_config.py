"""config.pbtxt for Triton Inference Server, built as Triton's own protobuf message and read back from its text.

Source of every field: ``model_config.proto`` of triton-inference-server/common, as tritonclient ships it; meaning:
docs/user_guide/model_configuration.md, batcher.md and ragged_batching.md of triton-inference-server/server.
"""

from dataclasses import dataclass
from typing import Any, Final

from tokfilter.artifacts.extras import install_hint
from tokfilter.artifacts.manifest import Entry, ModelCard
from tokfilter.artifacts.pixels import input_shape
from tokfilter.errors import ExportError, MissingDependencyError

__all__ = ["LABELS", "TritonOptions", "config_from_entry", "config_from_text", "text_from_config"]

LABELS: Final = "labels.txt"
_BACKENDS: Final = {
    "onnx": ("onnxruntime", "onnxruntime_onnx", "KIND_AUTO", "model.onnx"),
    "tensorrt": ("tensorrt", "tensorrt_plan", "KIND_GPU", "model.plan"),
}


@dataclass(frozen=True)
class TritonOptions:
    """How Triton batches and runs the models.

    max_batch: largest batch of graphs; plans have the largest that they were built for
    delay_us: longest wait of a request for a fuller batch, in microseconds
    queue: requests that may wait for a model before more are rejected; 0 for no limit
    instances: copies of a model on each device
    """

    max_batch: int = 32
    delay_us: int = 2000
    queue: int = 256
    instances: int = 1

    def __post_init__(self) -> None:
        if min(self.max_batch, self.instances) < 1 or min(self.delay_us, self.queue) < 0:
            raise ExportError(f"batch and instances must be 1 or more, delay and queue 0 or more, got {self}.")


def config_from_entry(name: str, entry: Entry, card: ModelCard, options: TritonOptions) -> Any:
    """The ModelConfig message for one model file. Raises ExportError, MissingDependencyError.

    A plan whose budget is chosen at run time gets no dynamic batching: its input ``slots`` [k] has no batch dimension,
    and Triton would concatenate the slots of two requests into a longer budget.
    """
    config = _message()
    backend, platform, kind, filename = _BACKENDS[entry.runtime or ""]
    config.name, config.backend, config.platform, config.default_model_filename = name, backend, platform, filename
    elastic = entry.role == "filtered" and entry.budget is None
    batched = not (elastic and entry.runtime == "tensorrt")
    config.max_batch_size = _largest(entry, options) if batched else 0
    tokens = -1 if elastic else entry.budget or card.num_patches
    _add_tensors(config, entry, card, tokens, batched)
    config.instance_group.add(count=options.instances, kind=kind, profile=["0"] if entry.runtime == "tensorrt" else [])
    if batched:
        _add_batching(config, entry, options)
    _add_warm_up(config, card)
    return config


def _largest(entry: Entry, options: TritonOptions) -> int:
    if entry.batch_range is None:
        return options.max_batch
    low, _, high = entry.batch_range
    if low > 1:
        raise ExportError(
            f"{entry.path} runs batches of {low} or more, Triton may form smaller: export with --batch 1:...:{high}."
        )
    return high


def _add_tensors(config: Any, entry: Entry, card: ModelCard, tokens: int, batched: bool) -> None:
    front = [] if batched else [-1]
    kind = "TYPE_FP32" if card.input == "float" else "TYPE_UINT8"
    config.input.add(name="images", data_type=kind, dims=[*front, *input_shape(card.input, card.input_size)])
    if tokens == -1:
        config.input.add(name="slots", data_type="TYPE_INT32", dims=[-1])
    config.output.add(name=card.output_name, data_type="TYPE_FP32", dims=[*front, card.classes])
    if entry.role == "filtered":
        config.output.add(name="indices", data_type="TYPE_INT32", dims=[*front, tokens])
    if card.class_names:
        config.output[0].label_filename = LABELS


def _add_batching(config: Any, entry: Entry, options: TritonOptions) -> None:
    batching = config.dynamic_batching
    batching.max_queue_delay_microseconds = options.delay_us
    batching.default_queue_policy.max_queue_size = options.queue
    if entry.batch_range is not None:  # a plan is fastest at the optimum of its profile
        batching.preferred_batch_size.extend(sorted(set(entry.batch_range[1:])))


def _add_warm_up(config: Any, card: ModelCard) -> None:
    warm_up = config.model_warmup.add(name="one image", batch_size=1)
    for tensor in config.input:
        dims = {"images": [*input_shape(card.input, card.input_size)], "slots": [card.keep]}[tensor.name]
        if config.max_batch_size == 0 and tensor.name == "images":
            dims = [1, *dims]
        warm_up.inputs[tensor.name].data_type = tensor.data_type
        warm_up.inputs[tensor.name].dims.extend(dims)
        warm_up.inputs[tensor.name].zero_data = True


def text_from_config(config: Any) -> str:
    """config.pbtxt's text, which is read back and compared before it is returned. Raises ExportError."""
    from google.protobuf import text_format

    text: str = text_format.MessageToString(config)
    if config_from_text(text) != config:
        raise ExportError(f"the configuration of {config.name} reads back differently. Report this.")
    return text


def config_from_text(text: str) -> Any:
    """Parse a config.pbtxt with Triton's published message. Raises ExportError with the parser's message."""
    from google.protobuf import text_format

    config = _message()
    try:
        text_format.Parse(text, config)
    except text_format.ParseError as error:
        raise ExportError(f"Triton cannot read this configuration: {error}.") from error
    return config


def _message() -> Any:
    try:
        from tritonclient.grpc.model_config_pb2 import ModelConfig
    except ImportError as error:
        raise MissingDependencyError(
            "Triton's configuration format comes with tritonclient, which cannot be imported "
            f"({error}): {install_hint('triton')}."
        ) from error
    return ModelConfig()
