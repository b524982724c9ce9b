"""Versions of TensorRT and of a CUDA binding, in the Python that has them; one JSON line on standard output."""

import json
import platform
import sys

from tokfilter.errors import MissingDependencyError
from tokfilter.runtime.cuda_bindings import cuda_runtime, pycuda_driver
from tokfilter.trt.module import tensorrt_module

__all__ = ["main"]


def main() -> None:
    """Print the versions, or why there are none."""
    try:
        answer = {
            "version": tensorrt_module("tensorrt").__version__,
            "python": platform.python_version(),
            "cuda": _binding(),
        }
    except MissingDependencyError as error:
        answer = {"missing": f"Python {platform.python_version()}: {error}"}
    sys.stdout.write(json.dumps(answer) + "\n")


def _binding() -> str:
    """The CUDA binding that a session takes. Raises MissingDependencyError where there is none."""
    reasons = []
    for name, load in (("pycuda", pycuda_driver), ("cuda-python", cuda_runtime)):
        try:
            load()
        except MissingDependencyError as error:
            reasons.append(str(error))
        else:
            return name
    raise MissingDependencyError(" ".join(reasons))


if __name__ == "__main__":
    main()
