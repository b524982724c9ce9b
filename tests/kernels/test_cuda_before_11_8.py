"""cudaLaunchKernelEx() for CUDA before 11.8: how it passes a launch on to cudaLaunchKernel().

CUDA 11.4 (JetPack 5) cannot be had here. The header was compiled with the kernel by clang 16 on headers of CUDA 11.7,
for sm_72 and sm_87, and ptxas 11.7 assembled both without spills; without the header the kernel does not compile there.
"""

import subprocess
from pathlib import Path

from paths import ROOT

RUNTIME = """
#pragma once
#define CUDART_VERSION {version}
#include <cstddef>
struct dim3 {{ unsigned x, y, z; }};
using cudaStream_t = struct Stream*;
enum cudaError_t {{ cudaSuccess = 0, cudaErrorNoDevice = 100 }};
cudaError_t cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void** arguments, std::size_t shared,
                             cudaStream_t stream);
"""

PROGRAM = """
#include "plugin/cuda_before_11_8.h"

#include <cstdint>
#include <cstdio>

struct Shape { std::int64_t batch; int k; bool by_score; };

void kernel(const unsigned char*, std::int64_t, int*, Shape) {}

cudaError_t answer = cudaSuccess;
int failures = 0;
void check(bool holds, const char* what) {
    if (!holds) { ++failures; std::printf("FAILED: %s\\n", what); }
}

unsigned char tokens[4];
int indices[4];

cudaError_t cudaLaunchKernel(const void* launched, dim3 grid, dim3 block, void** arguments, std::size_t shared,
                             cudaStream_t stream) {
    check(launched == reinterpret_cast<const void*>(&kernel), "the kernel");
    check(grid.x == 1 && grid.y == 2 && grid.z == 3 && block.x == 256, "grid and block");
    check(shared == 48 && stream == reinterpret_cast<cudaStream_t>(0x10), "shared memory and stream");
    check(*static_cast<const unsigned char**>(arguments[0]) == tokens, "a pointer that became const");
    check(*static_cast<std::int64_t*>(arguments[1]) == -7, "an int widened to the parameter's 64 bits");
    check(*static_cast<int**>(arguments[2]) == indices, "a pointer");
    const Shape& shape = *static_cast<Shape*>(arguments[3]);
    check(shape.batch == (std::int64_t{1} << 40) && shape.k == 98 && shape.by_score, "a struct");
    return answer;
}

int main() {
    cudaLaunchConfig_t config{};
    config.gridDim = {1, 2, 3};
    config.blockDim = {256, 1, 1};
    config.dynamicSmemBytes = 48;
    config.stream = reinterpret_cast<cudaStream_t>(0x10);
    const Shape shape{std::int64_t{1} << 40, 98, true};
    for (const cudaError_t expected : {cudaSuccess, cudaErrorNoDevice}) {
        answer = expected;
        check(cudaLaunchKernelEx(&config, kernel, tokens, -7, indices, shape) == expected, "the status");
    }
    return failures;
}
"""


def compiled(folder: Path, version: int) -> subprocess.CompletedProcess[str]:
    """The program with a CUDA of this version; ``folder/program``."""
    (folder / "cuda_runtime.h").write_text(RUNTIME.format(version=version))
    (folder / "program.cpp").write_text(PROGRAM)
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined"]
    includes = ["-I", str(folder), "-I", str(ROOT / "kernels" / "csrc")]
    command = ["c++", *flags, *includes, str(folder / "program.cpp"), "-o", str(folder / "program")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_arguments_and_status_pass_through(tmp_path: Path) -> None:
    build = compiled(tmp_path, 11040)
    assert build.returncode == 0, build.stderr
    result = subprocess.run([str(tmp_path / "program")], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_it_is_refused_where_cuda_has_the_function(tmp_path: Path) -> None:
    build = compiled(tmp_path, 11080)
    assert build.returncode != 0 and "This CUDA has cudaLaunchKernelEx()." in build.stderr
