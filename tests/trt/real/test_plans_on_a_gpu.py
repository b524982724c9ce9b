"""Plans that a real TensorRT refuses, where there is a driver; real_tensorrt.py records what it prints."""

import pytest
from tensorrt_cases import plan_cases
from tensorrt_libraries import LIBRARIES, interpreter

from tokfilter.trt.remedies import LOAD_REMEDIES, remedy


@pytest.mark.gpu
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.version)
def test_foreign_plans_are_refused_with_a_remedy(library):
    if not library.installed or interpreter(library) is None:
        pytest.skip(f"TensorRT {library.version} is not installed: make tensorrt")
    for name, run in plan_cases(library).items():
        seen = run()
        if name.startswith("plan, "):
            errors = [message for severity, message in seen["log"] if severity in ("ERROR", "INTERNAL_ERROR")]
            assert seen["result"] is False and errors, name
            assert remedy(" / ".join(errors), LOAD_REMEDIES), (name, errors)
        elif name.startswith("our plan, "):
            assert seen["result"].startswith(f"EngineError: TensorRT {library.version} refuses the plan: "), name


def test_the_plans_are_written_as_far_as_no_gpu_is_needed():
    pytest.importorskip("tensorrt_rtx")
    pytest.importorskip("onnx")
    names = set(plan_cases(LIBRARIES[-1]))
    assert {"plan, empty", "plan, garbage", "plan, of TensorRT-RTX", "our plan, of TensorRT-RTX"} <= names
