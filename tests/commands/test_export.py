"""`tokfilter export` and `tokfilter inspect` as typed."""

import json
import os
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version

import pytest
from click.testing import CliRunner

from tokfilter.artifacts.manifest import load_manifest
from tokfilter.cli import cli
from tokfilter.export import pipeline, versions
from tokfilter.export.onnx_file import load_graph, save_graph


@pytest.fixture
def quick(monkeypatch, traced_graph):
    monkeypatch.setattr(pipeline, "slots_graph_from_model", lambda model, opset: traced_graph.clone())


def run(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def test_an_export_tells_each_check_and_each_file(quick, bundle_file, tmp_path):
    result = run("export", bundle_file, "-o", tmp_path / "out", "--keep", "0.5", "--keep", "3", "--precision", "fp16")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("✓") == 24
    assert result.stdout.count("rounded to fp16") == 8
    assert "✗" not in result.stdout
    for name in ("model.fp16.onnx", "model.k3.fp16.onnx", "model.k8.fp16.onnx", "full.fp16.onnx", "golden.npz"):
        assert str(tmp_path / "out" / name) in result.stdout
    assert [entry.budget for entry in load_manifest(tmp_path / "out").entries("filtered")] == [None, 3, 8]


def test_a_package_may_come_under_another_name(quick, bundle_file, tmp_path, monkeypatch):
    """onnxruntime-gpu installs onnxruntime; no distribution of that name is installed then."""

    def renamed(package):
        if package == "onnxruntime":
            raise PackageNotFoundError(package)
        return "9.9" if package == "onnxruntime-gpu" else version(package)

    monkeypatch.setattr(versions, "version", renamed)
    monkeypatch.setattr(versions, "packages_distributions", dict)
    result = run("export", bundle_file, "-o", tmp_path / "out", "--no-verify")
    assert result.exit_code == 1 and "export needs the package onnxruntime" in result.output
    monkeypatch.setattr(versions, "packages_distributions", lambda: {"onnxruntime": ["onnxruntime-gpu"]})
    result = run("export", bundle_file, "-o", tmp_path / "out", "--no-verify")
    assert result.exit_code == 0, result.output
    assert load_manifest(tmp_path / "out").versions["onnxruntime"] == "9.9"


def test_json_on_standard_output_is_the_manifest(quick, bundle_file, tmp_path):
    result = run("export", bundle_file, "-o", tmp_path / "out", "--no-verify", "--json")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert printed.pop("schema") == "tokfilter/manifest"
    assert printed == json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert json.loads(result.stdout)["verification"] == {"skipped": "--no-verify was given"}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--keep", "0"], 1, "ratio in (0, 1]"),
        (["--keep", "nan"], 1, "got 'nan'"),
        (["--keep", "1"], 1, "1.0 or 100% to keep every token, or 1t"),
        (["--keep", "0.5,1.5"], 1, "got '1.5'"),
        (["--keep", "99"], 1, "16 patch tokens, got 99"),
        (["--batch", "8:1:2"], 1, "got 8:1:2"),
        (["--rtx", "--budget", "1:8:99"], 1, "max <= 16"),
        (["--budget", "0:8:16"], 1, "budget range must be 1 <= min"),
        (["--opset", "11"], 1, "opset must be"),
        (["--verify-images", "/nowhere"], 1, "--verify-images must be a folder"),
        (["--trt", "--no-verify"], 4, "package tensorrt"),
    ],
)
def test_mistakes_are_reported_without_a_traceback(quick, monkeypatch, bundle_file, tmp_path, arguments, code, words):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    result = run("export", bundle_file, "-o", tmp_path / "out", *arguments)
    assert result.exit_code == code
    assert words in " ".join(result.stderr.split())
    assert "Traceback" not in result.output


def test_bundles_that_are_none(tmp_path, export_directory):
    (tmp_path / "bad.pt").write_bytes(b"not a bundle")
    for source in (tmp_path / "none.pt", tmp_path / "bad.pt", export_directory / "model.onnx"):
        result = run("export", source, "-o", tmp_path / "out")
        assert result.exit_code == 1
        assert "Error: " in result.stderr
    assert not (tmp_path / "out").exists()


def test_inspect_a_bundle(bundle_file):
    result = run("inspect", bundle_file)
    assert result.exit_code == 0, result.output
    for words in ("vit_tiny_patch16_224", "16 patches + 1 prefix", "2 blocks of 9 tokens", "[4, 8, 11] tokens"):
        assert words in result.stdout
    found = json.loads(run("inspect", bundle_file, "--json").stdout)
    assert (found["kind"], found["keep"], found["blocks"]) == ("bundle", 8, [9, 9])


ONE_ROW = 9 * 24 * 24
"""MACs of the last projection and MLP for one token: graphs for CPUs compute the class token only (``cpu_form.py``)."""


def test_inspect_a_graph_of_ours(export_directory):
    found = json.loads(run("inspect", export_directory / "model.onnx", "--json").stdout)
    manifest = load_manifest(export_directory)
    (site,) = found["sites"]
    assert (site["tokens_in"], site["tokens_out"], site["has_function"], site["plain"]) == (17, 9, False, True)
    assert site["attributes"]["prefix_tokens"] == 1
    assert found["macs"]["kept"] == manifest.model.macs["8"] - 8 * ONE_ROW
    assert [(a["queries"], a["keys"]) for a in found["attentions"]] == [(9, 9), (9, 9)]
    assert set(found["opsets"]) == {"ai.onnx"} and not found["functions"]
    assert (found["operators"]["before"]["Conv"], found["operators"]["before"]["TopK"]) == (1, 2)
    assert "TopK" not in found["operators"]["after"] and found["operators"]["after"]["Softmax"] == 2
    shown = run("inspect", export_directory / "model.onnx").stdout
    assert "17 → 9 tokens, as standard operators" in shown
    assert "blocks.0.attn/Softmax … blocks.1.attn/Softmax" in shown


def test_inspect_the_full_graph_and_a_foreign_one(export_directory, foreign_graph):
    full = json.loads(run("inspect", export_directory / "full.onnx", "--json").stdout)
    assert full["macs"] == {"full": load_manifest(export_directory).model.macs["full"] - 16 * ONE_ROW}
    assert [a["keys"] for a in full["attentions"]] == [17, 17]

    def select(x, scores):
        return x.gather(1, scores.topk(4).indices.unsqueeze(-1).expand(-1, -1, 8) + 1)

    result = run("inspect", foreign_graph(select, "torchscript", 14))
    assert result.exit_code == 0, result.output
    assert "no TokenSelect: `tokfilter fuse`" in result.stdout
    assert "TopK" in result.stdout


def test_inspect_an_export_names_the_file_that_changed(export_directory, tmp_path):
    copy = shutil.copytree(export_directory, tmp_path / "out")
    sound = run("inspect", copy)
    assert sound.stdout.count("✓") == 4
    assert "14 of 14 checks passed" in sound.stdout
    with (copy / "full.onnx").open("ab") as file:
        file.write(b"\0")
    changed = run("inspect", copy / "manifest.json")
    assert changed.stdout.count("✓") == 3
    assert "full.onnx is not the file that manifest.json describes" in " ".join(changed.stdout.split())
    found = json.loads(run("inspect", copy, "--json").stdout)
    assert [file["path"] for file in found["files"] if file["error"]] == ["full.onnx"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("model.plan", b"ftrt\0\0\0\0", "is an engine plan, not an ONNX graph"),
        ("plan.onnx", b"ftrt\0\0\0\0", "is an engine plan, not an ONNX graph"),
        ("model.onnx", b"\x08\x0a\x12\xff\xff\xff\xffnothing", "no ONNX graph that can be read"),
        ("empty.onnx", b"", "no ONNX graph that can be read"),
        ("words.txt", b"just some words", "no ONNX graph that can be read"),
        ("model.pt", b"PK\x03\x04 damaged", "is damaged"),
    ],
)
def test_inspect_refuses_what_it_cannot_read(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    result = run("inspect", tmp_path / name)
    assert result.exit_code == 1
    assert words in " ".join(result.stderr.split())


def test_inspect_refuses_a_graph_cut_short_nothing_and_an_empty_folder(traced_graph, tmp_path):
    save_graph(traced_graph.clone(), tmp_path / "model.onnx")
    content = (tmp_path / "model.onnx").read_bytes()
    (tmp_path / "model.onnx").write_bytes(content[: len(content) // 2])
    assert "cut short" in run("inspect", tmp_path / "model.onnx").stderr
    assert "there is none at" in run("inspect", tmp_path / "none").stderr
    os.mkfifo(tmp_path / "pipe")
    assert "there is none at" in run("inspect", tmp_path / "pipe").stderr
    (tmp_path / "empty").mkdir()
    assert "manifest" in run("inspect", tmp_path / "empty").stderr


def test_cuda_writes_verified_fused_graphs_beside_the_plain_ones(quick, bundle_file, tmp_path):
    out = tmp_path / "out"
    result = run("export", bundle_file, "-o", out, "--keep", "0.5", "--cuda", "--precision", "fp16")
    assert result.exit_code == 0, result.output
    manifest = load_manifest(out)
    fused = [entry for entry in manifest.files if entry.runtime == "onnx-cuda"]
    assert [entry.path for entry in fused] == ["model.fp16.cuda.onnx", "model.k8.fp16.cuda.onnx", "full.fp16.cuda.onnx"]
    assert [(entry.role, entry.budget) for entry in fused] == [("filtered", None), ("filtered", 8), ("full", None)]
    assert all(entry.target["attentions"] == {"fused": 2, "found": 2, "not_fused": {}} for entry in fused)
    assert {check["path"] for check in manifest.verification["checks"]} == {e.path for e in manifest.files if e.runtime}
    assert result.stdout.count("2 of 2 attentions fused") == 3
    plain = [entry.path for entry in manifest.entries("filtered", "onnx")]
    assert plain == ["model.fp16.onnx", "model.k8.fp16.onnx"]


def test_stripping_functions_leaves_those_of_the_graphs_for_cuda(quick, bundle_file, tmp_path):
    result = run("export", bundle_file, "-o", tmp_path / "out", "--cuda", "--strip-functions", "--no-verify")
    assert result.exit_code == 0, result.output
    names = ("model.onnx", "model.plugin.onnx", "model.cuda.onnx")
    graphs = [load_graph(tmp_path / "out" / name) for name in names]
    assert [len(graph.functions) for graph in graphs] == [0, 0, 1]
    assert [sum(node.op_type == "TokenSelect" for node in graph.graph) for graph in graphs] == [0, 1, 1]


@pytest.mark.parametrize("option", [("--batch", "1:4:8"), ("--budget", "1:4:8"), ("--workspace", "64")])
def test_options_of_engines_without_an_engine_are_refused(bundle_file, tmp_path, option):
    result = CliRunner().invoke(cli, ["export", str(bundle_file), "-o", str(tmp_path / "out"), *option])
    assert result.exit_code == 2 and f"{option[0]} is for engines, and none is built" in result.output
    assert "--keep" in result.output and not (tmp_path / "out").exists()
