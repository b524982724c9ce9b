"""TensorRT 8.6.0 itself, with its own Python 3.10: the names that we use, and its failures on a machine without a GPU.

TOKFILTER_TENSORRT8 names a folder with ``lib/`` (libnvinfer.so.8 and what it needs), ``site/`` (the packages tensorrt
8.6.0 and numpy) and ``python/bin/python3.10``. The wheel tensorrt 8.6.0 of PyPI has the first two.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
from fake_tensorrt_py import SURFACE_8_6, fake_builder_module

import tokfilter
from tokfilter.trt.driver import driver_failure

TREE = os.environ.get("TOKFILTER_TENSORRT8")
real = pytest.mark.skipif(
    not TREE,
    reason="TensorRT 8.6.0 is not here: unpack the wheel tensorrt 8.6.0, set TOKFILTER_TENSORRT8 to its folder",
)
no_driver = pytest.mark.skipif(driver_failure() is None, reason="for a machine without a driver; this one has one")


def run(program):
    """Standard output of a program under the real library."""
    assert TREE is not None
    tree = Path(TREE)
    packages = [tree / "site", Path(tokfilter.__file__).parent / ".typing"]
    variables = {
        **os.environ,
        "LD_LIBRARY_PATH": str(tree / "lib"),
        "PYTHONPATH": os.pathsep.join(str(path) for path in packages),
    }
    python = str(tree / "python" / "bin" / "python3.10")
    done = subprocess.run(
        [python, "-c", program], env=variables, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr}"
    return done.stdout


def test_the_fake_has_no_name_that_8_6_lacks():
    fake = fake_builder_module("8.6.0", layers=[])
    for owner in ("BuilderFlag", "NetworkDefinitionCreationFlag", "LayerType", "MemoryPoolType"):
        assert set(vars(getattr(fake, owner))) <= {*SURFACE_8_6[owner].split(), "EXPLICIT_PRECISION"}
    registry = fake.Builder(None).get_plugin_registry()
    assert set(vars(registry)) == set(SURFACE_8_6["IPluginRegistry"].split())


@real
def test_every_name_that_we_use_exists():
    program = (
        "import json, sys, tensorrt\n"
        f"surface = json.loads({json.dumps(json.dumps(SURFACE_8_6))})\n"
        "for owner, names in surface.items():\n"
        "    target = getattr(tensorrt, owner) if owner else tensorrt\n"
        "    print(*[f'{owner}.{name}' for name in names.split() if not hasattr(target, name)], end='')\n"
    )
    assert run(program) == ""


@real
def test_names_of_later_versions_are_not_there():
    program = (
        "import tensorrt as t\n"
        "print(hasattr(t.NetworkDefinitionCreationFlag, 'STRONGLY_TYPED'), hasattr(t.IPluginRegistry, 'get_creator'),\n"
        "      hasattr(t.ParserError, 'node_operator'), hasattr(t, 'bfloat16'), hasattr(t, 'int64'))"
    )
    assert run(program).split() == ["False"] * 5


@real
def test_its_way_and_its_registry():
    program = (
        "from tokfilter.trt.module import name_and_version, tensorrt_module\n"
        "from tokfilter.trt.plugins import plugin_is_registered\n"
        "from tokfilter.trt.versions import creation_flags, way_of\n"
        "module = tensorrt_module('tensorrt')\n"
        "print(name_and_version(module), way_of(module).graph, creation_flags(module), sep=', ')\n"
        "print(plugin_is_registered(module, module.get_plugin_registry()))\n"
    )
    assert run(program) == "TensorRT 8.6.0, tensorrt-8.6, 1\nFalse\n"


@real
@no_driver
def test_without_a_driver_the_builder_and_the_runtime_say_so():
    """The Runtime would end the process with a segmentation fault: it is not started."""
    program = (
        "from tokfilter.errors import TokfilterError\n"
        "from tokfilter.trt.engine import engine_from_memory\n"
        "from tokfilter.trt.module import tensorrt_module\n"
        "from tokfilter.trt.network import Network\n"
        "module = tensorrt_module('tensorrt')\n"
        "for start in (lambda: Network(module), lambda: engine_from_memory(module, b'')):\n"
        "    try:\n"
        "        start()\n"
        "    except TokfilterError as error:\n"
        "        print(error)\n"
    )
    builder, runtime = run(program).splitlines()
    assert builder.startswith("TensorRT 8.6.0 builds engines on the GPU that runs them, and none can be used here (")
    assert "CUDA initialization failure with error: 35" in builder
    assert runtime.startswith("TensorRT 8.6.0 does not start: libcuda.so.1") and "update the driver" in runtime
