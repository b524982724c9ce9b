"""Simplify a traced graph: fold constants, write shapes as constants, name nodes after their modules.

The exporter computes the target of every reshape at run time, through Shape, Concat and the like. Engines optimise
better with a constant: ``0`` (as in the input) for the batch and ``-1`` (inferred) for the tokens. It also writes GELU
as x * (0.5 * (1 + erf)); engines fuse the form (x * (1 + erf)) * 0.5.
"""

from typing import Any, Final

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnxscript import optimizer
from onnxscript.rewriter import pattern

__all__ = ["simplify", "without_dead_code"]

_SCOPES = "pkg.torch.onnx.name_scopes"
_SHAPE_SIZE = 16  # elements: shapes and scalars are shared, equal weights keep their own names


def simplify(graph: ir.Model) -> ir.Model:
    """Rewrite ``graph`` in place without changing its results. Returns it."""
    _name_nodes(graph.graph)
    optimizer.fold_constants(graph, should_fold=_is_part_of_weight)
    passes.IdentityEliminationPass()(graph)
    _make_reshapes_constant(graph.graph)
    _GELU.apply_to_model(graph)
    without_dead_code(graph)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(graph)
    passes.CommonSubexpressionEliminationPass()(graph)
    passes.DeduplicateInitializersPass(size_limit=_SHAPE_SIZE)(graph)
    without_dead_code(graph)
    # The exporter's metadata holds stack traces with local paths.
    passes.ClearMetadataAndDocStringPass()(graph)
    return graph


def _is_part_of_weight(node: ir.Node) -> bool | None:
    """Fold slices of weights of any size, which reducers read (``vit/reducers/attention.py``); None: by the size."""
    return True if node.op_type == "Slice" else None


def _gelu_as_traced(op: Any, x: Any, half: Any, one_plus_erf: Any) -> Any:
    return op.Mul(x, op.Mul(half, one_plus_erf))


def _gelu_to_fuse(op: Any, x: Any, half: Any, one_plus_erf: Any) -> Any:
    return op.Mul(op.Mul(x, one_plus_erf), half)


def _halves_erf(context: Any, x: Any, half: Any, one_plus_erf: Any) -> bool:
    """Multiplying by 0.5 is exact, so the order of the products changes no bit of a normal number."""
    constant, add = half.const_value, one_plus_erf.producer()
    is_half = constant is not None and constant.size == 1 and float(constant.numpy().item()) == 0.5
    after_erf = add is not None and add.op_type == "Add" and any(_comes_from_erf(value) for value in add.inputs)
    return is_half and after_erf


def _comes_from_erf(value: ir.Value | None) -> bool:
    producer = None if value is None else value.producer()
    return producer is not None and producer.op_type == "Erf"


_GELU: Final = pattern.RewriteRuleSet([pattern.RewriteRule(_gelu_as_traced, _gelu_to_fuse, _halves_erf)])


def without_dead_code(graph: ir.Model) -> ir.Model:
    """Remove nodes and weights that no output depends on, in place. Returns ``graph``."""
    passes.RemoveUnusedNodesPass()(graph)
    return graph


def _make_reshapes_constant(graph: ir.Graph) -> None:
    for node in graph:
        if node.op_type != "Reshape" or node.domain or node.inputs[1] is None or node.inputs[1].is_initializer():
            continue
        target = _constant_target(node.inputs[0], node.outputs[0])
        if target is None:
            continue
        name = f"{node.outputs[0].name}_shape"
        while name in graph.initializers:  # of another Reshape, where a rewrite gave this one's result a new name
            name += "_"
        constant = ir.Value(name=name, const_value=ir.tensor(np.array(target, dtype=np.int64), name=name))
        graph.register_initializer(constant)
        node.replace_input_with(1, constant)
        node.attributes["allowzero"] = ir.AttrInt64("allowzero", 0)


def _constant_target(source: ir.Value | None, result: ir.Value) -> list[int] | None:
    """The shape of ``result`` in Reshape's terms, when at most one dimension has to be inferred."""
    if source is None or source.shape is None or result.shape is None:
        return None
    target: list[int] = []
    for axis, length in enumerate(result.shape):
        if isinstance(length, int):
            target.append(length)
        elif axis < len(source.shape) and source.shape[axis] == length:
            target.append(0)
        else:
            target.append(-1)
    return target if target.count(-1) <= 1 else None


def _name_nodes(graph: ir.Graph) -> None:
    """Name nodes after the module that they come from: ``blocks.0.attn.qkv/MatMul``."""
    seen: dict[str, int] = {}
    for node in graph:
        scopes = node.metadata_props.get(_SCOPES)
        if scopes is None:
            continue
        inner = [part.strip(" '\"[]") for part in scopes.split(",")]
        module = inner[-2] if len(inner) > 1 and not inner[-2].startswith("_") else ""
        name = f"{module.removeprefix('model.').removeprefix('backbone.')}/{node.op_type}".lstrip("/")
        seen[name] = seen.get(name, -1) + 1
        node.name = f"{name}_{seen[name]}" if seen[name] else name
