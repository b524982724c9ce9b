"""The plugin inside TensorRT on a GPU: engines of one node, engines of a model, CUDA graphs, errors.

``make test-gpu`` runs this on any NVIDIA machine with TensorRT 10.3 or later. The function body, which is
used without the plugin, must give the same results, in TensorRT-RTX too.
"""

import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx.parser
import onnx_ir as ir
import pytest
import torch
from paths import ROOT
from torch import Tensor

from tokfilter.artifacts.bundle import Bundle
from tokfilter.artifacts.compare import TOLERANCES, compare_indices, compare_logits
from tokfilter.benchmarks.micro.methods import plan_from_graph
from tokfilter.errors import MissingDependencyError
from tokfilter.export.graph import fixed_graph_from_slots, slots_graph_from_model, without_functions
from tokfilter.kernels.build import build_plugin
from tokfilter.kernels.onnx_function import token_select_function
from tokfilter.kernels.torch_op import token_select
from tokfilter.trt.engine import engine_from_memory
from tokfilter.trt.log import error_log
from tokfilter.trt.module import tensorrt_module
from tokfilter.trt.plugins import load_plugins
from tokfilter.vit.bundle import model_from_bundle

pytestmark = pytest.mark.gpu

Shapes = dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
"""Input -> its smallest and largest shape."""

DTYPES = {"float": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# (batch, patches, channels, k): one token, all kept, odd rows, the shapes of DeiT-S and ViT-L.
SIZES = [(1, 1, 1, 1), (2, 5, 3, 5), (3, 33, 7, 16), (8, 196, 384, 98), (2, 1024, 1024, 512)]


@pytest.fixture(scope="module")
def library() -> Path:
    built = build_plugin(ROOT / "build" / "plugin-gpu", architectures="native", fetch=True)
    assert built.dynamic is not None
    return built.dynamic


@pytest.fixture(scope="module")
def module(library: Path) -> Any:
    """TensorRT's Python module, with the plugin in its registry."""
    try:
        module = tensorrt_module("tensorrt")
    except MissingDependencyError as error:
        pytest.skip(str(error))
    load_plugins(module, module.get_plugin_registry(), {library.name: library})
    return module


class Engine:
    """An engine of a graph with its own types, TF32 off, run on torch's tensors."""

    def __init__(self, module: Any, graph: onnx.ModelProto, shapes: Shapes | None = None) -> None:
        self.errors = error_log(module).errors
        profile = {name: (low, high, high) for name, (low, high) in (shapes or {}).items()}
        self.plan = plan_from_graph(module, graph.SerializeToString(), profile)
        self.engine, self.runtime = engine_from_memory(module, self.plan)
        self.context = self.engine.create_execution_context()
        self.tensors: dict[str, Tensor] = {}

    def bind(self, inputs: dict[str, Tensor], outputs: dict[str, Tensor]) -> bool:
        """Set shapes and addresses. False where TensorRT refuses a shape."""
        self.tensors = inputs | outputs
        accepted = [self.context.set_input_shape(name, tuple(t.shape)) for name, t in inputs.items()]
        for name, tensor in self.tensors.items():
            self.context.set_tensor_address(name, tensor.data_ptr())
        return all(accepted)

    def enqueue(self) -> bool:
        return bool(self.context.execute_async_v3(torch.cuda.current_stream().cuda_stream))

    def run(self, inputs: dict[str, Tensor], outputs: dict[str, Tensor]) -> None:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            assert self.bind(inputs, outputs), self.errors
            assert self.enqueue(), self.errors
        stream.synchronize()


NODE = """
<ir_version: 10, opset_import: ["" : 18, "tokfilter" : 1]>
select ({tokens}[b, r, {channels}] tokens, {scores}[b, n] scores{slots})
    => ({tokens}[b, s, {channels}] selected, int32[b, k] indices)
{{
  selected, indices = tokfilter.TokenSelect <k = {k}, prefix_tokens = {prefix}, order = "{order}",
    plugin_namespace = "tokfilter", plugin_version = "1"> (tokens, scores{slots_name})
}}
"""


def node_graph(tokens: str, scores: str, channels: int, k: int, prefix: int, order: str) -> onnx.ModelProto:
    """One node with dynamic batch and patches; k = 0 adds slots. Without a function, so it needs the plugin."""
    slots, slots_name = (", int32[k] slots", ", slots") if k == 0 else ("", "")
    names = {"slots": slots, "slots_name": slots_name, "k": k, "prefix": prefix, "order": order}
    return onnx.parser.parse_model(NODE.format(tokens=tokens, scores=scores, channels=channels, **names))


def awkward(batch: int, prefix: int, patches: int, channels: int, types: tuple[str, str]) -> tuple[Tensor, Tensor]:
    """Tokens and scores on the GPU, the scores full of ties, zeros of both signs, infinities and NaNs."""
    generator = torch.Generator().manual_seed(batch * patches + channels)
    tokens = torch.randn(batch, prefix + patches, channels, generator=generator)
    scores = torch.randint(-3, 4, (batch, patches), generator=generator).float()
    special = torch.tensor([float("nan"), float("inf"), float("-inf"), -0.0])
    where = torch.rand(batch, patches, generator=generator) < 0.3
    scores[where] = special[torch.randint(0, 4, (int(where.sum()),), generator=generator)]
    return tokens.to(DTYPES[types[0]]).cuda(), scores.to(DTYPES[types[1]]).cuda()


def empty_outputs(tokens: Tensor, prefix: int, k: int) -> dict[str, Tensor]:
    batch, _, channels = tokens.shape
    return {
        "selected": tokens.new_full((batch, prefix + k, channels), 7),
        "indices": torch.full((batch, k), -7, dtype=torch.int32, device="cuda"),
    }


def assert_selects(outputs: dict[str, Tensor], tokens: Tensor, scores: Tensor, k: int, prefix: int, order: str) -> None:
    selected, indices = token_select(tokens, scores, k, prefix, order)
    assert torch.equal(outputs["indices"], indices)
    assert torch.equal(outputs["selected"].view(torch.uint8), selected.view(torch.uint8))


@pytest.fixture(scope="module", params=["plugin", "function in tensorrt", "function in tensorrt-rtx"])
def way(request: pytest.FixtureRequest) -> tuple[Any, bool]:
    """TensorRT's module or TensorRT-RTX's, and whether the function body is used instead of the plugin."""
    if request.param == "plugin":
        return request.getfixturevalue("module"), False
    try:
        return tensorrt_module(request.param.removeprefix("function in ")), True
    except MissingDependencyError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("types", list(product(DTYPES, DTYPES)), ids="-".join)
@pytest.mark.parametrize("order", ["position", "score"])
def test_engine_of_one_node_equals_torch(way: tuple[Any, bool], types: tuple[str, str], order: str) -> None:
    native, by_function = way
    if "bfloat16" in types and native.__version__.startswith("8."):
        pytest.skip("TensorRT 8.x has no BF16")
    for number, (batch, patches, channels, k) in enumerate(SIZES):
        prefix = (0, 1, 5)[number % 3]
        shapes: Shapes = {
            "tokens": ((1, prefix + patches, channels), (batch, prefix + patches, channels)),
            "scores": ((1, patches), (batch, patches)),
        }
        graph = node_graph(*types, channels, k, prefix, order)
        if by_function:
            graph.functions.append(token_select_function(18, "attribute", order))
            graph = onnx.inliner.inline_local_functions(graph)
        engine = Engine(native, graph, shapes)
        for rows in {1, batch}:
            tokens, scores = awkward(rows, prefix, patches, channels, types)
            outputs = empty_outputs(tokens, prefix, k)
            engine.run({"tokens": tokens, "scores": scores}, outputs)
            assert_selects(outputs, tokens, scores, k, prefix, order)


@pytest.fixture(scope="module")
def chosen(module: Any) -> Engine:
    """A budget chosen at run time: 1 to 196 of up to 196 patches, 1 to 4 images."""
    shapes: Shapes = {
        "tokens": ((1, 17, 64), (4, 197, 64)),
        "scores": ((1, 16), (4, 196)),
        "slots": ((1,), (196,)),
    }
    return Engine(module, node_graph("float16", "float", 64, 0, 1, "position"), shapes)


@pytest.mark.parametrize("k", [1, 37, 98, 196])
def test_budget_is_the_length_of_slots(chosen: Engine, k: int) -> None:
    tokens, scores = awkward(3, 1, 196, 64, ("float16", "float"))
    outputs = empty_outputs(tokens, 1, k)
    chosen.run({"tokens": tokens, "scores": scores, "slots": torch.zeros(k, dtype=torch.int32).cuda()}, outputs)
    assert_selects(outputs, tokens, scores, k, 1, "position")


def test_a_budget_above_the_patches_is_an_error(chosen: Engine) -> None:
    tokens, scores = awkward(1, 1, 16, 64, ("float16", "float"))
    chosen.errors.clear()
    inputs = {"tokens": tokens, "scores": scores, "slots": torch.zeros(17, dtype=torch.int32).cuda()}
    assert not (chosen.bind(inputs, empty_outputs(tokens, 1, 17)) and chosen.enqueue())
    assert "budget k between 1 and 16 patch tokens, got 17" in " ".join(chosen.errors)


def test_capture_in_a_cuda_graph_and_replay_on_new_inputs(chosen: Engine) -> None:
    tokens, scores = awkward(2, 1, 196, 64, ("float16", "float"))
    inputs = {"tokens": tokens, "scores": scores, "slots": torch.zeros(98, dtype=torch.int32).cuda()}
    outputs = empty_outputs(tokens, 1, 98)
    chosen.run(inputs, outputs)  # the first enqueue after a change of shapes must not be captured
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        assert chosen.enqueue(), chosen.errors
    for seed in range(3):
        torch.manual_seed(seed)
        tokens.copy_(torch.randn_like(tokens))
        scores.copy_(torch.randint_like(scores, -9, 9))
        for tensor in outputs.values():
            tensor.zero_()
        graph.replay()
        torch.cuda.synchronize()
        assert_selects(outputs, tokens, scores, 98, 1, "position")


def test_repeated_runs_give_the_same_bits(chosen: Engine) -> None:
    tokens, scores = awkward(4, 1, 196, 64, ("float16", "float"))
    inputs = {"tokens": tokens, "scores": scores, "slots": torch.zeros(77, dtype=torch.int32).cuda()}
    first, again = empty_outputs(tokens, 1, 77), empty_outputs(tokens, 1, 77)
    chosen.run(inputs, first)
    for _ in range(20):
        chosen.run(inputs, again)
        assert torch.equal(first["indices"], again["indices"])
        assert torch.equal(first["selected"].view(torch.uint8), again["selected"].view(torch.uint8))


def model_graphs(bundle: Bundle, k: int | None) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The bundle's graph for the plugin, and the same with native operators; k None for a free budget."""
    slots = slots_graph_from_model(model_from_bundle(bundle))
    graph = slots if k is None else fixed_graph_from_slots(slots, k)
    native = onnx.inliner.inline_local_functions(ir.to_proto(graph.clone()))
    return ir.to_proto(without_functions(graph)), native


@pytest.mark.parametrize("free", [True, False], ids=["slots", "fixed"])
def test_model_on_golden_tensors_with_plugin_with_native_ops_and_in_torch(
    module: Any, bundle: Bundle, free: bool
) -> None:
    golden = bundle.golden
    images, budgets = golden.images.cuda(), sorted(golden.logits)
    for k in budgets if not free else [None]:
        shapes: Shapes = {"images": ((1, *images.shape[1:]), tuple(images.shape))}
        if k is None:
            shapes["slots"] = ((min(budgets),), (max(budgets),))
        engines = [Engine(module, graph, shapes) for graph in model_graphs(bundle, k)]
        for kept in budgets if k is None else [k]:
            inputs = {"images": images}
            if k is None:
                inputs["slots"] = torch.zeros(kept, dtype=torch.int32).cuda()
            found = [run_model(engine, inputs, golden.logits[kept].shape, kept) for engine in engines]
            for logits, indices in found:
                assert_golden(bundle, kept, logits, indices)


def run_model(engine: Engine, inputs: dict[str, Tensor], shape: torch.Size, k: int) -> tuple[np.ndarray, np.ndarray]:
    outputs = {
        "logits": torch.empty(shape, device="cuda"),
        "indices": torch.empty(shape[0], k, dtype=torch.int32, device="cuda"),
    }
    engine.run(inputs, outputs)
    return outputs["logits"].cpu().numpy(), outputs["indices"].cpu().numpy()


def assert_golden(bundle: Bundle, k: int, logits: np.ndarray, indices: np.ndarray) -> None:
    golden = bundle.golden
    choice = compare_indices(indices, golden.indices[k].numpy(), golden.scores.numpy())
    assert not choice.errors
    same = np.flatnonzero((indices == golden.indices[k].numpy()).all(axis=1))
    assert len(same), "every image has a near tie: the logits are not compared"
    deviation = compare_logits(logits[same], golden.logits[k].numpy()[same], TOLERANCES["fp32"])
    assert not deviation.errors


FRESH = """
import sys
import tensorrt as trt
logger = trt.Logger(trt.Logger.ERROR)
assert trt.get_plugin_registry().load_library(sys.argv[1]) is not None
engine = trt.Runtime(logger).deserialize_cuda_engine(open(sys.argv[2], "rb").read())
sys.exit(0 if engine is not None else "the plan cannot be read")
"""


def test_plan_is_read_in_a_fresh_process(chosen: Engine, library: Path, tmp_path: Path) -> None:
    plan = tmp_path / "select.plan"
    plan.write_bytes(bytes(chosen.plan))
    result = subprocess.run(
        [sys.executable, "-c", FRESH, str(library), str(plan)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
