"""Real TensorRT libraries do what is recorded of them: 8.6.0 whole, and the lean runtimes of 10.15 to 11.4.

``make tensorrt`` installs them and runs this; a library that is not installed is skipped. Each probe is a process of
its own (tests/tools/tensorrt_probes.py), because a library may end it where CUDA does not start. With an NVIDIA driver
a library does other things: there, the probes without one are skipped.
"""

import pytest
from tensorrt_cases import CREATIONS, cases, rtx_cases
from tensorrt_libraries import LIBRARIES, RTX, Library, chosen, install, interpreter, run_probe
from tensorrt_records import record, records

from tokfilter.kernels.op import ATTRIBUTES, DOMAIN, NAME, VERSION
from tokfilter.trt.driver import driver_failure

pytest.importorskip("onnx", reason="the probes of TensorRT-RTX write graphs with onnx: pip install 'tokfilter[export]'")

WHOLE = LIBRARIES[0]
WITHOUT_DRIVER = {"Builder", "Runtime", "Runtime, deleted", "Runtime, used", "our build", "our engine"}
NO_PLUGIN = "the plugin is not built: it needs nvcc, and for 8.6 headers that no package has: set TENSORRT_INCLUDE_DIR"
AGAIN = "if that is right, record it: python tests/tools/real_tensorrt.py record {}"
HAS_DRIVER = driver_failure() is None
BAD = list(CREATIONS)[list(CREATIONS).index("k -1") :]


def usable(library: Library) -> Library:
    """The library; the test is skipped with what provides it where it is missing."""
    if not library.installed:
        short = ".".join(library.version.split(".")[:2])
        pytest.skip(f"TensorRT {library.version} is not installed: make tensorrt VERSIONS={short}")
    if interpreter(library) is None:
        pytest.skip(f"TensorRT {library.version} needs Python {library.python}: pyenv install {library.python}")
    return library


def probes(library: Library) -> list[str]:
    """Names of all that is recorded of a library."""
    return list(record(library.version)["seen"])


@pytest.mark.parametrize(
    ("library", "name"),
    [pytest.param(library, name, id=f"{library.version}: {name}") for library in LIBRARIES for name in probes(library)],
)
def test_a_library_does_what_is_recorded(library, name):
    usable(library)
    if HAS_DRIVER and name in WITHOUT_DRIVER:
        pytest.skip("recorded without an NVIDIA driver, and this machine has one")
    found = cases(library)
    if name not in found:
        pytest.skip(NO_PLUGIN)
    assert found[name]() == record(library.version)["seen"][name], AGAIN.format(library.version)


@pytest.mark.skipif(HAS_DRIVER, reason="recorded without an NVIDIA driver, and this machine has one")
@pytest.mark.parametrize("name", probes(RTX))
def test_tensorrt_rtx_does_what_is_recorded(name):
    module = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'tokfilter[rtx]'")
    known = record("rtx")["library"]["version"]
    if module.__version__ != known:
        pytest.skip(f"recorded of TensorRT-RTX {known}: pip install tensorrt-rtx-cu13=={known}")
    found = rtx_cases()
    if name not in found:
        pytest.skip(NO_PLUGIN)
    assert found[name]() == record("rtx")["seen"][name], AGAIN.format("rtx")


@pytest.mark.parametrize("library", [*LIBRARIES, RTX], ids=lambda library: library.version)
def test_every_probe_is_recorded(library):
    names = rtx_cases() if library is RTX else cases(usable(library))
    assert set(names) - set(probes(library)) == set()


@pytest.mark.parametrize("version", [library.version for library in LIBRARIES])
def test_real_registries_take_the_plugin(version):
    seen = record(version)["seen"]
    assert seen["plugin"]["result"] == {
        "loaded": True,
        "registered before": False,
        "identity": [DOMAIN, NAME, VERSION],
        "fields": [
            [name, "CHAR" if isinstance(value, str) else "INT32", len(value) if isinstance(value, str) else 1]
            for name, value in ATTRIBUTES.items()
        ],
        "version 2": False,
        "loaded again": False,
        "registered after deregister_library": False,
    }
    assert seen["our plugins"]["result"] == {"failures": ["none", "none"], "registered": True}
    assert seen["self-registering"]["result"] is not version.startswith("11.")


@pytest.mark.parametrize("version", [version for version, found in records().items() if "creation" in found["seen"]])
def test_real_creators_refuse_bad_attributes_and_say_why(version):
    seen = record(version)["seen"]["creation"]
    wide = {case for case, fields in CREATIONS.items() if version.startswith("8.") and "INT64" in str(fields)}
    assert seen["result"] == {case: "no such type" if case in wide else case not in BAD for case in CREATIONS}
    assert len(seen["stderr"]) == len(set(BAD) - wide)
    assert all(line.startswith('tokfilter::TokenSelect "filter": ') for line in seen["stderr"])


@pytest.mark.parametrize("version", [library.version for library in LIBRARIES])
def test_without_a_driver_our_code_ends_with_a_message_where_tensorrt_crashes(version):
    seen = record(version)["seen"]
    assert seen["Runtime, used"]["ended by"] == seen["Runtime, deleted"]["ended by"] == "SIGSEGV"
    assert seen["our engine"]["result"].startswith(f"EngineError: TensorRT {version} does not start: ")
    assert "install or update the driver" in seen["our engine"]["result"]
    assert "ended by" not in seen["our engine"]


@pytest.mark.parametrize("version", [library.version for library in LIBRARIES])
def test_a_library_that_is_no_plugin_is_refused_with_the_reason(version):
    seen = record(version)["seen"]
    for name, reason in (
        ("missing", "No such file"),
        ("no library", "file too short"),
        ("no entry points", "no function get"),
    ):
        assert seen[f"load_library, {name}"]["result"] is False
        assert all(reason in failure for failure in seen[f"our plugins, {name}"]["result"]["failures"]), name


@pytest.mark.parametrize("version", [library.version for library in LIBRARIES])
def test_a_plugin_for_another_major_version_is_refused_and_names_its_own(version):
    seen = record(version)["seen"]["our plugins, for another major version"]
    assert not seen["result"]["registered"]
    assert all("it has no plugin for this version of TensorRT" in failure for failure in seen["result"]["failures"])
    built_for, loaded_by = ("10.14", "8.6") if version == "8.6.0" else ("8.6", "10 or later")
    assert f"is built for TensorRT {built_for} and is loaded by TensorRT {loaded_by}. Build it" in seen["stderr"][0]


def test_8_6_without_cublas_is_no_module():
    seen = run_probe(usable(WHOLE), "imported", stubs=False)
    assert seen["raised"] == "ImportError: libcublas.so.12: cannot open shared object file: No such file or directory"


def test_8_6_on_another_python_is_no_module():
    """Its numpy is one for Python 3.10 as well, and is not imported by this probe."""
    other = chosen(["11.4"])[0]
    python = interpreter(other)
    seen = run_probe(usable(WHOLE), "imported", python=python)
    if interpreter(WHOLE) == python:
        pytest.skip("this is Python 3.10")
    assert seen["raised"].startswith("ImportError: Python version mismatch: module was compiled for Python 3.10, but")


def test_8_6_takes_a_newer_numpy():
    """``nptype`` of 8.6.0 names np.bool_; that of 8.5.1 and 8.5.2 names np.bool, which numpy 1.24 dropped."""
    seen = run_probe(usable(WHOLE), "numpy_types", modules=WHOLE.folder / "newer")
    assert seen == record("8.6.0")["seen"]["nptype"]


def test_a_download_that_fails_is_named_with_the_command(monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(
        SystemExit, match=r"could not install no-such-tensorrt==9: .*\n.*make tensorrt VERSIONS=9"
    ) as caught:
        install(Library("9", "none", ("no-such-tensorrt==9",)))
    assert "ERROR" in str(caught.value)


def test_an_unknown_version_is_refused_with_the_known_ones():
    for unknown in ("9", "10.1"):
        with pytest.raises(SystemExit, match=rf"begins with {unknown}; known are 8\.6\.0, 10\.15.*11\.4"):
            chosen(["10.15", unknown])
    assert [library.version for library in chosen(["11.0", "8"])] == ["11.0.0.114", "8.6.0"]
    assert chosen([]) == list(LIBRARIES)
