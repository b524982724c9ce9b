"""A model repository in a real Triton Inference Server, on the CPU: `make triton` fetches the server.

The wheel nvidia-pytriton carries tritonserver without a backend for ONNX; ``triton_onnxruntime`` is one in Python. So
the configuration, the dynamic batcher, the warm-up and the labels are Triton's own; the backend is not NVIDIA's.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from paths import ROOT

from tokfilter.artifacts.golden import golden_of
from tokfilter.artifacts.manifest import load_manifest
from tokfilter.export.serving.triton import triton_repository
from tokfilter.export.serving.triton_config import TritonOptions

WHEEL = ROOT / "build" / "triton"
STUB = WHEEL / "pytriton/tritonserver/python_backend_stubs" / f"{sys.version_info.major}.{sys.version_info.minor}"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not STUB.is_dir(), reason="no tritonserver for this Python in build/triton: make triton"),
]


def backends(folder):
    """A backend directory: Triton's Python backend, and ours above it under the name that config.pbtxt asks for."""
    shutil.copytree(WHEEL / "pytriton/tritonserver/backends/python", folder / "python")
    shutil.copy(STUB / "triton_python_backend_stub", folder / "python")
    (folder / "python" / "triton_python_backend_stub").chmod(0o755)
    (folder / "onnxruntime").mkdir()
    text = (ROOT / "tests" / "tools" / "triton_onnxruntime" / "model.py").read_text()
    found = [path for path in sys.path if "site-packages" in path]  # the server gives its Python another path
    (folder / "onnxruntime" / "model.py").write_text(f"import sys\n\nsys.path[:0] = {found!r}\n{text}")
    return folder


@pytest.fixture(scope="module")
def client(export_directory, tmp_path_factory):
    grpc = pytest.importorskip("tritonclient.grpc")
    place = tmp_path_factory.mktemp("server")
    triton_repository(export_directory, place / "r", TritonOptions(max_batch=16, delay_us=5000), full=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = ["--grpc-address=127.0.0.1", f"--grpc-port={port}", "--allow-http=false", "--allow-metrics=false"]
    program = WHEEL / "pytriton" / "tritonserver" / "bin"
    (program / "tritonserver").chmod(0o755)  # pip unpacks it without
    environment = {
        "PATH": f"{program}:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": str(WHEEL / "nvidia_pytriton.libs"),
    }
    command = [place / "r" / "start.sh", *settings, f"--backend-directory={backends(place / 'backends')}"]
    # Away from here: Triton's Python looks for model.py in the working directory first, and there is one of ours.
    with (
        (place / "log").open("w") as log,
        subprocess.Popen(command, env=environment, cwd=place, stdout=log, stderr=log) as server,
        grpc.InferenceServerClient(f"127.0.0.1:{port}") as found,
    ):
        try:
            wait_until_ready(found, server, place / "log")
            yield found
        finally:
            server.terminate()
    assert server.returncode == 0, (place / "log").read_text()[-3000:]


def wait_until_ready(client, server, log):
    from tritonclient.utils import InferenceServerException

    end = time.monotonic() + 60
    while time.monotonic() < end and server.poll() is None:
        try:
            if client.is_server_ready():
                return
        except InferenceServerException:  # it does not listen yet
            pass
        time.sleep(0.1)
    raise AssertionError(log.read_text()[-3000:])


def ask(client, model, images, k=None, **more):
    import tritonclient.grpc as grpc

    inputs = [grpc.InferInput("images", images.shape, "FP32").set_data_from_numpy(images)]
    if k is not None:
        slots = np.zeros((len(images), k), np.int32)
        inputs.append(grpc.InferInput("slots", slots.shape, "INT32").set_data_from_numpy(slots))
    return client.infer(model, inputs, **more)


@pytest.fixture(scope="module")
def golden(export_directory):
    return golden_of(export_directory, load_manifest(export_directory))


def test_triton_takes_every_configuration_as_it_was_meant(client):
    for name in ("filtered_fp32_onnx", "filtered_k8_fp32_onnx", "full_fp32_onnx"):
        assert client.is_model_ready(name)
        config = client.get_model_config(name).config
        assert config.max_batch_size == 16 and config.dynamic_batching.max_queue_delay_microseconds == 5000
        assert config.dynamic_batching.default_queue_policy.max_queue_size == 256
        assert len(config.model_warmup) == 1


def test_answers_are_torchs(client, golden):
    full = ask(client, "full_fp32_onnx", golden.images)
    np.testing.assert_allclose(full.as_numpy("logits"), golden.full, atol=1e-4)
    fixed = ask(client, "filtered_k8_fp32_onnx", golden.images)
    np.testing.assert_allclose(fixed.as_numpy("logits"), golden.logits[8], atol=1e-4)
    for k, logits in golden.logits.items():
        found = ask(client, "filtered_fp32_onnx", golden.images, k)
        np.testing.assert_allclose(found.as_numpy("logits"), logits, atol=1e-4)
        np.testing.assert_array_equal(found.as_numpy("indices"), golden.expected_indices(k))


def test_requests_are_joined_and_each_keeps_its_budget(client, golden):
    """Three budgets from many clients: were two budgets ever joined, an answer would have another length.

    They come in runs, because Triton ends a batch at the first request of another shape.
    """
    requests = [(row % 3, k) for k in (4, 8, 11) for row in range(40)]
    before = counts(client)
    with ThreadPoolExecutor(24) as pool:
        jobs = [pool.submit(ask, client, "filtered_fp32_onnx", golden.images[row : row + 1], k) for row, k in requests]
        for (row, k), job in zip(requests, jobs, strict=True):
            np.testing.assert_allclose(job.result().as_numpy("logits")[0], golden.logits[k][row], atol=1e-4)
            np.testing.assert_array_equal(job.result().as_numpy("indices")[0], golden.expected_indices(k)[row])
    inferences, executions = (after - then for after, then in zip(counts(client), before, strict=True))
    assert inferences == len(requests) and executions < len(requests) / 1.5


def counts(client):
    (found,) = client.get_inference_statistics("filtered_fp32_onnx").model_stats
    return found.inference_count, found.execution_count


def test_classes_are_named(client, golden):
    import tritonclient.grpc as grpc

    wanted = [grpc.InferRequestedOutput("logits", class_count=2)]
    found = ask(client, "filtered_fp32_onnx", golden.images[:1], 8, outputs=wanted).as_numpy("logits")
    best = int(golden.logits[8][0].argmax())
    assert found[0][0].decode().endswith(f":{best}:{['ant', 'bee', 'cat', 'dog', 'eel'][best]}")


def test_what_does_not_fit_is_refused_and_the_server_goes_on(client, golden):
    from tritonclient.utils import InferenceServerException

    with pytest.raises(InferenceServerException, match=r"unexpected shape for input 'images'"):
        ask(client, "filtered_fp32_onnx", golden.images[..., :31].copy(), 8)
    with pytest.raises(InferenceServerException, match="expected 2 inputs but got 1"):
        ask(client, "filtered_fp32_onnx", golden.images)
    with pytest.raises(InferenceServerException, match="batch-size must be <= 16"):
        ask(client, "filtered_fp32_onnx", np.repeat(golden.images, 6, axis=0), 8)
    with pytest.raises(InferenceServerException, match="ONNXRuntimeError"):
        ask(client, "filtered_fp32_onnx", golden.images, 17)
    assert client.is_server_live()
