"""The kernel's launcher: validation of its arguments, and CUDA errors as return values."""

import shutil
import subprocess
from pathlib import Path

import pytest
from built import KERNELS, built

from tokfilter.benchmarks.micro.kernel_cases import KernelCase, stream_of
from tokfilter.benchmarks.micro.native import (
    Arguments,
    CpuKernel,
    GpuKernel,
    build_check,
    build_cpu_library,
    build_gpu_check,
    build_gpu_library,
)
from tokfilter.errors import EngineError
from tokfilter.kernels.op import ORDERS

NO_DRIVER = (35, 100)  # cudaErrorInsufficientDriver, cudaErrorNoDevice


@pytest.fixture(scope="module")
def kernel() -> CpuKernel:
    return CpuKernel(built(build_cpu_library, KERNELS))


HUGE = 2**31
INVALID = [
    ({"k": 0}, "k must be at least 1"),
    ({"k": 10}, "k must not exceed the number of patches"),
    ({"prefix": -1}, "prefix must not be negative"),
    ({"patches": 0}, "patches must be at least 1"),
    ({"channels": 0}, "channels must be at least 1"),
    ({"batch": 0}, "batch must be at least 1"),
    ({"element_size": 8}, "element_size must be 1, 2 or 4"),
    ({"score_type": 3}, "score_type must be float32"),
    ({"order": 2}, "order must be position or score"),
    ({"patches": 8193}, "at most 8192"),
    ({"batch": HUGE}, "batch must be below 2^31"),
    ({"prefix": HUGE - 1}, "prefix + patches must be below 2^31"),
    ({"channels": HUGE // 2}, "below 2^31 bytes"),
    ({"batch": HUGE - 1, "prefix": HUGE - 100, "channels": HUGE // 2 - 1}, "below 2^63 bytes"),
    ({"tokens": None}, "tokens must not be null"),
    ({"scores": None}, "scores must not be null"),
    ({"selected": None}, "selected must not be null"),
    ({"tokens": 0x1001}, "tokens must be aligned to element_size"),
    ({"selected": 0x20001}, "selected must be aligned to element_size"),
    ({"scores": 0x10002}, "scores must be aligned"),
    ({"indices": 0x30002}, "indices must be aligned"),
    ({"selected": 0x1010}, "selected must not overlap tokens"),
    ({"selected": 0x10004}, "selected must not overlap scores"),
    ({"indices": 0x20004}, "selected must not overlap indices"),
    ({"indices": 0x1004}, "indices must not overlap tokens"),
    ({"indices": 0x10004}, "indices must not overlap scores"),
]


def valid_arguments(**changes: object) -> Arguments:
    """Valid arguments with inaccessible addresses, and the changes applied."""
    addresses = {"tokens": 0x1000, "scores": 0x10000, "selected": 0x20000, "indices": 0x30000}
    sizes = {"batch": 1, "prefix": 1, "patches": 9, "channels": 8, "k": 3}
    return Arguments(**{**addresses, **sizes, "element_size": 2, "score_type": 0, "order": 0, **changes})


@pytest.mark.parametrize(("changes", "message"), INVALID, ids=[message for _, message in INVALID])
def test_an_invalid_argument_is_named_and_nothing_is_launched(kernel: CpuKernel, changes: dict, message: str) -> None:
    arguments = valid_arguments(**changes)
    error = kernel.validate(arguments)
    assert error is not None
    assert message in error
    assert kernel.launch(arguments) == 1  # cudaErrorInvalidValue; these addresses would fault if anything ran


def test_valid_arguments_have_no_error(kernel: CpuKernel) -> None:
    assert kernel.validate(valid_arguments()) is None
    assert kernel.validate(valid_arguments(indices=None)) is None


@pytest.mark.parametrize("cause", ("runtime_error", "launch_error"))
def test_a_cuda_error_is_the_return_value(kernel: CpuKernel, cause: str) -> None:
    kernel.set_device(**{cause: 100})
    try:
        assert kernel.launch(valid_arguments()) == 100
    finally:
        kernel.set_device()


def test_the_real_launcher_without_a_gpu_returns_the_cuda_error() -> None:
    real = GpuKernel(built(build_gpu_library, KERNELS, "compute_75"))
    assert "k must be at least 1" in str(real.validate(valid_arguments(k=0)))
    assert real.launch(valid_arguments(k=0)) == 1
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine has a GPU: tests/kernels/test_gpu_kernel.py runs the launcher on it")
    assert real.launch(valid_arguments()) in NO_DRIVER


def test_the_gpu_check_reports_a_missing_gpu() -> None:
    program = built(build_gpu_check, KERNELS, "compute_75")
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine has a GPU: tests/kernels/test_gpu_kernel.py runs the check on it")
    result = subprocess.run([program], input=stream_of(KernelCase(1, 1, 9, 4, 3)), capture_output=True, check=False)
    assert result.returncode == 3
    assert b"cudaError" in result.stderr


def test_a_truncated_case_is_an_error() -> None:
    program = built(build_check, "check_cases", KERNELS)
    result = subprocess.run(
        [program], input=stream_of(KernelCase(1, 1, 9, 4, 3))[:-1], capture_output=True, check=False
    )
    assert result.returncode == 2
    assert b"is truncated" in result.stderr


def test_a_kernel_that_does_not_compile_is_an_error_with_the_compilers_message(tmp_path: Path) -> None:
    (tmp_path / "token_select.cu").write_text("this is no CUDA")
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    with pytest.raises(EngineError, match="did not build"):
        build_check("check_cases", tmp_path, "", tmp_path / "token_select.cu")


def test_the_orders_equal_the_launchers_enum() -> None:
    assert ORDERS == ("position", "score")  # Order::kPosition = 0, Order::kScore = 1
