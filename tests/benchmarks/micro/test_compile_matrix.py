"""The kernel's published figures: within limits, of the present sources, and the same when measured again."""

import json

import pytest
from paths import BUILD

from tokfilter.benchmarks.micro.compile_matrix import (
    ARCHITECTURES,
    MAX_PATCHES,
    Multiprocessor,
    compile_matrix,
    compiler,
    occupancy,
)
from tokfilter.benchmarks.micro.cycles import Kernel, busy_cycles, kernel_code
from tokfilter.benchmarks.micro.kernel_figures import README, RESULT, sources_digest, written_into
from tokfilter.errors import EngineError, MissingDependencyError

KERNELS = BUILD / "kernels"
FIGURES = json.loads(RESULT.read_text())
AGAIN = "run python -m tokfilter.benchmarks kernel-figures"


@pytest.fixture(scope="module")
def orin() -> list:
    """The kernel compiled for sm_87, and to PTX of the newest architecture."""
    try:
        return compile_matrix(KERNELS / "matrix", (87,))
    except MissingDependencyError as error:
        pytest.skip(str(error))


def test_the_figures_are_of_these_sources() -> None:
    assert FIGURES["sources"] == sources_digest(), f"the kernel changed: {AGAIN}"


def test_the_readmes_tables_are_those_of_the_document() -> None:
    text = README.read_text()
    assert written_into(text, FIGURES) == text, f"the README's tables are not those of the JSON: {AGAIN}"


def test_every_variant_is_recorded_on_every_architecture() -> None:
    found = {(one["architecture"], one["score_type"], one["keys_per_thread"]) for one in FIGURES["matrix"]}
    assert found == {(sm, score, keys) for sm in ARCHITECTURES for score in range(3) for keys, _ in MAX_PATCHES}
    assert {75, 80, 86, 87, 89, 90, 100, 120} <= set(ARCHITECTURES)


def test_no_spills_few_registers_high_occupancy() -> None:
    for one in FIGURES["matrix"]:
        assert one["spill_bytes"] == one["stack_bytes"] == 0, one
        assert one["registers"] <= 64, one
        assert one["occupancy"] >= 0.75, one


def test_token_bytes_are_the_minimum_and_scores_one_load_per_block() -> None:
    assert {(row["model"], row["batch"]) for row in FIGURES["traffic"]} == {
        (model, batch) for model in ("DeiT-S", "ViT-L") for batch in (1, 8, 64)
    }
    for row in FIGURES["traffic"]:
        assert row["minimum"] == 2 * row["batch"] * row["channels"] * (1 + row["k"]) * 2
        assert row["tokens_loaded"] + row["selected_stored"] == row["minimum"]
        assert row["scores_loaded"] <= row["blocks"] * row["patches"] * 4


def test_the_selection_takes_less_time_than_the_bytes() -> None:
    assert {(row["model"], row["order"]) for row in FIGURES["cycles"]} == {
        (model, order) for model in ("DeiT-S", "ViT-L") for order in ("position", "score")
    }
    for row in FIGURES["cycles"]:
        assert row["selection_microseconds"] < row["bytes_microseconds"], row


def test_compiling_again_gives_the_recorded_resources(orin: list) -> None:
    for one in orin:
        assert one.spill_bytes == 0
        assert one.registers <= 64
        assert one.occupancy >= 0.75
    if compiler() != FIGURES["compiler"]:
        pytest.skip(f"recorded with {FIGURES['compiler']}, here is {compiler()}")
    recorded = [one for one in FIGURES["matrix"] if one["architecture"] == 87]
    assert sorted(one["registers"] for one in recorded) == sorted(one.registers for one in orin)


def test_counting_cycles_again_gives_the_recorded_ones(orin: list) -> None:
    if compiler() != FIGURES["compiler"]:
        pytest.skip(f"recorded with {FIGURES['compiler']}, here is {compiler()}")
    try:
        kernel = kernel_code(KERNELS / "matrix" / "sm_87.cubin", 0, 1)
    except MissingDependencyError as error:
        pytest.skip(str(error))
    (row,) = [row for row in FIGURES["cycles"] if (row["model"], row["order"]) == ("DeiT-S", "position")]
    assert round(busy_cycles(kernel, "position", 256, 32, 99)) == row["cycles_per_block"]
    assert busy_cycles(kernel, "position", 256, 16, 99) < row["cycles_per_block"]
    with pytest.raises(EngineError, match="No kernel for score type 7"):
        kernel_code(KERNELS / "matrix" / "sm_87.cubin", 7, 1)


@pytest.mark.parametrize(
    ("sm", "threads", "registers", "shared", "fraction"),
    [
        (ARCHITECTURES[87], 256, 40, 1568, 1.0),  # 6 blocks of 1,536 threads
        (ARCHITECTURES[90], 256, 40, 1568, 0.75),  # registers allow 48 warps of 64
        (ARCHITECTURES[90], 256, 32, 1568, 1.0),
        (ARCHITECTURES[75], 512, 64, 1600, 1.0),
        (ARCHITECTURES[80], 256, 255, 0, 0.125),  # 8,192 registers per warp: one block of eight warps
        (Multiprocessor(1024, 16, 64 << 10), 256, 16, 31 << 10, 0.5),  # shared memory allows two blocks
        (Multiprocessor(2048, 4, 64 << 10), 128, 16, 0, 0.25),  # at most four blocks
    ],
)
def test_occupancy(sm: Multiprocessor, threads: int, registers: int, shared: int, fraction: float) -> None:
    assert occupancy(sm, threads, registers, shared) == fraction


def test_code_with_other_loops_is_refused() -> None:
    with pytest.raises(EngineError, match="expected three searches"):
        busy_cycles(Kernel((("IADD3", ""), ("BRA", "")), ((0, 1),)), "position", 256, 32, 8)
