"""The CUDA-on-CPU layer: correct kernels give known results, and defective kernels are reported."""

import subprocess

import pytest
from built import KERNELS, built

from tokfilter.benchmarks.micro.native import build_check

CORRECT = ("reverse_through_shared", "rotate_through_dynamic_shared", "warp_operations", "block_votes_and_atomics")
DEFECTS = {
    "some_leave_before_the_barrier": ("barrier divergence: thread 0 waits at a block barrier", "thread 48 has left"),
    "two_different_barriers": ("barrier divergence", "thread 32 waits at a block barrier"),
    "barrier_against_ballot": ("barrier divergence", "waits in a ballot", "with mask 4294967295"),
    "caller_outside_its_mask": ("with mask 65535, which leaves out the calling lane", "thread 16"),
    "lanes_of_the_mask_stay_away": ("waits in a shuffle", "thread 16 has left the kernel"),
    "load_past_the_end": ("load of 4 bytes at in[256] is out of bounds (in has 256 bytes)",),
    "store_before_the_start": ("store of 4 bytes at out[-4] is out of bounds",),
    "misaligned_load": ("misaligned load of 16 bytes",),
    "store_to_an_input": ("store of 4 bytes at in[0] goes the wrong way",),
    "two_threads_store_one_word": ("out[0] was stored before in this launch",),
    "access_around_the_layer": ("AddressSanitizer: SEGV",),
    "static_shared_past_the_end": ("index 64 out of bounds",),
    "dynamic_shared_past_the_end": ("AddressSanitizer: use-after-poison",),
    "missing_barrier": ("wrong result",),
}


def run_check_layer(name: str) -> str:
    result = subprocess.run(
        [built(build_check, "check_layer", KERNELS), name], capture_output=True, text=True, check=False
    )
    return result.stdout + result.stderr


@pytest.mark.parametrize("name", CORRECT)
def test_the_layer_runs_correct_kernels(name: str) -> None:
    assert run_check_layer(name) == "ok\n"


@pytest.mark.parametrize("name", DEFECTS)
def test_the_layer_reports_a_defect(name: str) -> None:
    output = run_check_layer(name)
    assert all(part in output for part in DEFECTS[name]), output
