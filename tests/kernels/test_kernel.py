"""The CUDA kernel on the CUDA-on-CPU layer, under sanitizers: results equal the reference, traffic is minimal."""

import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from built import KERNELS, built
from hypothesis import given, settings
from hypothesis import strategies as st

from tokfilter.benchmarks.micro.kernel_cases import KernelCase, awkward_cases, random_cases, run_cases, tensors_of
from tokfilter.benchmarks.micro.native import KERNEL, Arguments, CpuKernel, build_check, build_cpu_library
from tokfilter.errors import EngineError
from tokfilter.kernels.reference import token_select


@pytest.fixture(scope="module")
def kernel() -> CpuKernel:
    return CpuKernel(built(build_cpu_library, KERNELS))


def check_cases(cases: Iterable[KernelCase]) -> int:
    """Run the cases under the memory sanitizers; fail at a difference. Returns the number of cases."""
    cases = list(cases)
    records = run_cases([built(build_check, "check_cases", KERNELS)], cases)
    different = [
        (case, record["difference"]) for case, record in zip(cases, records, strict=True) if record["difference"]
    ]
    assert not different, different[:3]
    return len(cases)


def arguments_for(case: KernelCase, tokens, scores, selected, indices) -> Arguments:
    address = [None if array is None else array.ctypes.data for array in (tokens, scores, selected, indices)]
    sizes = (case.batch, case.prefix_tokens, case.num_patches, case.channels, case.k)
    return Arguments(*address, *sizes, case.element_size, case.score_type, case.order)


def launch(kernel: CpuKernel, case: KernelCase):
    """The kernel's outputs for a case and the reference's."""
    tensors = tensors_of(case)
    selected, indices = np.zeros_like(tensors.selected), np.zeros_like(tensors.indices)
    arguments = arguments_for(case, tensors.tokens, tensors.scores, selected, indices)
    assert kernel.launch(arguments) == 0, kernel.last_launch().report
    return tensors, selected, indices


# ---- under sanitizers --------------------------------------------------------------------------------------


def test_awkward_sizes_are_bit_equal_and_clean() -> None:
    assert check_cases(awkward_cases()) > 150


@pytest.mark.slow
def test_two_thousand_random_cases_are_bit_equal_and_clean() -> None:
    assert check_cases(random_cases(2000)) == 2000


def run_watched_for_races(program: Path, cases: list[KernelCase]) -> list[dict]:
    try:
        return run_cases([program], cases)
    except EngineError as error:
        if "unexpected memory mapping" not in str(error):
            raise
    # gcc 12's ThreadSanitizer does not support the address randomisation of newer kernels.
    setarch = shutil.which("setarch")
    if setarch is None:
        pytest.skip("ThreadSanitizer cannot run at this machine's addresses, and there is no setarch to fix them")
    return run_cases([setarch, "-R", program], cases)


def test_no_races_on_shared_memory() -> None:
    sizes = [(2, 196, 9, 98), (1, 300, 3, 130), (1, 1500, 1, 20), (1, 5000, 1, 3)]
    cases = [
        KernelCase(batch, 1, patches, channels, k, order=order, score_type=order, scores="ties", multiprocessors=1)
        for batch, patches, channels, k in sizes
        for order in (0, 1)
    ]
    records = run_watched_for_races(built(build_check, "check_cases", KERNELS, "race"), cases)
    assert [record["difference"] for record in records] == [""] * len(cases)


# Mutants of the kernel, each with one plausible defect: file, correct text, defective text, expected finding.
MUTANTS = {
    "warps leave early": (
        "token_select.cu",
        "    if (shape.by_score)",
        "    if (warp_index() * 32 >= shape.patches) return;\n    if (shape.by_score)",
        "barrier divergence",
    ),
    "vector past the row": ("copy_row.cuh", "kWarpSize < left", "kWarpSize <= left", "out of bounds"),
    "one tie too many": ("choose_rows.cuh", "at_before < ties", "at_before <= ties", "differ"),
    "NaN as largest": ("choose_rows.cuh", "if (magnitude > kInfinity)", "if (false)", "differ"),
    "two zeros": ("choose_rows.cuh", "if (magnitude == 0)", "if (false)", "differ"),
    "rows loaded twice": ("copy_row.cuh", "held[u] =", "load_global(source), held[u] =", "bytes loaded"),
}
MISSING_BARRIER = ("choose_rows.cuh", "= own_warp;\n    __syncthreads();", "= own_warp;")
MUTANT_CASES = [
    KernelCase(1, 1, 70, 264, 35, order=order, schedule=schedule, scores=scores, seed=schedule)
    for order in (0, 1)
    for schedule in (0, 1)
    for scores in ("normal", "special", "ties")
]


def mutant(folder: Path, file: str, sound: str, defective: str, sanitizer: str = "") -> Path:
    """Build the check on a copy of the kernel's sources with one text replaced."""
    for path in KERNEL.parent.glob("*.cu*"):
        text = path.read_text()
        if path.name == file:
            assert sound in text
            text = text.replace(sound, defective)
        (folder / path.name).write_text(text)
    return built(build_check, "check_cases", KERNELS, sanitizer, folder / KERNEL.name)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_found(name: str, tmp_path: Path) -> None:
    *change, sign = MUTANTS[name]
    records = run_cases([mutant(tmp_path, *change)], MUTANT_CASES)
    assert any(sign in record["difference"] for record in records), records


def test_a_missing_barrier_is_found(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="data race"):
        run_watched_for_races(mutant(tmp_path, *MISSING_BARRIER, "race"), MUTANT_CASES)


# ---- call by call ------------------------------------------------------------------------------------------


@given(
    patches=st.integers(1, 300),
    budget=st.floats(0, 1),
    prefix=st.integers(0, 3),
    channels=st.integers(1, 40),
    order=st.integers(0, 1),
    score_type=st.integers(0, 2),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=40, deadline=None)
def test_every_call_equals_the_reference(kernel, patches, budget, prefix, channels, order, score_type, seed) -> None:
    k = max(1, round(budget * patches))
    case = KernelCase(1, prefix, patches, channels, k, 4, score_type, order, seed=seed, scores="special")
    tensors, selected, indices = launch(kernel, case)
    np.testing.assert_array_equal(selected, tensors.selected)
    np.testing.assert_array_equal(indices, tensors.indices)


@pytest.mark.parametrize("order", (0, 1))
def test_the_result_does_not_depend_on_how_many_blocks_share_an_image(kernel: CpuKernel, order: int) -> None:
    blocks = set()
    for multiprocessors in (1, 2, 3, 5, 16, 132):
        kernel.set_device(multiprocessors)
        tensors, selected, _ = launch(kernel, KernelCase(1, 1, 196, 8, 98, order=order, scores="ties"))
        np.testing.assert_array_equal(selected, tensors.selected)
        blocks.add(kernel.last_launch().blocks)
    kernel.set_device()
    assert len(blocks) > 3


def test_one_image_spreads_over_blocks_and_many_images_take_one_each(kernel: CpuKernel) -> None:
    launch(kernel, KernelCase(1, 1, 196, 16, 98))
    assert kernel.last_launch().blocks == 13  # a row per warp
    launch(kernel, KernelCase(64, 1, 196, 16, 98))
    assert kernel.last_launch().blocks == 64


def test_more_images_than_a_grid_has_rows(kernel: CpuKernel, tmp_path: Path) -> None:
    # Layers of three images instead of 65,535, so that a batch of eight fills two and a part of the third.
    few = mutant(tmp_path, "token_select.cu", "kMaxGridY = 65535", "kMaxGridY = 3")
    records = run_cases([few], [KernelCase(batch, 1, 9, 4, 3, multiprocessors=1) for batch in (1, 2, 3, 4, 6, 7, 8)])
    assert {record["difference"] for record in records} == {""}
    # The layer checks the limits of a grid before it returns the error set here.
    kernel.set_device(launch_error=719)
    status = kernel.launch(Arguments(1 << 20, 2 << 20, 3 << 20, None, 70_000, 0, 1, 1, 1, 1, 0, 0))
    kernel.set_device()
    assert status == 719


def test_tokens_beyond_two_to_the_32_elements(kernel: CpuKernel) -> None:
    tokens = np.zeros((1, 4097, 1 << 20), np.uint8)  # pages that are never written take no memory
    scores = np.arange(4096, dtype=np.float32)[None]
    tokens[0, 4095:, :] = [[3], [7]]
    case = KernelCase(1, 1, 4096, 1 << 20, 2, 1)
    selected, indices = np.zeros((1, 3, 1 << 20), np.uint8), np.zeros((1, 2), np.int32)
    assert kernel.launch(arguments_for(case, tokens, scores, selected, indices)) == 0
    expected, positions = token_select(tokens, scores, 2)
    np.testing.assert_array_equal(selected, expected)
    np.testing.assert_array_equal(indices, positions)


def test_indices_are_optional(kernel: CpuKernel) -> None:
    tensors = tensors_of(KernelCase(1, 1, 9, 4, 3))
    selected = np.zeros_like(tensors.selected)
    arguments = arguments_for(KernelCase(1, 1, 9, 4, 3), tensors.tokens, tensors.scores, selected, None)
    assert kernel.launch(arguments) == 0
    np.testing.assert_array_equal(selected, tensors.selected)
