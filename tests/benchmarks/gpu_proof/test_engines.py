"""The steps that build, compare and time engines, with ONNX Runtime on a CPU in TensorRT's place.

A "plan" is the graph that the engine was built from. Folders, manifests, workers, verdicts and rows are the real ones.
"""

import json
import shutil
from collections import Counter
from dataclasses import replace
from io import StringIO
from pathlib import Path

import onnx
import pytest
from PIL import Image

from tokfilter.artifacts.bundle import Preprocessing
from tokfilter.artifacts.manifest import load_manifest
from tokfilter.benchmarks.gpu_proof import (
    attention,
    engine_jobs,
    frameworks,
    golden,
    int8,
    native,
    native_library,
    rounds,
    sanitizer,
    speed,
)
from tokfilter.benchmarks.gpu_proof.attention import fused_attention
from tokfilter.benchmarks.gpu_proof.context import Context
from tokfilter.benchmarks.gpu_proof.engine_jobs import (
    EngineJob,
    budgets_of_job,
    build_engines,
    engine_budgets,
    engine_folder,
    engine_spec,
    graph_of_job,
    speed_jobs,
)
from tokfilter.benchmarks.gpu_proof.int8_worker import write_random_images
from tokfilter.benchmarks.gpu_proof.prepare import ensure_graphs, ensure_int8_graphs
from tokfilter.benchmarks.gpu_proof.sanitizer import errors_from_output
from tokfilter.benchmarks.gpu_proof.settings import ModelSpec, Settings
from tokfilter.benchmarks.gpu_proof.worker_process import WorkerError
from tokfilter.errors import EngineError
from tokfilter.export.reference import transform_of
from tokfilter.runtime.comparison.processes import EngineProcess, Interpreter
from tokfilter.runtime.comparison.rounds import Cell
from tokfilter.runtime.model_files import find_entry
from tokfilter.runtime.sessions import SessionOptions
from tokfilter.train.recipe import CONTEXT
from tokfilter.vit.bundle import load_bundle, model_from_bundle

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}
MODEL = ModelSpec("small", "vit_tiny_patch16_224", 16, 2, SMALL)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    work = tmp_path_factory.mktemp("graphs")
    ensure_graphs(Context(Settings(work, models=(MODEL,)), {}, StringIO()), "small")
    return work


@pytest.fixture(scope="module")
def int8_graphs(graphs, tmp_path_factory):
    work = tmp_path_factory.mktemp("int8") / "work"
    shutil.copytree(graphs, work)
    ensure_int8_graphs(Context(Settings(work, models=(MODEL,)), {}, StringIO()), "small")
    return work / "graphs" / "small.int8"


@pytest.fixture
def context(graphs, tmp_path, monkeypatch):
    """A context whose engines are ONNX graphs; ``built`` counts the builds, ``broken`` names those that fail."""
    shutil.copytree(graphs, tmp_path / "work")
    plugin = tmp_path / "libplugin.so"
    plugin.write_bytes(b"a library")
    found = {
        "gpu": {"found": "a GPU"},
        "tensorrt": {"found": "10.16.0, Python"},
        "prepared plugin": {"found": str(plugin)},
    }
    settings = Settings(tmp_path / "work", batches=(1, 2), builders=2, duration_s=0.02, models=(MODEL,))
    context = Context(settings, found, StringIO())
    context.built, context.broken, context.plugin = [], (), plugin

    def ask(asked, module, request, before=(), **environment):
        assert (module, asked) == ("build_worker", context)
        context.built.append(Path(request["plan"]).parent.name)
        if any(word in context.built[-1] for word in context.broken):
            raise EngineError("TensorRT cannot build the graph: no kernel")
        assert Path(request["graph"]).is_file() and request["fp32_layers"] == ()
        kind = "full" if ".full." in context.built[-1] else "model"
        half = ".fp16" if request["precision"] == "fp16" else ""
        folder = f"small{'.int8' if request['precision'] == 'int8' else ''}"
        half = ".int8" if request["precision"] == "int8" else half
        source = settings.work / "graphs" / folder / f"{kind}{half}.onnx"  # the node without its function runs nowhere
        shutil.copyfile(source, request["plan"])
        return {"target": {"version": "10.16.0", "plugin": None}, "output": ""}

    spec = engine_jobs.engine_spec

    def on_a_cpu(asked, job, name="", cuda_graph=True):
        made = spec(asked, job, name, cuda_graph)
        options = replace(made.options, runtime="onnx", cuda_graph=False, threads=1)
        return replace(made, options=options, interpreter=Interpreter())

    for module in (golden, speed, int8, native, frameworks):
        monkeypatch.setattr(module, "engine_spec", on_a_cpu)
    monkeypatch.setattr(engine_jobs, "ask", ask)
    return context


def results(context, kind):
    return [r for r in map(json.loads, context.replies.getvalue().splitlines()) if r["kind"] == kind]


def test_the_graphs_are_those_of_the_default_recipe(graphs):
    model = model_from_bundle(load_bundle(graphs / "graphs" / "small.pt"))
    assert model.scorer.summary.reduce.out_features == CONTEXT
    assert model.scorer.summary.expand.weight.abs().min() > 0  # compared with golden tensors, not with zero


@pytest.mark.slow
def test_each_engine_is_compared_as_soon_as_it_is_built(context):
    golden.run(context)
    assert [b["error"] for b in results(context, "build")] == [None] * 3
    assert results(context, "problem") == []
    verdicts = results(context, "verdict")
    assert {(v["engine"], v["batch"], v["tokens"], v["passed"]) for v in verdicts} == {
        ("small.filtered.plugin.fp16.b1", 1, 16, True),
        ("small.filtered.plugin.fp16.b8", 8, 16, True),
        ("small.filtered.plugin.fp32.b1-8", 1, 16, True),
        ("small.filtered.plugin.fp32.b1-8", 8, 16, True),
    }
    assert all(v["largest_difference"] < v["tolerance"] for v in verdicts)


@pytest.mark.slow
def test_a_step_that_did_not_compare_every_engine_has_failed(context, monkeypatch):
    context.broken = ("fp32",)
    with pytest.raises(EngineError, match="1 of 3 engines gave no result, such as small.filtered.plugin.fp32"):
        golden.run(context)
    assert results(context, "verdict"), "the others were compared"
    context.broken = ("plugin",)
    shutil.rmtree(context.settings.work / "engines")
    monkeypatch.setattr(native_library, "ask", lambda *words: {"answers": []})
    library = replace(context.settings, library=context.plugin)
    monkeypatch.setattr(context, "settings", library)
    with pytest.raises(EngineError, match="engines gave no result"):
        native_library.run(context, "small")
    with pytest.raises(EngineError, match="engines gave no result"):
        context.found["compute-sanitizer"] = {"found": "/usr/bin/true"}
        sanitizer.run(context, "small")


@pytest.mark.parametrize(
    ("output", "errors"),
    [
        ("========= Invalid __global__ write of size 2\n========= ERROR SUMMARY: 3 errors\n", 3),
        ("========= ERROR SUMMARY: 0 errors\n", None),
        ("Segmentation fault\n", None),
    ],
)
def test_errors_of_memory_are_reported_where_they_end_the_worker(context, monkeypatch, output, errors):
    def ask(asked, module, request, tool, **environment):
        assert tool[0] == "/opt/compute-sanitizer" and "memcheck" in tool
        raise WorkerError("unspecified launch failure", output)

    monkeypatch.setattr(sanitizer, "ask", ask)
    context.found["compute-sanitizer"] = {"found": "/opt/compute-sanitizer"}
    if errors is None:
        with pytest.raises(EngineError, match="unspecified launch failure"):
            sanitizer.run(context, "small")
    else:
        sanitizer.run(context, "small")
    found = [(r["errors"], r["report"][0]) for r in results(context, "memcheck")]
    first = output.splitlines()[0]
    assert found == ([] if "SUMMARY" not in output else [(errors or 0, first)])


@pytest.mark.slow
def test_full_and_filtered_are_timed_at_every_batch_and_budget(context):
    speed.run(context, "small")
    rows = {(r["batch"], r["tokens"]): r for r in results(context, "row")}
    assert set(rows) == {(batch, tokens) for batch in (1, 2) for tokens in (16, 11, 8, 5)}
    assert {r["engine"] for r in rows.values()} == {"TensorRT, plugin"}
    assert rows[1, 16]["speedup"] is None and rows[2, 8]["speedup"]["end_to_end"]["value"] > 0
    assert len(results(context, "verdict")) == 8
    order = [(r["kind"], r.get("batch")) for r in map(json.loads, context.replies.getvalue().splitlines())]
    of_time = [place for place in order if place[0] in ("build", "row")]
    expected = [
        (kind, [batch] * 3 if kind == "build" else batch)
        for batch in (1, 2)
        for kind, times in (("build", 2), ("row", 4))
        for _ in range(times)
    ]
    assert of_time == expected, "a step that is stopped has the rows of the first batches"


def test_tensorrt_8_6_has_an_fp16_engine_for_each_budget(context):
    """It has no fp16 kernels for a range of tokens."""
    context.found["tensorrt"] = {"found": "8.6.0, Python 3.10"}
    jobs = speed_jobs(context, "small", [2])
    assert [job.name.removeprefix("small.") for job in jobs] == [
        "full.fp16.b2",
        *(f"filtered.plugin.fp16.b2.k{tokens}" for tokens in (11, 8, 5)),
    ]
    assert [budgets_of_job(context, job, [16, 11, 8, 5]) for job in jobs] == [[16], [11], [8], [5]]
    assert [engine_jobs._budget(context, job) for job in jobs[1:]] == [(k, k, k) for k in (11, 8, 5)]
    keys = [engine_spec(context, job, "TensorRT, plugin").key for job in jobs]
    assert keys[1:3] == ["TensorRT, plugin, filtered at 11", "TensorRT, plugin, filtered at 8"]
    assert {rounds._family(Cell(engine_spec(context, job, "TensorRT, plugin"), 2, 8)) for job in jobs} == {
        "TensorRT, plugin"
    }
    assert engine_budgets(context, "fp32", [11, 8]) == [None]
    context.found["tensorrt"] = {"found": "10.3.0, Python 3.12"}
    assert [job.name for job in speed_jobs(context, "small", [2])] == [
        "small.full.fp16.b2",
        "small.filtered.plugin.fp16.b2",
    ]
    assert budgets_of_job(context, speed_jobs(context, "small", [2])[1], [11, 8]) == [11, 8]


@pytest.mark.slow
def test_native_ops_take_the_place_of_a_plugin_that_does_not_build_and_are_named(context):
    context.broken = ("plugin",)
    speed.run(context, "small")
    failed = [b for b in results(context, "build") if b["error"]]
    assert {b["engine"] for b in failed} == {f"small.filtered.plugin.fp16.b{n}" for n in (1, 2)}
    assert "was not built: TensorRT cannot build the graph: no kernel" in failed[0]["error"]
    assert not engine_folder(context, EngineJob("small", "filtered", "fp16", (1, 1, 1), True)).exists()
    assert {r["engine"] for r in results(context, "row")} == {"TensorRT, native ops"}
    context.broken = ("small",)
    shutil.rmtree(context.settings.work / "engines")
    with pytest.raises(EngineError, match="no filtered engine of small was built"):
        speed.run(context, "small")


@pytest.mark.slow
def test_the_plugin_is_compared_with_native_ops_in_the_same_rounds(context):
    native.run(context, "small")
    rows = results(context, "row")
    assert [(r["engine"], r["batch"], r["tokens"]) for r in rows] == [
        (name, batch, 8) for batch in (1, 2) for name in ("TensorRT, native ops", "TensorRT, plugin")
    ]
    assert [r["against"] is None for r in rows] == [True, False] * 2
    assert rows[1]["against"]["engine"] == "TensorRT, native ops"


@pytest.mark.slow
def test_pytorch_and_onnx_runtime_are_opened_once_and_measured_with_every_batch(context, monkeypatch):
    """On a CPU PyTorch has no fp16 session, so fp32 stands for it; compiling takes a minute, so it is left out."""
    cpu = SessionOptions(threads=1)
    monkeypatch.setattr(frameworks, "_TORCH", {"PyTorch eager": replace(cpu, runtime="torch")})
    monkeypatch.setattr(frameworks, "_ONNX", {"ONNX Runtime": replace(cpu, precision="fp16")})
    monkeypatch.setattr(frameworks, "find_entry", lambda *words, provider: find_entry(*words))
    context.found["torch"] = context.found["onnxruntime"] = {"found": "here"}
    starts = []
    start = EngineProcess.start
    monkeypatch.setattr(EngineProcess, "start", lambda self: (starts.append(self.spec.key), start(self))[1])
    frameworks.run(context, "small")
    assert results(context, "problem") == []
    rows = results(context, "row")
    names = ["TensorRT, plugin", "PyTorch eager", "ONNX Runtime"]
    assert {(r["engine"], r["role"], r["batch"], r["tokens"]) for r in rows} == {
        (name, role, batch, tokens)
        for name in names
        for role, tokens in (("full", 16), ("filtered", 8))
        for batch in (1, 2)
    }
    assert {r["engine"] for r in rows if r["against"] is None} == {"PyTorch eager"}
    once = [f"{name}, {role}" for name in names for role in ("full", "filtered")]
    assert sorted(starts) == sorted([*once, *once[:2]]), "only TensorRT has an engine for each batch"


@pytest.mark.slow
def test_int8_is_timed_beside_fp16_in_the_same_rounds_and_its_kernels_are_named(context, monkeypatch):
    inspected = []

    def ask(asked, module, request):
        inspected.append((module, Path(request["directory"]).name, request["batch"], request["tokens"]))
        return {"kernels": ["fmha", "imma_gemm_i8i8"], "layers": [], "nodes": 2}

    monkeypatch.setattr(attention, "ask", ask)
    int8.run(context, "small")
    assert results(context, "problem") == []
    rows = results(context, "row")
    assert [(r["engine"], r["precision"], r["batch"], r["tokens"]) for r in rows] == [
        (f"TensorRT, plugin{', int8' if precision == 'int8' else ''}", precision, batch, tokens)
        for batch in (1, 2)
        for precision in ("fp16", "int8")
        for tokens in (16, 8)
    ]
    assert [r["against"] is None for r in rows] == [True, True, False, False] * 2
    assert {r["against"]["engine"] for r in rows if r["against"]} == {"TensorRT, plugin"}
    assert [r["speedup"] is None for r in rows] == [True, False] * 4
    verdicts = [v for v in results(context, "verdict") if v["precision"] == "int8"]
    assert {(v["batch"], v["tokens"], v["passed"], v["tolerance"]) for v in verdicts} == {
        (batch, tokens, True, 0.4) for batch in (1, 2) for tokens in (16, 8)
    }
    assert all(0.95 < v["cosine"] < 0.9999999 for v in verdicts), "it is quantised, and near"
    assert inspected == [
        ("inspect_worker", "small.full.int8.b1", 1, 16),
        ("inspect_worker", "small.filtered.plugin.int8.b1", 1, 8),
    ]
    built = len(context.built)
    int8.run(context, "small")
    assert len(context.built) == built, "the graphs and engines are there"
    assert [p["part"] for p in results(context, "prepared")] == ["small in int8"], "one record of what was made"


@pytest.mark.slow
def test_native_ops_take_the_plugin_s_place_in_int8_too_and_without_an_engine_the_step_fails(
    context, int8_graphs, monkeypatch
):
    shutil.copytree(int8_graphs, context.settings.work / "graphs" / int8_graphs.name)
    monkeypatch.setattr(attention, "ask", lambda *words: {"kernels": [], "layers": [], "nodes": 0})
    context.broken = ("plugin.int8",)
    int8.run(context, "small")
    rows = results(context, "row")
    assert {r["engine"] for r in rows} == {"TensorRT, plugin", "TensorRT, native ops, int8"} and len(rows) == 8
    context.broken = ("plugin.int8", "native.int8")
    shutil.rmtree(context.settings.work / "engines")
    with pytest.raises(EngineError, match="no filtered int8 engine of small was built"):
        int8.run(context, "small")
    assert "small.full.int8.b1" in {b["engine"] for b in results(context, "build") if not b["error"]}


@pytest.mark.slow
def test_an_int8_engine_has_the_name_of_the_ops_that_it_was_built_with_at_its_batch(context, int8_graphs, monkeypatch):
    """As where the plugin builds at a batch of 8 and not at 32."""
    shutil.copytree(int8_graphs, context.settings.work / "graphs" / int8_graphs.name)
    monkeypatch.setattr(attention, "ask", lambda *words: {"kernels": [], "layers": [], "nodes": 0})
    context.broken = ("plugin.int8.b2", "plugin.fp16.b1")
    int8.run(context, "small")
    rows = results(context, "row")
    assert {(r["batch"], r["precision"]): r["engine"] for r in rows} == {
        (1, "fp16"): "TensorRT, native ops",
        (1, "int8"): "TensorRT, plugin, int8",
        (2, "fp16"): "TensorRT, plugin",
        (2, "int8"): "TensorRT, native ops, int8",
    }
    assert len(rows) == 8 and [r["speedup"] is None for r in rows] == [True, False] * 4
    against = {(r["batch"], r["against"]["engine"]) for r in rows if r["against"]}
    assert against == {(1, "TensorRT, native ops"), (2, "TensorRT, plugin")}
    assert [r["against"] is None for r in rows] == [True, True, False, False] * 2


@pytest.mark.slow
def test_int8_graphs_for_8_6_have_pairs_of_nodes_and_one_budget(context):
    context.found["tensorrt"] = {"found": "8.6.0, Python 3.10"}
    jobs = speed_jobs(context, "small", [2], True, [8], "int8")
    assert [job.name for job in jobs] == ["small.full.int8.b2", "small.filtered.plugin.int8.b2.k8"]
    ensure_graphs(context, "small")
    ensure_int8_graphs(context, "small")
    for job in jobs:
        path, layers = graph_of_job(context, job)
        graph = onnx.load(path)
        count = Counter(node.op_type for node in graph.graph.node)
        assert (path.parent.name, layers, graph.opset_import[0].version) == ("small.int8", (), 17)
        assert count["QuantizeLinear"] == count["DequantizeLinear"] == 16 and count["TokenSelect"] == (job.plugin)


def test_full_and_filtered_graphs_for_8_6_have_blocks_of_the_same_form(context):
    context.found["tensorrt"] = {"found": "8.6.0, Python 3.10"}
    ensure_graphs(context, "small")
    blocks = []
    for job in speed_jobs(context, "small", [2], True, [8]):
        nodes = onnx.load(graph_of_job(context, job)[0]).graph.node
        blocks.append(Counter(node.op_type for node in nodes if node.name.startswith("blocks.1.")))
        assert sum(node.op_type == "TokenSelect" for node in nodes) == job.plugin
    assert blocks[0] == blocks[1] and blocks[0]["MatMul"] + blocks[0]["Gemm"] == 8


def test_random_images_are_cropped_only(tmp_path):
    preprocessing = Preprocessing((3, 32, 32), (0.5,) * 3, (0.25,) * 3, "bicubic", 0.9)
    write_random_images(tmp_path, preprocessing, 2)
    images = [transform_of(preprocessing)(Image.open(path)) for path in sorted(tmp_path.iterdir())]
    assert len(images) == 2 and images[0].shape == (3, 32, 32) and not images[0].equal(images[1])
    assert all(0.9 < image.std() < 1.05 and abs(image.mean()) < 0.1 for image in images)


def test_an_engine_is_built_again_only_when_something_it_depends_on_changed(context):
    job = EngineJob("small", "filtered", "fp32", (1, 2, 2), plugin=True)
    assert build_engines(context, [job, job]) == [job] and build_engines(context, [job]) == [job]
    assert context.built == [job.name]
    context.plugin.write_bytes(b"another library")
    build_engines(context, [job])
    assert context.built == [job.name] * 2
    manifest = load_manifest(engine_folder(context, job))
    assert {entry.role for entry in manifest.files} == {"golden", "plugin", "filtered"}
    entry = manifest.entries("filtered")[0]
    assert (entry.batch_range, entry.budget_range) == ((1, 2, 2), (5, 8, 16))


def test_attention_is_counted_by_the_names_of_kernels(context, monkeypatch):
    kernels = ["_gemm_mha_v2_0x7f", "fmha_v2_flash_attention_fp16", "sm80_xmma_gemm_f16f16"]

    def ask(asked, module, request):
        assert module == "inspect_worker"
        return {
            "kernels": kernels if "full" in request["directory"] else ["gemm"],
            "layers": ["{ForeignNode}"],
            "nodes": 9,
        }

    monkeypatch.setattr(attention, "ask", ask)
    attention.run(context)
    full, filtered = results(context, "attention")
    assert (full["fused"], full["in_every_block"], full["names"]) == (2, True, sorted(kernels[:2]))
    assert (filtered["fused"], filtered["in_every_block"]) == (0, False)
    assert "1 x sm80_xmma_gemm_f16f16" in full["kernels"] and full["nodes"] == 9
    assert fused_attention(["softmax", "FMHA"]) == ["FMHA"]


def test_the_summary_of_compute_sanitizer_is_read():
    assert errors_from_output("========= x\n{}\n========= ERROR SUMMARY: 0 errors\n") == 0
    assert errors_from_output("========= ERROR SUMMARY: 1 error\n") == 1
    with pytest.raises(EngineError, match="gave no summary"):
        errors_from_output("Segmentation fault")
