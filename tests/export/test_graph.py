import itertools

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from families import FAMILIES, PATCHES, traced_family

from tokfilter.errors import ExportError
from tokfilter.export.graph import (
    fixed_graph_from_slots,
    full_graph_from_slots,
    select_node,
    slots_graph_from_model,
    without_functions,
)
from tokfilter.export.onnx_file import cpu_session, load_graph, save_graph
from tokfilter.kernels.op import DOMAIN, NAME
from tokfilter.trt.versions import IR_VERSION


def session_of(graph, tmp_path):
    path = tmp_path / "graph.onnx"
    save_graph(graph, path)
    onnx.checker.check_model(str(path), full_check=True)
    return cpu_session(path, "fp32")


def images_for(model, batch, seed=0):
    return torch.randn(batch, 3, *model.backbone.patch_embed.img_size, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def assert_equal_to_torch(session, model, budgets, batches=(1, 3)):
    elastic = "slots" in [item.name for item in session.get_inputs()]
    for batch, k in itertools.product(batches, budgets):
        images = images_for(model, batch)
        feed = {"images": images.numpy()} | ({"slots": np.zeros(k, np.int32)} if elastic else {})
        logits, *indices = session.run(None, feed)
        np.testing.assert_allclose(logits, model(images, k).numpy(), rtol=1e-4, atol=2e-6)
        if indices and k < model.num_patches:
            np.testing.assert_array_equal(indices[0], model.last.indices.numpy())
        elif indices:
            np.testing.assert_array_equal(indices[0], np.tile(np.arange(k), (batch, 1)))


def test_one_graph_serves_every_batch_and_budget(traced_graph, model, tmp_path):
    assert_equal_to_torch(session_of(traced_graph.clone(), tmp_path), model, [1, 2, 7, 8, 15, PATCHES], (1, 2, 5))


@pytest.mark.parametrize("k", [1, 8, 9, PATCHES])
def test_a_fixed_budget(traced_graph, model, tmp_path, k):
    graph = fixed_graph_from_slots(traced_graph, k)
    assert [value.name for value in graph.graph.inputs] == ["images"]
    assert graph.graph.outputs[1].shape == ir.Shape(["batch", k])
    assert select_node(graph).attributes["k"].as_int() == k
    assert_equal_to_torch(session_of(graph, tmp_path), model, [k])


def test_the_full_graph_has_neither_filter_nor_choice(traced_graph, model, tmp_path):
    graph = full_graph_from_slots(traced_graph, PATCHES)
    assert not [name for name in graph.graph.initializers if "scorer" in name]
    assert not [node for node in graph.graph if node.domain == DOMAIN]
    assert [value.name for value in graph.graph.outputs] == ["logits"]
    assert_equal_to_torch(session_of(graph, tmp_path), model, [PATCHES])


def test_making_other_forms_leaves_the_traced_one_alone(traced_graph, model, tmp_path):
    fixed_graph_from_slots(traced_graph, 3)
    full_graph_from_slots(traced_graph, PATCHES)
    assert_equal_to_torch(session_of(traced_graph.clone(), tmp_path), model, [5])


def test_the_node_carries_what_engines_look_up(traced_graph):
    node = select_node(traced_graph)
    attributes = {name: value.value for name, value in node.attributes.items()}
    assert attributes == {
        "k": 0,
        "prefix_tokens": 1,
        "order": "position",
        "plugin_namespace": DOMAIN,
        "plugin_version": "1",
    }
    assert (DOMAIN, NAME, "") in traced_graph.functions
    assert traced_graph.ir_version == IR_VERSION
    assert traced_graph.opset_imports[DOMAIN] == 1


def test_reshapes_are_constants_and_hold_no_batch_size(traced_graph):
    """Field notes: a batch or token count that was traced into a reshape is the commonest fault of exported ViTs."""
    reshapes = [node for node in traced_graph.graph if node.op_type == "Reshape"]
    assert reshapes
    assert all(node.inputs[1].is_initializer() for node in reshapes if len(node.outputs[0].shape or ()) > 1)


def test_nodes_are_named_after_modules_and_nothing_names_this_machine(traced_graph, tmp_path):
    names = [node.name for node in traced_graph.graph]
    assert "blocks.0.attn.qkv/MatMul" in names
    assert len(set(names)) == len(names)
    save_graph(traced_graph.clone(), tmp_path / "graph.onnx")
    assert b".py" not in (tmp_path / "graph.onnx").read_bytes()


def test_tracing_restores_the_model(model):
    select, attention = model.drop.select, model.backbone.blocks[0].attn.fused_attn
    slots_graph_from_model(model)
    assert model.drop.select is select
    assert model.backbone.blocks[0].attn.fused_attn is attention

    def broken(patches):
        raise RuntimeError("a filter that cannot be traced")

    model.drop.scorer.forward = broken
    with pytest.raises(ExportError, match=r"cannot|could not turn.*cannot be traced"):
        slots_graph_from_model(model)
    assert model.drop.select is select


@pytest.mark.parametrize("opset", [17, 22])
def test_an_opset_that_is_not_served_is_refused(model, opset):
    with pytest.raises(ExportError, match="opset must be a version from 18 to 21"):
        slots_graph_from_model(model, opset)


def test_the_latest_opset(model, tmp_path):
    graph = slots_graph_from_model(model, 21)
    assert graph.opset_imports[""] == 21
    assert_equal_to_torch(session_of(graph, tmp_path), model, [1, 8, PATCHES])


@pytest.mark.parametrize("name", FAMILIES)
def test_families_of_models(name, tmp_path):
    family, traced = traced_family(name)
    assert_equal_to_torch(session_of(traced.clone(), tmp_path), family, [1, 5, PATCHES])
    assert_equal_to_torch(session_of(fixed_graph_from_slots(traced, 5), tmp_path), family, [5])
    assert_equal_to_torch(session_of(full_graph_from_slots(traced, PATCHES), tmp_path), family, [PATCHES])


def test_weights_beyond_the_limit_lie_beside_the_graph(traced_graph, model, tmp_path):
    written = save_graph(traced_graph.clone(), tmp_path / "big.onnx", single_file_bytes=1000)
    assert [path.name for path in written] == ["big.onnx", "big.onnx.data"]
    assert written[0].stat().st_size < written[1].stat().st_size
    assert_equal_to_torch(cpu_session(written[0], "fp32"), model, [8])
    again = load_graph(written[0])
    assert_equal_to_torch(session_of(full_graph_from_slots(again, PATCHES), tmp_path), model, [PATCHES])


def test_without_functions_only_the_plugin_runs_it(traced_graph, tmp_path):
    path = tmp_path / "graph.onnx"
    save_graph(without_functions(traced_graph.clone()), path)
    with pytest.raises(ExportError, match=f"ONNX Runtime does not take graph.onnx: .*{NAME}"):
        cpu_session(path, "fp32")


def test_onnx_runtime_fuses_every_gelu(traced_graph, tmp_path):
    """Engines know GELU as (x * (1 + erf)) * 0.5, which is not how the exporter writes it."""
    save_graph(traced_graph.clone(), tmp_path / "graph.onnx")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(tmp_path / "graph.onnx", options, providers=["CPUExecutionProvider"])
    left = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert "Erf" not in left and {"BiasGelu", "Gelu"} & set(left)
