"""TokenSelect as small ONNX graphs with fixed shapes: the plugin's node, and its alternatives in their fastest form.

The alternatives return the kept rows in the order of the scores, without a second sort. One Gather fetches prefix and
patch rows, so no Concat of tokens follows. All positions that can be constant are constants.
"""

from typing import Final

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx.parser

from tokfilter.benchmarks.micro.cases import TimingCase
from tokfilter.kernels.op import DOMAIN, NAME, VERSION
from tokfilter.trt.versions import IR_VERSION

__all__ = ["native_graph", "plugin_graph", "topk_last_dim_graph"]

_OPSET: Final = 18
_ONNX: Final = {"float32": "float", "float16": "float16"}

_HEADER: Final = """
<ir_version: {ir}, opset_import: ["" : {opset}{domains}]>
select ({type}[{batch},{rows},{channels}] tokens, float[{batch},{patches}] scores)
    => ({type}[{batch},{kept},{channels}] selected)
{{
{body}
}}
"""

_PLUGIN: Final = """
  selected, indices = {domain}.{name} <
    k = {k}, prefix_tokens = {prefix}, order = "{order}", plugin_namespace = "{domain}", plugin_version = "{version}"
  > (tokens, scores)
"""

# Rows of image b start at b * rows in the flattened tokens.
_ROWS: Final = """
  {ranking}
  patch_rows = Add (ranked, first_patches)
  all_rows = Concat <axis = 1> (prefix_rows, patch_rows)
  flat = Reshape (tokens, flat_shape)
  selected = Gather <axis = 0> (flat, all_rows)
"""

_NATIVE: Final = "values, ranked = TopK <axis = 1, largest = 1, sorted = 1> (scores, budget)"
# type_id is nvinfer1::DataType of the scores.
_LAST_DIM: Final = (
    "values, ranked = trt.TopkLastDim <type_id = 0, k = {k}, is_largest = 1, axis = -1, "
    'plugin_namespace = "", plugin_version = "1"> (scores)'
)


def plugin_graph(case: TimingCase, order: str) -> onnx.ModelProto:
    """The node of the fused plugin without its function: TensorRT needs the plugin to build it."""
    body = _PLUGIN.format(domain=DOMAIN, name=NAME, version=VERSION, k=case.k, prefix=case.prefix_tokens, order=order)
    return _model(case, body, f', "{DOMAIN}" : 1')


def native_graph(case: TimingCase) -> onnx.ModelProto:
    """TopK and one Gather, standard ONNX operators."""
    model = _model(case, _ROWS.format(ranking=_NATIVE), "")
    return _with_rows(model, case, np.int64, budget=np.array([case.k], np.int64))


def topk_last_dim_graph(case: TimingCase) -> onnx.ModelProto:
    """NVIDIA's plugin TopkLastDim (TensorRT 11) and one Gather."""
    model = _model(case, _ROWS.format(ranking=_LAST_DIM.format(k=case.k)), ', "trt" : 1')
    return _with_rows(model, case, np.int32)


def _model(case: TimingCase, body: str, domains: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(
        _HEADER.format(
            ir=IR_VERSION,
            opset=_OPSET,
            domains=domains,
            type=_ONNX[case.dtype],
            batch=case.batch,
            rows=case.prefix_tokens + case.num_patches,
            channels=case.channels,
            patches=case.num_patches,
            kept=case.prefix_tokens + case.k,
            body=body,
        )
    )


def _with_rows(
    model: onnx.ModelProto, case: TimingCase, dtype: type[np.signedinteger], **more: np.ndarray
) -> onnx.ModelProto:
    """Add the constants of ``_ROWS`` in the type of the ranked positions."""
    rows = case.prefix_tokens + case.num_patches
    starts = np.arange(case.batch, dtype=dtype)[:, None] * rows
    constants = {
        "first_patches": starts + dtype(case.prefix_tokens),
        "prefix_rows": starts + np.arange(case.prefix_tokens, dtype=dtype),
        "flat_shape": np.array([case.batch * rows, case.channels], np.int64),
        **more,
    }
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    model.graph.initializer.extend(tensors)
    return model
