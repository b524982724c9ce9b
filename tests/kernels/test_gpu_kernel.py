"""The kernel on torch tensors: on a GPU, and, where no GPU is needed, on the CUDA-on-CPU layer."""

from pathlib import Path

import pytest
import torch
from built import KERNELS, built

from tokfilter.benchmarks.micro.kernel_cases import KernelCase, awkward_cases, random_cases, run_cases
from tokfilter.benchmarks.micro.native import (
    CpuKernel,
    GpuKernel,
    arguments_from_tensors,
    build_cpu_library,
    build_gpu_check,
    build_gpu_library,
)
from tokfilter.kernels.build import find_tool
from tokfilter.kernels.reference import token_select

TYPES = (torch.float32, torch.float16, torch.bfloat16)
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}
# batch, prefix, patches, channels, k: DeiT-S, ViT-L, registers, odd rows, one token, all tokens, the largest N
SIZES = [
    (1, 1, 196, 384, 98),
    (8, 1, 196, 384, 98),
    (1, 1, 1024, 1024, 512),
    (3, 5, 256, 33, 100),
    (2, 0, 7, 3, 7),
    (5, 1, 1, 1, 1),
    (1, 1, 8192, 8, 300),
]


@pytest.fixture(scope="module")
def on_gpu() -> GpuKernel:
    return GpuKernel(built(build_gpu_library, KERNELS))


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def kernel(request: pytest.FixtureRequest) -> tuple[str, GpuKernel]:
    """A torch device and the kernel for its tensors."""
    if request.param == "cuda":
        return "cuda", request.getfixturevalue("on_gpu")
    return "cpu", CpuKernel(built(build_cpu_library, KERNELS))


def inputs(device: str, size: tuple[int, ...], token_type: torch.dtype, score_type: torch.dtype):
    batch, prefix, patches, channels, _ = size
    generator = torch.Generator().manual_seed(sum(size))
    tokens = torch.randn(batch, prefix + patches, channels, generator=generator).to(token_type)
    scores = (torch.randn(batch, patches, generator=generator) * 4).round().to(score_type)  # many ties
    scores[:, :: max(1, patches // 5)] = torch.tensor(float("nan"))
    return tokens.to(device), scores.to(device)


def select(kernel: GpuKernel, tokens, scores, k: int, prefix: int, order: str):
    """Launch on the current stream; returns selected [B, P+k, C] and indices [B, k]."""
    batch, _, channels = tokens.shape
    selected = torch.empty(batch, prefix + k, channels, dtype=tokens.dtype, device=tokens.device)
    indices = torch.empty(batch, k, dtype=torch.int32, device=tokens.device)
    stream = torch.cuda.current_stream().cuda_stream if tokens.is_cuda else 0
    arguments = arguments_from_tensors(tokens, scores, selected, indices, prefix, order)
    assert kernel.launch(arguments, stream) == 0
    return selected, indices


def assert_as_the_reference(tokens, scores, selected, indices, prefix: int, order: str) -> None:
    bits = BITS[tokens.element_size()]
    wanted, positions = token_select(
        tokens.cpu().view(bits).numpy(), scores.cpu().float().numpy(), indices.shape[1], prefix, order
    )
    assert torch.equal(indices.cpu(), torch.from_numpy(positions))
    assert torch.equal(selected.cpu().view(bits), torch.from_numpy(wanted))


@pytest.mark.parametrize("order", ("position", "score"))
@pytest.mark.parametrize("score_type", TYPES)
@pytest.mark.parametrize("token_type", TYPES)
def test_every_type_and_size_equals_the_reference(kernel, token_type, score_type, order) -> None:
    device, launcher = kernel
    sizes = SIZES if device == "cuda" else [size for size in SIZES if size[2] * size[3] < 10_000]
    for size in sizes:
        tokens, scores = inputs(device, size, token_type, score_type)
        selected, indices = select(launcher, tokens, scores, size[4], size[1], order)
        assert_as_the_reference(tokens, scores, selected, indices, size[1], order)


def test_views_that_start_anywhere_equal_the_reference(kernel) -> None:
    device, launcher = kernel
    for start in (1, 2, 3, 7):
        tokens, scores = inputs(device, (2, 1, 60, 40, 20), torch.float16, torch.float32)
        storage = torch.empty(tokens.numel() + start, dtype=tokens.dtype, device=device)
        shifted = storage[start:].view(tokens.shape).copy_(tokens)
        selected, indices = select(launcher, shifted, scores, 20, 1, "position")
        assert_as_the_reference(tokens, scores, selected, indices, 1, "position")


def test_the_result_is_the_same_run_after_run(kernel) -> None:
    device, launcher = kernel
    tokens, scores = inputs(device, (2, 1, 196, 16, 98), torch.float16, torch.float16)
    first = select(launcher, tokens, scores, 98, 1, "score")
    for _ in range(3 if device == "cpu" else 200):
        again = select(launcher, tokens, scores, 98, 1, "score")
        assert torch.equal(first[0], again[0])
        assert torch.equal(first[1], again[1])


# ---- on a GPU only -----------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("order", ("position", "score"))
def test_a_captured_graph_follows_its_inputs(on_gpu: GpuKernel, order: str) -> None:
    size = (8, 1, 196, 384, 98)
    tokens, scores = inputs("cuda", size, torch.float16, torch.float16)
    select(on_gpu, tokens, scores, 98, 1, order)  # loads the kernel: lazy loading is not allowed during a capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        selected, indices = select(on_gpu, tokens, scores, 98, 1, order)
    for seed in range(3):
        scores.copy_(torch.randn(scores.shape, generator=torch.Generator().manual_seed(seed)))
        tokens.add_(1)
        graph.replay()
        torch.cuda.synchronize()
        assert_as_the_reference(tokens, scores, selected, indices, 1, order)


@pytest.mark.gpu
def test_a_launch_is_ordered_by_its_own_stream_only(on_gpu: GpuKernel) -> None:
    tokens, scores = inputs("cuda", (4, 1, 196, 384, 98), torch.float16, torch.float16)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)
        scores.neg_()
        selected, indices = select(on_gpu, tokens, scores, 98, 1, "position")
        assert not side.query()  # the launch returned while the stream was still busy
    side.synchronize()
    assert_as_the_reference(tokens, scores, selected, indices, 1, "position")


@pytest.mark.gpu
def test_more_images_than_a_grid_has_rows_on_the_gpu(on_gpu: GpuKernel) -> None:
    tokens, scores = inputs("cuda", (70_000, 0, 2, 4, 1), torch.float16, torch.float32)
    selected, indices = select(on_gpu, tokens, scores, 1, 0, "position")
    assert_as_the_reference(tokens, scores, selected, indices, 0, "position")


@pytest.mark.gpu
def test_all_cases_of_the_cpu_tests_pass_on_the_gpu() -> None:
    cases = [*awkward_cases(), *random_cases(1000, seed=2)]
    records = run_cases([built(build_gpu_check, KERNELS)], cases)
    assert [case for case, record in zip(cases, records, strict=True) if record["difference"]] == []


@pytest.mark.gpu
@pytest.mark.parametrize("tool", ("memcheck", "racecheck", "initcheck", "synccheck"))
def test_compute_sanitizer_finds_nothing(tool: str, tmp_path: Path) -> None:
    sanitizer = built(sanitizer_path)
    log = tmp_path / "log-%p.txt"
    command = [sanitizer, "--tool", tool, "--error-exitcode", "9", "--log-file", str(log)]
    cases = [*random_cases(60, seed=3), KernelCase(2, 1, 196, 384, 98), KernelCase(1, 1, 1024, 64, 512, order=1)]
    records = run_cases([*command, built(build_gpu_check, KERNELS)], cases)
    assert {record["difference"] for record in records} == {""}


def sanitizer_path() -> str:
    return find_tool(
        "compute-sanitizer", "/usr/local/cuda/bin/compute-sanitizer", hint="It comes with the CUDA toolkit."
    )
