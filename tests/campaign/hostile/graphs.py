"""Changes of ONNX files."""

from random import Random

import onnx
from hostile.graph_bombs import functions, subgraphs
from hostile.values import OUTSIDE, TEXTS
from onnx import TensorProto, helper


def onnx_changed(content: bytes, rng: Random) -> tuple[bytes, str]:
    """A model with one to three changes of its fields."""
    model = onnx.load_model_from_string(content)
    done = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        change = rng.choice(CHANGES)
        done.append(f"{change.__name__.strip('_')}: {change(model, rng)}")
    return model.SerializeToString(), "; ".join(done)


def _tensor_shape(model, rng):
    tensor = rng.choice(model.graph.initializer)
    shape = list(tensor.dims)
    shapes = (
        shape[::-1],
        [*shape, 1],
        [],
        [0],
        [10**13],
        [-1],
        [2**62, 4],
        [2**32, 2**32],
        [1] * 100,
        [1] * 100_000,
        [shape[0] + 1, *shape[1:]] if shape else [2],
    )
    del tensor.dims[:]
    tensor.dims.extend(rng.choice(shapes))
    return f"{tensor.name} {list(tensor.dims)[:6]}"


def _tensor_type(model, rng):
    tensor = rng.choice(model.graph.initializer)
    tensor.data_type = rng.choice((0, 1, 2, 6, 7, 8, 9, 10, 11, 14, 16, 17, 23, 99, -1, 2**31 - 1))
    return f"{tensor.name} {tensor.data_type}"


def _tensor_data(model, rng):
    tensor = rng.choice(model.graph.initializer)
    data = tensor.raw_data
    tensor.raw_data = rng.choice(
        (
            b"",
            data[:-1],
            data + b"x",
            b"\xff" * len(data),
            bytes(len(data)),
            data[::-1],
            b"\0\0\x80\x7f" * (len(data) // 4),
            b"\0\0\xc0\x7f" + data[4:],
        )
    )  # infinity, NaN
    return f"{tensor.name} {len(tensor.raw_data)} bytes"


def _external(model, rng):
    tensor = rng.choice(model.graph.initializer)
    place = rng.choice(
        (OUTSIDE, "/etc/passwd", "/dev/zero", "full.onnx", "manifest.json", ".", "", "a\x00b", "fifo", "x.data")
    )
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    offset, length = (
        rng.choice(("0", "-1", str(2**63), "x", "1000000000000")),
        rng.choice(("0", "64", str(2**62), "-5", "x")),
    )
    for key, text in (("location", place), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=text)
    return f"{tensor.name} at {place!r} from {offset}, {length} bytes"


def _node_type(model, rng):
    node = rng.choice(model.graph.node)
    before = node.op_type
    names = (
        "TopK",
        "Gather",
        "If",
        "Loop",
        "Scan",
        "TokenSelect",
        "Range",
        "Tile",
        "Expand",
        "Resize",
        "MatMul",
        "Concat",
        "ConstantOfShape",
        "PyOp",
        "",
        "\x1b[31m",
        "[bold]",
        "x" * 9000,
        "Reshape",
        "Identity",
        "LayerNormalization",
    )
    node.op_type = rng.choice(names)
    return f"{before} {node.op_type[:30]!r}"


def _node_domain(model, rng):
    node = rng.choice(model.graph.node)
    node.domain = rng.choice(
        ("com.microsoft", "tokfilter", "ai.onnx.ml", OUTSIDE, "\x1b]0;x\x07", "[/]", "org.pytorch.aten")
    )
    return f"{node.op_type} {node.domain!r}"


def _wires(model, rng):
    node = rng.choice(model.graph.node)
    other = rng.choice(model.graph.node)
    kind = rng.randrange(6)
    if kind == 0 and node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice((*other.output, "nowhere", ""))
    elif kind == 1 and node.output:
        node.output[0] = other.output[0]
    elif kind == 2:
        node.input.extend(["x"] * rng.choice((1, 50_000)))
    elif kind == 3 and node.input:
        del node.input[rng.randrange(len(node.input))]
    elif kind == 4 and node.output:
        del node.output[:]
    elif node.input:
        node.input[0] = node.output[0] if node.output else ""
    return f"{kind} {node.op_type}"


def _attribute(model, rng):
    nodes = [node for node in model.graph.node if node.attribute]
    node = rng.choice(nodes)
    attribute = rng.choice(node.attribute)
    kind = rng.randrange(7)
    if kind == 0:
        attribute.i = rng.choice((-1, 0, 1, 7, 2**31, 2**62, -(2**63)))
    elif kind == 1:
        del attribute.ints[:]
        attribute.ints.extend(rng.choice(([], [0], [-1], [2**62] * 3, [1] * 100_000, [0, 0], [0, 1, 1, 3])))
    elif kind == 2:
        attribute.type = rng.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 13))
    elif kind == 3:
        attribute.name = rng.choice(TEXTS).encode("utf-8", "replace").decode()
    elif kind == 4:
        attribute.ref_attr_name = "x"
    elif kind == 5:
        node.attribute.append(attribute)
    else:
        attribute.f = rng.choice((float("nan"), float("inf"), -1.0, 1e38))
    return f"{kind} {node.op_type}.{attribute.name[:30]!r}"


def _names(model, rng):
    text = rng.choice(TEXTS).encode("utf-8", "replace").decode()
    part = rng.choice(
        (
            model.graph,
            *model.graph.input,
            *model.graph.output,
            rng.choice(model.graph.node),
            rng.choice(model.graph.initializer),
        )
    )
    before, part.name = part.name, text
    return f"{before} {text[:40]!r}"


def _value_shape(model, rng):
    value = rng.choice((*model.graph.input, *model.graph.output))
    shape = value.type.tensor_type.shape
    kind = rng.randrange(5)
    if kind == 0:
        shape.dim.add(dim_value=1)
    elif kind == 1 and shape.dim:
        rng.choice(shape.dim).dim_value = rng.choice((0, -1, 1, 3, 10**10, 2**62))
    elif kind == 2 and shape.dim:
        del shape.dim[:]
    elif kind == 3 and shape.dim:
        rng.choice(shape.dim).dim_param = rng.choice(("batch", "", "\x1b[31m", "x" * 5000, "a+b"))
    else:
        value.type.tensor_type.elem_type = rng.choice((0, 2, 7, 8, 10, 16, 99))
    return f"{kind} {value.name[:30]}"


def _outputs(model, rng):
    kind = rng.randrange(4)
    if kind == 0:
        del model.graph.output[:]
    elif kind == 1:
        del model.graph.input[:]
    elif kind == 2 and model.graph.output:
        model.graph.output.append(model.graph.output[0])
    else:
        model.graph.input.append(helper.make_tensor_value_info("more", 1, [rng.choice((1, 10**9))]))
    return kind


def _opset(model, rng):
    kind = rng.randrange(5)
    if kind == 0:
        del model.opset_import[:]
    elif kind == 1 and model.opset_import:
        model.opset_import[0].version = rng.choice((0, 1, 5, 99, 2**31, 2**62, -1))
    elif kind == 2:
        model.opset_import.add(domain="\x1b[31m[bold]", version=1)
    elif kind == 3 and model.opset_import:
        model.opset_import.append(model.opset_import[0])
    else:
        model.ir_version = rng.choice((0, 1, 3, 99, 2**40))
    return kind


def _metadata(model, rng):
    for _ in range(rng.choice((1, 3, 3000))):
        model.metadata_props.add(key=rng.choice(TEXTS).encode("utf-8", "replace").decode(), value="\x1b[31m" + "x" * 50)
    model.producer_name = rng.choice(("tokfilter", "\x1b[2J", "[bold]x[/]", ""))
    model.doc_string = "x" * rng.choice((1, 100_000))
    return model.producer_name


def _nodes(model, rng):
    kind = rng.randrange(5)
    at = rng.randrange(len(model.graph.node)) if model.graph.node else 0
    if kind == 0 and model.graph.node:
        del model.graph.node[at]
    elif kind == 1:
        nodes = list(model.graph.node)[::-1]
        del model.graph.node[:]
        model.graph.node.extend(nodes)
    elif kind == 2 and model.graph.node:
        model.graph.node.append(model.graph.node[at])
    elif kind == 3:
        model.graph.node.extend(
            helper.make_node("Identity", [f"i{i}"], [f"i{i + 1}"]) for i in range(rng.choice((10, 20_000)))
        )
    elif model.graph.initializer:
        del model.graph.initializer[rng.randrange(len(model.graph.initializer))]
    return kind


CHANGES = (
    _tensor_shape,
    _tensor_type,
    _tensor_data,
    _external,
    _node_type,
    _node_domain,
    _wires,
    _attribute,
    _names,
    _value_shape,
    _outputs,
    _opset,
    functions,
    subgraphs,
    _metadata,
    _nodes,
)
