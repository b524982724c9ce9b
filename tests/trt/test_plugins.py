"""Loading the plugin library: what is said where a registry refuses it without a word, as real ones do."""

import subprocess
from types import SimpleNamespace

import pytest
from fake_tensorrt_py import fake_builder_module
from tensorrt_records import logged

from tokfilter.errors import EngineError
from tokfilter.trt.log import error_log
from tokfilter.trt.plugins import load_plugins, plugin_is_registered


class Registry:
    """Lacks every creator and refuses every library."""

    def __init__(self, log, messages=()):
        self.log, self.messages = log, messages

    def get_creator(self, name, version, namespace):
        return None

    def load_library(self, path):
        for message in self.messages:
            self.log.log(1, message)


@pytest.fixture
def module():
    return fake_builder_module("10.16.1")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.so", r"missing.so: cannot open shared object file: No such file or directory\. Build it for"),
        ("text.so", r"text.so: (file too short|invalid ELF header)\. Build it for this machine"),
        ("bare.so", r"bare.so: it has no function getCreators\. Build it for this machine: `tokfilter plugin build`"),
        ("good.so", r"good.so: it has no plugin for this version of TensorRT .*\. Build it for this machine"),
    ],
)
def test_a_silent_refusal_gets_the_reason_of_the_system(module, tmp_path, name, reason):
    (tmp_path / "text.so").write_text("no library")
    for library, code in (("bare.so", "int nothing;"), ("good.so", "void getCreators(void) {}")):
        command = ["cc", "-shared", "-x", "c", "-", "-o", str(tmp_path / library)]
        subprocess.run(command, input=code, text=True, check=True)
    with pytest.raises(EngineError, match=rf"TensorRT 10.16.1 cannot load the plugin library .*{reason}"):
        load_plugins(module, Registry(error_log(module)), {name: tmp_path / name})


def test_the_reason_of_tensorrt_comes_first(module, tmp_path):
    said = logged("rtx", "load_library, no library")
    with pytest.raises(EngineError, match=r"Unable to load library: .*invalid ELF header|file too short") as caught:
        load_plugins(module, Registry(error_log(module), said[:2]), {"missing.so": tmp_path / "missing.so"})
    assert "missing.so: cannot open" not in str(caught.value) and "catchCudaError" not in str(caught.value)


def test_the_registry_of_8_x_is_asked_by_its_own_name(module):
    asked = []
    registry = SimpleNamespace(get_plugin_creator=lambda *names: asked.append(names))
    assert not plugin_is_registered(module, registry)
    assert asked == [("TokenSelect", "1", "tokfilter")]
