"""Graphs with the node for TensorRT's plugin: written where they are wanted, the same whichever command writes them."""

import json
import shutil
import sys
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from quantize_images import write_images

from tokfilter.artifacts.checked import check_file
from tokfilter.artifacts.manifest import entry_from_file, load_manifest
from tokfilter.errors import ExportError, MissingDependencyError
from tokfilter.export.add_plugin_graphs import add_plugin_graphs
from tokfilter.export.cpu_form import STEPS_OF
from tokfilter.export.engines import PLUGIN_SUFFIX
from tokfilter.export.functions import select_node, with_function
from tokfilter.export.graph_stats import _sizes, lengths_of
from tokfilter.export.onnx_file import cpu_session, load_graph, save_graph
from tokfilter.export.options import ExportOptions
from tokfilter.export.pipeline import export_bundle
from tokfilter.export.plugin_graphs import named_in
from tokfilter.export.quantize.images import LEAST_CALIBRATION
from tokfilter.export.selection import node_graph, plain_graph
from tokfilter.export.serving.edge_bundle.pack import pack
from tokfilter.export.shapes import infer_shapes

PRECISIONS = ("fp32", "fp16", "bf16", "int8")


@pytest.fixture
def copied(export_directory, tmp_path):
    return shutil.copytree(export_directory, tmp_path / "out")


def test_graphs_of_export_and_of_a_later_command_give_the_same(bundle_file, export_directory, tmp_path):
    options = ExportOptions(keeps=(0.5,), plugin_graphs=True, verify=False)
    manifest = export_bundle(bundle_file, tmp_path / "both", options)
    written = manifest.entries("filtered", "onnx-plugin")
    assert [(entry.path, entry.budget) for entry in written] == [
        ("model.plugin.onnx", None),
        ("model.k8.plugin.onnx", 8),
    ]
    added = add_plugin_graphs(export_directory, tmp_path, load_manifest(export_directory).files)
    assert [(entry.path, entry.budget) for entry in added] == [(entry.path, entry.budget) for entry in written]
    for entry in written:
        graphs = [load_graph(folder / entry.path) for folder in (tmp_path / "both", tmp_path)]
        assert [select_node(graph).name for graph in graphs] == ["patch_drop/TokenSelect"] * 2
        attributes = [{name: a.value for name, a in select_node(graph).attributes.items()} for graph in graphs]
        assert attributes[0] == attributes[1] and all(len(graph.functions) == 1 for graph in graphs)
        slots = {"slots": np.zeros(5, np.int32)} if entry.budget is None else {}
        feeds = {"images": np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)} | slots
        sessions = [cpu_session(folder / entry.path, "fp32") for folder in (tmp_path / "both", tmp_path)]
        (logits, kept), (other_logits, other_kept) = (session.run(None, feeds) for session in sessions)
        np.testing.assert_allclose(logits, other_logits, atol=1e-5)
        np.testing.assert_array_equal(kept, other_kept)
        check_file(tmp_path / "both", entry)
    assert add_plugin_graphs(tmp_path / "both", tmp_path, manifest.files) == [], "it has them already"


@pytest.fixture(scope="module")
def every_precision(bundle_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("precisions")
    write_images(folder / "images", LEAST_CALIBRATION + 8)
    export = {"keeps": (0.5,), "precisions": PRECISIONS, "calibrate": folder / "images", "max_drop": 100.0}
    options = ExportOptions(**export, plugin_graphs=True)
    return folder / "out", export_bundle(bundle_file, folder / "out", options)


def products(path, kept):
    """Of each block: (operator, rows) of its products at a batch of one, where ``kept`` + 1 rows are all."""
    graph = infer_shapes(load_graph(path))
    lengths, found = lengths_of(graph, kept), {}
    for node in graph.graph:
        block = ".".join((node.name or "").split(".")[:2])
        if block.startswith("blocks.") and node.op_type in ("MatMul", "Gemm"):
            rows = _sizes(node.outputs[0], lengths)[-2]
            found.setdefault(block, []).append((node.op_type, "all" if rows == kept + 1 else rows))
    return found


@pytest.mark.parametrize("precision", PRECISIONS)
def test_full_and_filtered_graphs_compute_the_same_rows_in_every_block(every_precision, precision):
    """Else the engine of one would have less to do in its last block than that of the other it is compared with."""
    folder, manifest = every_precision
    entries = [e for e in manifest.files if e.precision == precision and e.runtime in ("onnx", "onnx-plugin")]
    assert [(e.role, e.runtime, e.budget) for e in entries] == [
        ("filtered", "onnx", None),
        ("filtered", "onnx", 8),
        ("full", "onnx", None),
        ("filtered", "onnx-plugin", None),
        ("filtered", "onnx-plugin", 8),
    ]
    forms = [products(folder / e.path, 16 if e.role == "full" else e.budget or 5) for e in entries]
    assert forms == [forms[0]] * 5
    # class token early, in fp32 and int8: projection and MLP of the last block compute its row only
    rows = {block: [count for _, count in found] for block, found in forms[0].items()}
    early = [1, 1, 1] if precision in STEPS_OF else ["all"] * 3
    assert set(rows["blocks.0"]) == {"all"} and rows["blocks.1"][-3:] == early and set(rows["blocks.1"][:-3]) == {"all"}


def test_the_edge_bundle_has_them(export_directory, tmp_path):
    bundle = pack(export_directory, tmp_path / "edge.tar")
    assert {"out/model.plugin.onnx", "out/model.k8.plugin.onnx"} <= set(bundle.files)
    with tarfile.open(bundle.path) as archive:
        manifest = json.load(archive.extractfile("edge/out/manifest.json"))
    kinds = {entry["path"]: entry["runtime"] for entry in manifest["files"]}
    assert kinds["model.plugin.onnx"] == "onnx-plugin" and kinds["model.onnx"] == "onnx"


def test_an_older_export_has_the_node_in_the_graph_itself(copied, tmp_path, monkeypatch):
    graph = with_function(node_graph(load_graph(copied / "model.onnx")))
    save_graph(graph, copied / "model.onnx")
    old = entry_from_file(copied, "model.onnx", "filtered", runtime="onnx", precision="fp32")
    monkeypatch.setitem(sys.modules, "tokfilter.export.selection", None)
    assert add_plugin_graphs(copied, tmp_path, [old]) == []


def test_without_onnx_ir_the_ways_out_are_named(export_directory, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokfilter.export.selection", None)
    with pytest.raises(MissingDependencyError, match=r"pip install onnx onnx-ir; or export with --plugin-graphs"):
        add_plugin_graphs(export_directory, tmp_path, load_manifest(export_directory).files)


def test_a_graph_that_another_tool_changed_is_refused(copied, tmp_path):
    graph = load_graph(copied / "model.onnx")
    next(node for node in graph.graph if node.name.endswith("/flat")).name = "Flatten_7"
    save_graph(graph, copied / "model.onnx")
    changed = entry_from_file(copied, "model.onnx", "filtered", runtime="onnx", precision="fp32")
    with pytest.raises(ExportError, match="another tool changed the graph"):
        add_plugin_graphs(copied, tmp_path, [changed])
    assert not (tmp_path / f"model{PLUGIN_SUFFIX}.onnx").exists()


def test_layers_kept_in_fp32_have_the_names_of_the_file(traced_graph):
    kept = {"groups": {"first": ["patch_drop/TokenSelect", "head/Gemm"]}, "minimal": True, "probes": 1}
    assert named_in(traced_graph, kept) == kept and named_in(traced_graph, {}) == {}
    names = named_in(plain_graph(traced_graph), kept)["groups"]["first"]
    assert "patch_drop/TokenSelect/ranked" in names and names[-1] == "head/Gemm" and len(names) > 15


@pytest.mark.parametrize(
    ("options", "written"),
    [
        ({}, False),
        ({"plugin_graphs": True}, True),
        ({"strip_functions": True}, True),
        ({"trt": True}, True),
        ({"trt": True, "plugin": False}, False),
        ({"rtx": True}, False),
    ],
)
def test_when_an_export_writes_them(options, written):
    assert replace(ExportOptions(), **options).with_plugin_graphs is written
