"""TokenSelect as small ONNX graphs with every shape fixed: the plugin's node, and its baselines at their best.

The baselines give the kept rows in the order of the scores, which needs no second sort, fetch prefix and patch rows with
one Gather, so that no Concat of tokens follows, and have as constants all positions that can be constant.
"""

from typing import Final

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx.parser

from tokfilter.benchmarks.micro.cases import Case
from tokfilter.kernels.op import DOMAIN, NAME, VERSION

__all__ = ["native_graph", "plugin_graph", "topk_last_dim_graph"]

_OPSET: Final = 18
_IR_VERSION: Final = 10
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


def plugin_graph(case: Case, order: str) -> onnx.ModelProto:
    """The node of the fused plugin, without a function to fall back on: no plugin, no engine."""
    body = _PLUGIN.format(domain=DOMAIN, name=NAME, version=VERSION, k=case.k, prefix=case.prefix, order=order)
    return _model(case, body, f', "{DOMAIN}" : 1')


def native_graph(case: Case) -> onnx.ModelProto:
    """TopK and one Gather, in operators of every runtime."""
    model = _model(case, _ROWS.format(ranking=_NATIVE), "")
    return _with_rows(model, case, np.int64, budget=np.array([case.k], np.int64))


def topk_last_dim_graph(case: Case) -> onnx.ModelProto:
    """NVIDIA's plugin TopkLastDim (TensorRT 11) and one Gather."""
    model = _model(case, _ROWS.format(ranking=_LAST_DIM.format(k=case.k)), ', "trt" : 1')
    return _with_rows(model, case, np.int32)


def _model(case: Case, body: str, domains: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(
        _HEADER.format(
            ir=_IR_VERSION,
            opset=_OPSET,
            domains=domains,
            type=_ONNX[case.dtype],
            batch=case.batch,
            rows=case.prefix + case.patches,
            channels=case.channels,
            patches=case.patches,
            kept=case.prefix + case.k,
            body=body,
        )
    )


def _with_rows(
    model: onnx.ModelProto, case: Case, dtype: type[np.signedinteger], **more: np.ndarray
) -> onnx.ModelProto:
    """Add the constants of ``_ROWS`` in the type of the ranking's positions."""
    rows = case.prefix + case.patches
    starts = np.arange(case.batch, dtype=dtype)[:, None] * rows
    constants = {
        "first_patches": starts + dtype(case.prefix),
        "prefix_rows": starts + np.arange(case.prefix, dtype=dtype),
        "flat_shape": np.array([case.batch * rows, case.channels], np.int64),
        **more,
    }
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    model.graph.initializer.extend(tensors)
    return model
