"""The gate around an engine build: what passes, what is said of it, and what is left where it does not."""

import sys
from pathlib import Path

import pytest

from tokfilter.artifacts.manifest import Entry, Manifest, ModelCard, entry_from_file
from tokfilter.errors import DataError, EngineError, MissingDependencyError, VerificationError
from tokfilter.export.engine_gate import EngineGate
from tokfilter.export.graph import full_graph_from_slots
from tokfilter.export.onnx_file import save_graph
from tokfilter.export.options import ExportOptions
from tokfilter.export.precision import cast_precision

CARD = ModelCard("vit", (3, 32, 32), 16, 1, 5, list("abcde"), 8, {}, {})
MANIFEST = Manifest(CARD, [], {}, 18, {}, {}, "2026-01-01")


class Bench:
    """Two graphs, builds that write which nodes are fp32 into the plan, and a check that wants some of them."""

    def __init__(self, folder, traced_graph):
        self.folder, self.built, self.compared, self.steps = folder, [], [], []
        typed = cast_precision(traced_graph, "fp16")
        save_graph(typed.clone(), folder / "model.fp16.onnx")
        save_graph(full_graph_from_slots(typed, 16), folder / "full.fp16.onnx")
        self.graphs = {name: self._entry(f"{name}.fp16.onnx", "fp16") for name in ("model", "full")}
        self.wanted = {}

    def _entry(self, path, precision):
        return entry_from_file(self.folder, path, "filtered", runtime="onnx", precision=precision)

    def gate(self, check="own", **options):
        options = ExportOptions(trt=True, precisions=("fp16",), **options)
        chosen = self.check if check == "own" else check
        return EngineGate(self.folder, MANIFEST, options, chosen, self.steps.append)

    def build(self, name, precision="fp16"):
        def build(fp32):
            self.built.append((name, frozenset(fp32)))
            (self.folder / f"{name}.plan").write_text("\n".join(sorted(fp32)))
            return entry_from_file(self.folder, f"{name}.plan", "filtered", runtime="tensorrt", precision=precision)

        return build

    def check(self, folder, manifest, entry):
        assert entry.sha256 == entry_from_file(folder, entry.path, "filtered").sha256
        self.compared.append(entry.path)
        missing = self.wanted.get(entry.path, set()) - set((folder / entry.path).read_text().split("\n"))
        if missing:
            raise VerificationError(f"{entry.path} differs: cosine 0.1.")

    def engines(self, gate, *names):
        return [entry for name in names for entry in gate.engines(self.graphs[name], self.build(name))]

    def plans(self):
        return sorted(path.name for path in self.folder.iterdir() if not path.name.endswith(".onnx"))


@pytest.fixture
def bench(tmp_path, traced_graph):
    return Bench(tmp_path, traced_graph)


def test_a_right_engine_is_built_once_and_called_compared(bench):
    entries = bench.engines(bench.gate(auto_fp32=True), "model", "full")
    assert [(e.path, e.verified, e.unverified, e.kept_fp32) for e in entries] == [
        ("model.plan", True, None, {}),
        ("full.plan", True, None, {}),
    ]
    assert bench.built == [("model", frozenset()), ("full", frozenset())]


@pytest.mark.parametrize(
    ("check", "options", "reason"),
    [
        ("own", {"verify": False}, "--no-verify was given"),
        (None, {}, "the caller gave nothing to run it with"),
        (lambda *_: (_ for _ in ()).throw(MissingDependencyError("no NVIDIA GPU")), {}, "no NVIDIA GPU"),
        (lambda *_: "only its kept tokens were", {}, "only its kept tokens were"),
    ],
)
def test_an_engine_that_cannot_be_compared_is_kept_and_the_reason_with_it(bench, check, options, reason):
    (entry,) = bench.engines(bench.gate(check, **options), "model")
    assert (entry.verified, entry.unverified) == (False, reason)
    assert bench.plans() == ["model.plan"]


@pytest.mark.parametrize(
    ("error", "raised", "words"),
    [
        (
            EngineError("out of memory."),
            EngineError,
            "and could not be compared.*out of memory.*--no-verify",
        ),
        (DataError("golden.npz is damaged."), EngineError, "model.plan was built, and .*golden.npz is damaged"),
        (KeyboardInterrupt("stopped"), KeyboardInterrupt, "stopped"),
    ],
)
def test_an_engine_whose_comparison_breaks_off_leaves_no_file(bench, error, raised, words):
    def check(*_):
        raise error

    with pytest.raises(raised, match=words):
        bench.engines(bench.gate(check, auto_fp32=True), "model")
    assert bench.plans() == [] and len(bench.built) == 1, "no other precision repairs this"


def test_without_the_option_an_engine_that_differs_fails_with_the_remedy(bench):
    bench.wanted = {"model.plan": {"blocks.0.attn/Softmax"}}
    with pytest.raises(VerificationError, match=r"model.plan differs: cosine 0.1. --auto-fp32 finds the layers"):
        bench.engines(bench.gate(), "model")
    assert bench.plans() == [] and len(bench.built) == 1


def test_an_fp32_engine_has_no_layer_to_repair(bench):
    bench.wanted = {"model.plan": {"blocks.0.attn/Softmax"}}
    graph = Entry("model.fp16.onnx", "filtered", "", 0, runtime="onnx", precision="fp32")
    with pytest.raises(VerificationError, match=r"Every layer of it is fp32 already"):
        list(bench.gate(auto_fp32=True).engines(graph, bench.build("model", "fp32")))
    assert len(bench.built) == 1 and bench.plans() == []


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_the_layers_of_an_int8_engine_were_chosen_before(bench, precision):
    bench.wanted = {"model.plan": {"blocks.0.attn/Softmax"}}
    graph = Entry("model.int8.onnx", "filtered", "", 0, runtime="onnx", precision=precision)
    with pytest.raises(VerificationError, match=r"export again with a lower --max-drop"):
        list(bench.gate(auto_fp32=True).engines(graph, bench.build("model", precision)))
    assert len(bench.built) == 1 and bench.plans() == []


def test_the_layers_are_found_and_the_engine_that_passed_is_the_one_kept(bench):
    bench.wanted = {"model.plan": {"blocks.0.attn/Softmax", "blocks.1.mlp.fc1/MatMul"}}
    (entry,) = bench.engines(bench.gate(auto_fp32=True), "model")
    assert set(entry.kept_fp32["groups"]) == {"attention of block 0", "MLP of block 1"}
    assert entry.kept_fp32["minimal"] and entry.kept_fp32["probes"] == len(bench.built) - 1 <= 13
    assert entry.verified and bench.plans() == ["model.plan"]
    kept = {name for nodes in entry.kept_fp32["groups"].values() for name in nodes}
    assert set((bench.folder / "model.plan").read_text().split("\n")) == kept
    assert entry.sha256 == entry_from_file(bench.folder, "model.plan", "filtered").sha256
    assert any("build 1 of at most 13" in step and "in fp32" in step for step in bench.steps)


def test_all_engines_of_a_precision_keep_the_same_layers(bench):
    """The first is built again when the second needs more; the second starts from what the first needed."""
    bench.wanted = {"model.plan": {"blocks.0.attn/Softmax"}, "full.plan": {"blocks.1.mlp.fc1/MatMul"}}
    entries = bench.engines(bench.gate(auto_fp32=True, auto_fp32_builds=20), "model", "full")
    assert [entry.path for entry in entries] == ["model.plan", "full.plan", "model.plan"]
    last = {entry.path: entry for entry in entries}
    for entry in last.values():
        assert set(entry.kept_fp32["groups"]) == {"attention of block 0", "MLP of block 1"} and entry.verified
        assert entry.sha256 == entry_from_file(bench.folder, entry.path, "filtered").sha256
    assert "blocks.0.attn/Softmax" in next(nodes for name, nodes in bench.built if name == "full")
    assert bench.plans() == ["full.plan", "model.plan"]


def test_what_the_graph_keeps_in_fp32_is_listed_with_what_the_engine_needs(bench):
    graph_kept = {"groups": {"residual adds": ["blocks.0/Add"]}, "minimal": True, "probes": 4}
    object.__setattr__(bench.graphs["model"], "kept_fp32", graph_kept)
    bench.wanted = {"model.plan": {"head/Gemm"}}
    (entry,) = bench.engines(bench.gate(auto_fp32=True), "model")
    assert set(entry.kept_fp32["groups"]) == {"residual adds", "layers after the last block"}


@pytest.mark.parametrize("builds", [1, 3])
def test_builds_are_bounded_for_all_engines_together(bench, builds):
    bench.wanted = {"model.plan": {"blocks.0.attn/Softmax"}, "full.plan": {"head/Gemm"}}
    gate = bench.gate(auto_fp32=True, auto_fp32_builds=builds)
    (entry,) = bench.engines(gate, "model")
    assert not entry.kept_fp32["minimal"] and len(bench.built) == 1 + builds
    bench.wanted["full.plan"] = {"a node that is in no group"}
    with pytest.raises(VerificationError, match=r"full.plan differs.*--auto-fp32-builds allows were built already"):
        bench.engines(gate, "full")
    assert bench.plans() == ["model.plan"]


def test_no_set_repairs_it(bench):
    bench.wanted = {"model.plan": {"a node that is in no group"}}
    with pytest.raises(VerificationError, match=r"model.plan differs: .*differs with all 7 groups of its layers"):
        bench.engines(bench.gate(auto_fp32=True), "model")
    assert bench.plans() == [] and len(bench.built) == 2


def test_a_build_that_fails_during_the_search_leaves_no_engine(bench):
    bench.wanted = {"model.plan": {"blocks.0.attn/Softmax"}}
    build, calls = bench.build("model"), []

    def failing(fp32):
        calls.append(fp32)
        if len(calls) == 4:
            raise EngineError("TensorRT cannot build it.")
        return build(fp32)

    with pytest.raises(EngineError, match="cannot build it"):
        list(bench.gate(auto_fp32=True).engines(bench.graphs["model"], failing))
    assert bench.plans() == []


def test_where_onnx_is_not_installed_the_search_names_the_package(bench, monkeypatch):
    bench.wanted = {"model.plan": {"blocks.0.attn/Softmax"}}
    monkeypatch.delitem(sys.modules, "tokfilter.export.layer_groups", raising=False)
    monkeypatch.setitem(sys.modules, "onnx_ir", None)
    with pytest.raises(MissingDependencyError, match=r"--auto-fp32 reads the graph, which needs the package onnx_ir"):
        bench.engines(bench.gate(auto_fp32=True), "model")
    assert Path(bench.folder / "model.fp16.onnx").is_file() and bench.plans() == []
