"""`tokfilter engine` as typed: engines beside the graphs of an export, where neither torch nor the exporter is."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import onnx_ir
import pytest
from click.testing import CliRunner

from tokfilter.artifacts.checked import check_file, checked_bytes
from tokfilter.artifacts.manifest import entry_from_file, load_manifest, save_manifest
from tokfilter.cli import cli
from tokfilter.errors import EngineError, ExportError, MissingDependencyError
from tokfilter.export import add_engines as add_engines_module
from tokfilter.export import engines
from tokfilter.export.add_engines import add_engines
from tokfilter.export.options import ExportOptions
from tokfilter.export.selection import node_graph
from tokfilter.runtime.verification import check_engine
from tokfilter.trt.versions import way_of

ABSENT = ("torch", "torchvision", "timm", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "PIL", "jinja2")


@pytest.fixture
def copied(export_directory, tmp_path):
    shutil.copytree(export_directory, tmp_path / "out")
    return tmp_path / "out"


def run(*arguments):
    return CliRunner().invoke(cli, ["engine", *map(str, arguments)])


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_engines_are_built_where_torch_and_onnx_are_not(copied):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'tokfilter[rtx]'")
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({ABSENT}))\n"
        "from tokfilter.cli import main\n"
        f"sys.argv = ['tokfilter', 'engine', {str(copied)!r}, '--rtx', '--batch', '1:2:4', '--budget', '3:5:7']\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    manifest = load_manifest(copied)
    plans = {entry.path: entry for entry in manifest.files if entry.runtime == "tensorrt-rtx"}
    assert list(plans) == ["model.rtx.plan", "model.k8.rtx.plan", "full.rtx.plan"]
    assert [Path(line.split("MB")[1].strip()).name for line in done.stdout.splitlines()] == list(plans)
    for entry in manifest.files:
        check_file(copied, entry)
    assert (plans["model.rtx.plan"].batch_range, plans["model.rtx.plan"].budget_range) == ((1, 2, 4), (3, 5, 7))
    assert (plans["model.k8.rtx.plan"].budget, plans["full.rtx.plan"].budget_range) == (8, None)
    assert sorted(contents(copied)) == sorted([*(entry.path for entry in manifest.files), "manifest.json"])
    for entry in plans.values():  # on a machine with a GPU they are compared
        reason = f"{entry.path} was not compared with the golden tensors: {entry.unverified}"
        assert entry.verified or ("NVIDIA" in entry.unverified and reason in done.stderr)


def fake_engines(monkeypatch, fails_at=None, version="10.13.0", name="tensorrt"):
    """Engines whose bytes name their graph: what is tested is where they go, not TensorRT."""

    def engine(kind, graph, plan, options):
        if graph.name == fails_at:
            raise EngineError(f"{kind} cannot build {graph.name}: out of memory.")
        assert graph.read_bytes()
        plan.write_bytes(f"{kind} {graph.name} {options.plugin}".encode())
        if kind == "tensorrt":
            options.timing_cache.write_bytes(b"timings")
        return {"version": "10.13", "plugin": options.plugin and options.plugin.name}

    monkeypatch.setattr(engines, "build_engine", engine)
    monkeypatch.setattr(engines, "tensorrt_module", lambda kind: SimpleNamespace(__version__=version, __name__=name))


@pytest.mark.parametrize(("version", "kind"), [("10.3.0", "tensorrt"), ("1.7.1", "tensorrt-rtx")])
def test_a_precision_without_a_graph_is_refused_where_types_come_from_the_graph(copied, monkeypatch, version, kind):
    fake_engines(monkeypatch, version=version, name=kind.replace("-", "_"))
    options = ExportOptions(trt=kind == "tensorrt", rtx=kind != "tensorrt", plugin=False, precisions=("fp16",))
    before = contents(copied)
    with pytest.raises(ExportError, match="expected a graph in fp16 to build from; this export has fp32"):
        add_engines(copied, options)
    assert contents(copied) == before


def test_8_6_builds_every_precision_from_the_fp32_graphs(copied, tmp_path, monkeypatch):
    built, budgets = {}, {}

    def engine(kind, graph, plan, options):
        model = onnx_ir.load(graph)
        select = [node.op_type for node in model.graph if node.domain]
        built[plan.name] = (graph.name, options.precision, select, dict(model.opset_imports)[""], len(model.functions))
        budgets[plan.name] = options.budget
        plan.write_bytes(b"plan")
        options.timing_cache.write_bytes(b"timings")
        return {"version": "8.6.0"}

    fake_engines(monkeypatch, version="8.6.0")
    monkeypatch.setattr(engines, "build_engine", engine)
    (tmp_path / "lib.so").write_bytes(b"library")
    options = ExportOptions(trt=True, plugin_library=tmp_path / "lib.so", precisions=("fp32", "fp16"))
    add_engines(copied, options)
    assert built == {
        "model.plan": ("model.onnx", "fp32", ["TokenSelect"], 17, 0),
        "model.k8.plan": ("model.k8.onnx", "fp32", ["TokenSelect"], 17, 0),
        "full.plan": ("full.onnx", "fp32", [], 17, 0),
        "model.fp16.plan": ("model.onnx", "fp16", ["TokenSelect"], 17, 0),
        "model.k8.fp16.plan": ("model.k8.onnx", "fp16", ["TokenSelect"], 17, 0),
        "full.fp16.plan": ("full.onnx", "fp16", [], 17, 0),
    }
    plans = {entry.path: entry.precision for entry in load_manifest(copied).entries("filtered", "tensorrt")}
    assert plans == {
        "model.plan": "fp32",
        "model.k8.plan": "fp32",
        "model.fp16.plan": "fp16",
        "model.k8.fp16.plan": "fp16",
    }
    built.clear()
    add_engines(copied, replace(options, plugin=False, precisions=("fp16",)))
    assert built["model.fp16.plan"] == ("model.onnx", "fp16", [], 17, 0), "native ops"
    assert budgets["model.plan"] == (1, 8, 16), "fp32 engines serve every budget"
    assert budgets["model.fp16.plan"] == (8, 8, 8), "8.6 has no fp16 kernels for a range"
    add_engines(copied, replace(options, plugin=False, precisions=("fp16",), budget_range=(2, 8, 16)))
    assert budgets["model.fp16.plan"] == (2, 8, 16), "asked for"


@pytest.mark.parametrize(
    ("options", "change", "words"),
    [
        ({"precisions": ("bf16",)}, {}, r"TensorRT 8.6.0 has no bf16: expected fp32, fp16 or int8"),
        ({"precisions": ("int8",)}, {}, r"expected a graph in int8 to build from; this export has fp32"),
        ({}, {"precision": "fp16"}, r"builds every engine from an fp32 graph.*--precision fp32 --precision fp16"),
        ({}, {"budget": 3841}, r"TopK of TensorRT 8.6.0 keeps at most 3840 tokens; got a budget of up to 3841"),
    ],
)
def test_what_8_6_cannot_build_is_refused_before_it_is_asked(copied, monkeypatch, options, change, words):
    fake_engines(monkeypatch, version="8.6.0")
    monkeypatch.setattr(engines, "build_engine", None)
    manifest = load_manifest(copied)
    files = [replace(entry, **change) if entry.runtime == "onnx" else entry for entry in manifest.files]
    save_manifest(copied, replace(manifest, files=files))
    before = contents(copied)
    asked = ExportOptions(trt=True, plugin=False, **{"precisions": ("fp32", "fp16")} | options)
    with pytest.raises(EngineError, match=words):
        add_engines(copied, asked)
    assert contents(copied) == before


def test_a_graph_that_8_6_does_not_read_is_refused_before_it_is_asked(copied, monkeypatch):
    """A graph whose function was stripped for the plugin, built without the plugin."""
    fake_engines(monkeypatch, version="8.6.0")
    monkeypatch.setattr(engines, "build_engine", None)
    manifest = load_manifest(copied)
    onnx_ir.save(node_graph(onnx_ir.load(copied / "model.onnx")), copied / "model.onnx")
    (old,) = (entry for entry in manifest.files if entry.path == "model.onnx")
    save_manifest(
        copied,
        replace(
            manifest,
            files=[
                entry_from_file(copied, "model.onnx", "filtered", runtime="onnx", precision="fp32"),
                *(e for e in manifest.files if e is not old),
            ],
        ),
    )
    with pytest.raises(
        EngineError, match=r"model.onnx: TensorRT 8.6 does not read this graph: TokenSelect .* the plugin"
    ):
        add_engines(copied, ExportOptions(trt=True, plugin=False))


def test_8_6_without_onnx_names_the_packages(copied, monkeypatch):
    fake_engines(monkeypatch, version="8.6.0")
    monkeypatch.setitem(sys.modules, "tokfilter.export.tensorrt8", None)
    with pytest.raises(MissingDependencyError, match="TensorRT 8.6.0 needs a changed copy .*pip install onnx onnx-ir"):
        add_engines(copied, ExportOptions(trt=True, plugin=False))


def test_building_again_replaces_engines_and_keeps_the_rest(copied, monkeypatch):
    fake_engines(monkeypatch)
    manifest = load_manifest(copied)
    save_manifest(copied, replace(manifest, choice={"tokens": 5}))
    (copied / "notes.txt").write_text("mine")
    for _ in range(2):
        add_engines(copied, ExportOptions(trt=True, plugin=False))
        manifest = load_manifest(copied)
        names = [entry.path for entry in manifest.files]
        assert names[:4] == ["model.onnx", "model.k8.onnx", "full.onnx", "golden.npz"]
        assert names[4:] == ["model.plan", "model.k8.plan", "full.plan", "timing.cache"]
        assert manifest.choice == {"tokens": 5} and (copied / "notes.txt").read_text() == "mine"
        for entry in manifest.files:
            check_file(copied, entry)


@pytest.mark.parametrize("built_here", [True, False])
def test_the_library_of_this_machine_comes_before_the_one_that_was_packed(copied, tmp_path, monkeypatch, built_here):
    fake_engines(monkeypatch)
    (copied / "libpacked.so").write_bytes(b"packed")
    manifest = load_manifest(copied)
    packed = entry_from_file(copied, "libpacked.so", "plugin", runtime="tensorrt")
    save_manifest(copied, replace(manifest, files=[*manifest.files, packed]))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if built_here:
        (tmp_path / "libhere.so").write_bytes(b"here")
        monkeypatch.setattr(add_engines_module, "plugin_path", lambda: tmp_path / "libhere.so")
    add_engines(copied, ExportOptions(trt=True))
    name = "libhere.so" if built_here else "libpacked.so"
    (plan,) = (entry for entry in load_manifest(copied).files if entry.path == "model.plan")
    assert plan.target["plugin"] == name and (copied / "model.plan").read_bytes().endswith(name.encode())
    assert (copied / "full.plan").read_bytes().endswith(b"None"), "a full model has nothing to select"
    assert checked_bytes(copied, next(e for e in load_manifest(copied).files if e.path == name))


@pytest.mark.parametrize(("version", "stripped"), [("10.3.0", True), ("10.7.0", False)])
@pytest.mark.parametrize("plugin", [True, False])
def test_the_function_is_removed_where_tensorrt_would_take_it_instead_of_the_plugin(
    copied, tmp_path, monkeypatch, version, stripped, plugin
):
    functions = {}

    def engine(kind, graph, plan, options):
        functions[graph.name] = len(onnx_ir.load(graph).functions)
        plan.write_bytes(b"plan")
        options.timing_cache.write_bytes(b"timings")
        return {}

    fake_engines(monkeypatch, version=version)
    monkeypatch.setattr(engines, "build_engine", engine)
    (tmp_path / "lib.so").write_bytes(b"library")
    add_engines(copied, ExportOptions(trt=True, plugin=plugin, plugin_library=tmp_path / "lib.so" if plugin else None))
    plain = {"model.onnx": 0, "model.k8.onnx": 0, "full.onnx": 0}
    kept = int(not stripped)
    assert functions == ({"model.plugin.onnx": kept, "model.k8.plugin.onnx": kept, "full.onnx": 0} if plugin else plain)


def test_what_fails_leaves_the_directory_as_it_was(copied, monkeypatch):
    fake_engines(monkeypatch, fails_at="full.onnx")
    before = contents(copied)
    with pytest.raises(EngineError, match=r"tensorrt cannot build full.onnx: out of memory"):
        add_engines(copied, ExportOptions(trt=True, plugin=False))
    assert contents(copied) == before


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "choose the engines: --trt, --rtx or both."),
        (["--trt"], 4, "the package tensorrt cannot be imported"),
        (["--rtx"], 4, "the package tensorrt_rtx cannot be imported"),
        (["--trt", "--plugin", "none.so"], 1, "--plugin: expected a file, but there is none at none.so"),
        (["--rtx", "--batch", "4:2:8"], 1, "got 4:2:8"),
        (["--rtx", "--batch", "eight"], 1, "eight"),
        (["--rtx", "--budget", "1:8:17"], 1, "max <= 16"),
    ],
)
def test_mistakes_are_reported_without_a_traceback(copied, monkeypatch, arguments, code, words):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    before = contents(copied)
    done = run(copied, *arguments)
    assert done.exit_code == code, done.output
    assert words in " ".join(done.stderr.split())
    assert "Traceback" not in done.output and contents(copied) == before


def test_tensorrt_without_the_plugin_library_names_both_ways_out(copied, tmp_path, monkeypatch):
    fake_engines(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    done = run(copied, "--trt")
    assert done.exit_code == 4 and "No plugin library at" in done.stderr and "tokfilter plugin build" in done.stderr
    assert "--no-plugin" in done.stderr


def test_a_changed_graph_is_not_built_from(copied, monkeypatch):
    fake_engines(monkeypatch)
    data = bytearray((copied / "model.onnx").read_bytes())
    data[50] ^= 1
    (copied / "model.onnx").write_bytes(data)
    done = run(copied, "--trt", "--no-plugin")
    assert done.exit_code == 1 and "model.onnx is not the file that manifest.json describes" in done.stderr
    done = run(copied.parent, "--trt")
    assert done.exit_code == 1 and "an export directory's manifest" in done.stderr


def test_a_directory_without_graphs_has_nothing_to_build_from(copied):
    manifest = load_manifest(copied)
    save_manifest(copied, replace(manifest, files=[entry for entry in manifest.files if entry.role == "golden"]))
    done = run(copied, "--rtx")
    assert (
        done.exit_code == 1
        and "expected a graph in fp32 to build from; this export has no graphs at all" in done.stderr
    )


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("plugin", [False, True])
def test_engines_of_tensorrt_8_6_equal_the_golden_tensors(copied, precision, plugin):
    module = pytest.importorskip("tensorrt", reason="TensorRT 8.6 is not installed: pip install tensorrt==8.6.0")
    if way_of(module).graph != "tensorrt-8.6":
        pytest.skip(f"TensorRT {module.__version__} takes typed graphs: tests/trt/test_build.py builds them")
    options = ExportOptions(trt=True, plugin=plugin, precisions=(precision,))
    built = add_engines(copied, options, check=check_engine)
    plans = {entry.path: entry for entry in built if entry.runtime == "tensorrt" and entry.path.endswith(".plan")}
    suffix = "" if precision == "fp32" else ".fp16"
    assert list(plans) == [f"model{suffix}.plan", f"model.k8{suffix}.plan", f"full{suffix}.plan"]
    for plan in plans.values():
        assert plan.verified is True and plan.target["graph"] == "tensorrt-8.6"
