"""An embedding bundle in every command: each works, or refuses with a sentence."""

import asyncio
import json
import shutil
import tarfile

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from tokfilter.artifacts.manifest import load_manifest
from tokfilter.benchmarks.documents import document_from_file
from tokfilter.cli import cli
from tokfilter.runtime.labelled import embedded_files, recall_drops
from tokfilter.runtime.sessions import SessionOptions, open_session
from tokfilter.tests.tools.small_models import small_embedding_model
from tokfilter.train.data import images_from_folder
from tokfilter.train.dataset import ImageDataset
from tokfilter.train.similarity import evaluate_similarity
from tokfilter.vit.bundle import load_model, save_bundle


def tokfilter(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(embedding_folder):
    """model.pt, its export ``out``, images with classes ``classes``, without ``flat``."""
    root = embedding_folder
    pixels = np.random.default_rng(0).integers(0, 255, (8, 32, 32, 3), dtype=np.uint8)
    (root / "flat").mkdir()
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(root / f"flat/{i}.png")
        (root / f"classes/{'ab'[i % 2]}").mkdir(parents=True, exist_ok=True)
        shutil.copy(root / f"flat/{i}.png", root / f"classes/{'ab'[i % 2]}/{i}.png")
    return root


def expected(folder, keep):
    model = load_model(folder / "model.pt")
    with open_session(folder / "model.pt") as session:
        images = np.random.default_rng(1).normal(size=(2, 3, 32, 32)).astype(np.float32)
        found = session.run(images, keep)
    with torch.inference_mode():
        return images, model(torch.from_numpy(images), keep).numpy(), found


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
@pytest.mark.parametrize("keep", [4, 1.0])
def test_sessions_give_the_embedding(folder, runtime, keep):
    images, embedding, by_torch = expected(folder, keep)
    role = "full" if keep == 1.0 else "filtered"
    with open_session(folder / "out", role, SessionOptions(runtime)) as session:
        assert session.outputs[0].name == "embedding"
        found = session.run(images, keep)
    for result in (by_torch, found):
        assert result.embedding.shape == (2, 24)
        np.testing.assert_allclose(result.embedding, embedding, atol=1e-5)


def test_the_manifest_names_the_output_and_verify_passes(folder):
    manifest = json.loads((folder / "out/manifest.json").read_text())
    assert manifest["model"]["output"] == {"name": "embedding", "shape": [24]}
    assert manifest["model"]["classes"] == 24 and manifest["model"]["class_names"] == []
    result = tokfilter("verify", folder / "out")
    assert result.exit_code == 0, result.output
    assert "full.onnx, batch 2, 16 tokens: embedding matches PyTorch's" in result.output
    assert "model.onnx, batch 2, 8 tokens: embedding and indices match PyTorch's" in result.output
    assert "logits" not in result.output


def test_an_edge_bundle_has_the_embedding(folder, tmp_path):
    """The graphs and golden tensors, a README that names the output; its own steps run `verify` on them."""
    result = tokfilter("pack", folder / "out", "-o", tmp_path / "edge.tar")
    assert result.exit_code == 0, result.output
    with tarfile.open(tmp_path / "edge.tar") as tar:
        tar.extractall(tmp_path, filter="data")
    edge = next(path for path in tmp_path.iterdir() if path.is_dir())
    assert "result.embedding, result.indices" in (edge / "README.md").read_text()
    assert "verify out" in (edge / "run.sh").read_text()
    verified = tokfilter("verify", edge / "out", "--json")
    assert verified.exit_code == 0, verified.output
    compared = {verdict["compared"] for verdict in json.loads(verified.stdout)["verdicts"]}
    assert compared == {"embedding", "embedding and indices"}
    with open_session(edge / "out") as session:
        assert session.run(np.zeros((1, 3, 32, 32), np.float32)).embedding.shape == (1, 24)


def test_a_manifest_with_another_embedding_is_refused(folder, tmp_path):
    shutil.copytree(folder / "out", tmp_path / "out")
    path = tmp_path / "out/manifest.json"
    manifest = json.loads(path.read_text())
    for change in ({"output": {"name": "embedding", "shape": [23]}}, {"class_names": ["x"] * 24}):
        path.write_text(json.dumps({**manifest, "model": {**manifest["model"], **change}}))
        result = tokfilter("verify", tmp_path / "out")
        assert result.exit_code == 1 and "shape of an embedding must be [24], without class names" in result.output
    path.write_text(
        json.dumps({**manifest, "model": {**manifest["model"], "output": {"name": "masks", "shape": [24]}}})
    )
    result = tokfilter("verify", tmp_path / "out")
    assert result.exit_code == 1 and "shape of masks must be [masks, height, width], got [24]" in result.output


@pytest.mark.parametrize("source", ["model.pt", "out"])
def test_predict_prints_the_embedding_and_writes_it(folder, source, tmp_path):
    shown = tokfilter("predict", folder / source, folder / "flat/0.png", "--npy", tmp_path / "one.npy")
    assert shown.exit_code == 0 and "embedding of 24 numbers, length" in shown.output
    result = tokfilter("predict", folder / source, folder / "flat/0.png", "--json")
    document = json.loads(result.stdout)
    assert document["top"] == [] and len(document["embedding"]) == 24
    several = tokfilter("predict", folder / source, folder / "flat", "--npy", tmp_path / "all.npy")
    assert several.exit_code == 0 and several.output.count("embedding of 24 numbers") == 8
    one, every = np.load(tmp_path / "one.npy"), np.load(tmp_path / "all.npy")
    assert one.shape == (1, 24) and every.shape == (8, 24) and every.dtype == np.float32
    np.testing.assert_allclose(one[0], every[0], atol=1e-5)
    np.testing.assert_allclose(one[0], document["embedding"], atol=1e-6)


def test_eval_measures_similarity(folder, tmp_path):
    for data, truth in (("flat", "neighbours"), ("classes", "classes")):
        output = tmp_path / f"{data}.json"
        result = tokfilter("eval", folder / "model.pt", folder / data, "--keep", "0.5,0.25", "-o", output)
        assert result.exit_code == 0 and "recall@1" in result.output, result.output
        rows = document_from_file(output, "tokfilter/similarity")["rows"]
        assert [row["tokens"] for row in rows] == [16, 8, 4] and {row["truth"] for row in rows} == {truth}
        assert rows[0]["cosine"] == pytest.approx(1) and rows[1]["cosine"] < 1
    save_bundle(small_embedding_model(1), tmp_path / "other.pt")
    against = tokfilter("eval", folder / "model.pt", folder / "flat", "--reference", tmp_path / "other.pt", "--json")
    assert json.loads(against.stdout)["rows"][0]["cosine"] < 0.9


def test_what_needs_classes_refuses_embeddings(folder, tmp_path):
    for arguments, message in (
        (("page", folder / "out", "-o", tmp_path / "page"), "the page takes models that classify"),
        (("deepstream", folder / "out", tmp_path / "ds"), "DeepStream's classifier takes models that classify"),
        (
            (
                "export",
                folder / "model.pt",
                "-o",
                tmp_path / "int8",
                "--precision",
                "int8",
                "--calibrate",
                folder / "flat",
            ),
            "int8 is checked by its top-1, which a model with embeddings has not",
        ),
        (("train", folder / "classes", "--checkpoint", folder / "model.pt"), "--loss feature"),
        (
            ("report", "--bundle", folder / "model.pt", "-o", tmp_path / "r.html"),
            "report's pictures show classes or masks",
        ),
        (("label", folder / "classes", folder / "model.pt", "-o", tmp_path / "labels"), "--loss feature"),
    ):
        result = tokfilter(*arguments)
        assert result.exit_code == 1 and message in result.output, (arguments, result.output)
    assert not any(tmp_path.iterdir())


def test_a_classifier_gives_no_npy(tmp_path, folder):
    from tokfilter.tests.tools.small_models import small_bundle

    save_bundle(small_bundle(), tmp_path / "classifier.pt")
    result = tokfilter("predict", tmp_path / "classifier.pt", folder / "flat/0.png", "--npy", tmp_path / "x.npy")
    assert result.exit_code == 1 and "--npy takes embeddings, and this model gives none" in result.output
    assert not (tmp_path / "x.npy").exists()


def test_a_triton_repository_names_the_embedding(folder, tmp_path):
    pytest.importorskip("google.protobuf", reason="protobuf is missing: pip install 'tokfilter[serve]'")
    result = tokfilter("triton-repo", folder / "out", tmp_path / "triton")
    assert result.exit_code == 0, result.output
    texts = [path.read_text() for path in (tmp_path / "triton").rglob("config.pbtxt")]
    assert texts and all('name: "embedding"' in text and 'name: "logits"' not in text for text in texts)
    assert "Output `embedding`" in (tmp_path / "triton/README.md").read_text()


@pytest.mark.parametrize("data", ["flat", "classes"])
def test_tune_takes_points_of_recall(folder, data, tmp_path):
    shutil.copytree(folder / "out", tmp_path / "out")
    given = ["--images", folder / data]
    if data == "classes":
        given = ["--accuracy", tmp_path / "similarity.json"]
        evaluated = tokfilter("eval", folder / "model.pt", folder / data, "-o", given[1], "--keep", "0.5,4t")
        assert evaluated.exit_code == 0, evaluated.output
    common = ["tune", tmp_path / "out", "--duration", 0.01, "--model-batches", "", "--json"]
    tuned = tokfilter(*common, "--max-drop", 100, *given)
    assert tuned.exit_code == 0, tuned.output
    assert "points of recall@1 lost" in json.loads(tuned.stdout)["choice"]["reason"]


def test_recall_drops_of_an_engine_are_those_of_torch(folder):
    manifest = load_manifest(folder / "out")
    model = load_model(folder / "model.pt")
    for data in ("flat", "classes"):
        with open_session(folder / "out", "full") as full, open_session(folder / "out") as filtered:
            drops = recall_drops(full, filtered, manifest.model, embedded_files(folder / data), [4, 8], print)
        dataset = ImageDataset(images_from_folder(folder / data, need_classes=False), model.info.preprocessing)
        rows = evaluate_similarity(model, dataset, (1.0, 4, 8), lambda step, fraction: None)
        expected = {row.tokens: rows[0].recall - row.recall for row in rows[1:]}
        assert drops == pytest.approx(expected)


async def asked(app, requests):
    """Answers of an ASGI app to (method, path, body): status and text of each; the app starts and stops around them."""
    waiting: asyncio.Queue = asyncio.Queue()
    started = asyncio.Queue()
    life = asyncio.create_task(app({"type": "lifespan", "asgi": {"version": "3.0"}}, waiting.get, started.put))
    await waiting.put({"type": "lifespan.startup"})
    assert (await started.get())["type"] == "lifespan.startup.complete"
    answers = []
    for method, path, body in requests:
        sent: asyncio.Queue = asyncio.Queue()
        incoming: asyncio.Queue = asyncio.Queue()
        await incoming.put({"type": "http.request", "body": body, "more_body": False})
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
            "path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"", "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
            "headers": [(b"host", b"x"), (b"content-type", b"image/png"), (b"content-length", b"%d" % len(body))],
        }  # fmt: skip
        await app(scope, incoming.get, sent.put)
        parts = [sent.get_nowait() for _ in range(sent.qsize())]
        answers.append((parts[0]["status"], b"".join(part.get("body", b"") for part in parts[1:]).decode()))
    await waiting.put({"type": "lifespan.shutdown"})
    await life
    return answers


def test_the_service_answers_with_the_embedding(folder):
    pytest.importorskip("fastapi", reason="needs the extra service: pip install 'tokfilter[service]'")
    from tokfilter.runtime.service.app import Service
    from tokfilter.runtime.service.engine import engine_from_directory
    from tokfilter.runtime.service.limits import Limits

    content = (folder / "flat/0.png").read_bytes()
    predicted = json.loads(tokfilter("predict", folder / "out", folder / "flat/0.png", "--json").stdout)
    requests = [("POST", "/embed", content), ("POST", "/classify", content), ("GET", "/docs", b"")]
    with engine_from_directory(folder / "out", SessionOptions()) as engine:
        embedded, refused, page = asyncio.run(asked(Service(engine, Limits()).app, requests))
    assert embedded[0] == 200 and json.loads(embedded[1])["tokens"] == 8
    np.testing.assert_allclose(json.loads(embedded[1])["embedding"], predicted["embedding"], atol=1e-4)
    assert refused[0] == 404
    assert json.loads(refused[1])["detail"] == "this model gives embeddings: POST the image to /embed."
    assert "/embed?keep=0.5'" in page[1] and "classify" not in page[1]
