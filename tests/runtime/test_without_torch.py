"""artifacts, trt, runtime and the commands of an edge device work where torch, timm and onnx are not installed."""

import subprocess
import sys

BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {absent!r}:
            raise ImportError(f"{{name}} is blocked")
sys.meta_path.insert(0, Blocker())
"""
TRAINING = ("torch", "timm", "torchvision", "safetensors", "sklearn", "onnx", "onnx_ir", "onnxscript")

EVERY_MODULE = """
import importlib, importlib.util, pkgutil
names = []
for room in ("artifacts", "trt", "runtime"):
    package = importlib.import_module(f"tokfilter.{room}")
    names += [module.name for module in pkgutil.walk_packages(package.__path__, f"tokfilter.{room}.")]
for name in ("bench", "verify", "tune", "engine", "pack", "page", "doctor", "inspect"):
    names.append(f"tokfilter.commands.{name}")
names += ["tokfilter", "tokfilter.cli", "tokfilter.benchmarks.page.build"]
left_out = ["tokfilter.runtime.torch_"]
if importlib.util.find_spec("starlette") is None:  # the extra service
    left_out.append("tokfilter.runtime.service")
for name in names:
    if not name.startswith(tuple(left_out)):
        importlib.import_module(name)
print(len(names))
"""

COMMANDS = ("bench", "verify", "tune", "engine", "pack", "page", "doctor", "inspect")
HELP = f"""
from click.testing import CliRunner
from tokfilter.cli import cli
print(*[CliRunner().invoke(cli, [command, "--help"]).exit_code for command in {COMMANDS}])
"""

RUN = """
import numpy as np
from tokfilter.runtime.sessions import open_session
from tokfilter.runtime.comparison import compare, scenarios
from tokfilter.runtime.measure import loadgen, power, throughput
from tokfilter.runtime.tuning import tune
with open_session({directory!r}) as session:
    print(session.run(np.zeros((2, 3, 32, 32), np.float32), keep=0.5).indices.shape)
"""


def output(program, absent):
    program = BLOCKER.format(absent=absent) + program
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_but_those_of_the_pytorch_session_is_imported():
    assert int(output(EVERY_MODULE, TRAINING)) > 50


def test_a_session_runs_and_every_engine_of_measurement_is_imported(export_directory):
    program = RUN.format(directory=str(export_directory))
    assert output(program, (*TRAINING, "PIL")) == "(2, 8)\n"


def test_commands_print_their_help():
    assert output(HELP, TRAINING) == "0 0 0 0 0 0 0 0\n"
