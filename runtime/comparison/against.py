"""What users run today, to be compared with: the full model in PyTorch, and as plain ``torch.onnx.export`` writes it.

All of them keep every token. They get the precision, the device and the threads of the engine that they are compared
with, and nothing else that a user would have to know of.
"""

import importlib.util
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tokfilter.artifacts.extras import install_hint
from tokfilter.artifacts.manifest import Manifest
from tokfilter.errors import DataError, EngineError, MissingDependencyError
from tokfilter.runtime.comparison.processes import EngineSpec, Interpreter
from tokfilter.runtime.model_files import check_bundle, find_bundle
from tokfilter.runtime.sessions import SessionOptions

__all__ = ["AGAINST", "check_against", "engines_prepared"]

AGAINST: Final[Mapping[str, str]] = {
    "torch-eager": "the full model in eager PyTorch, in inference mode, with scaled_dot_product_attention",
    "torch-compile": "the full model through torch.compile in its default mode, as one graph",
    "onnx-naive": "torch.onnx.export of the unfiltered timm model with a free batch, in a default InferenceSession",
}
"""Name of an engine -> what it runs."""

_EXPORT_S: Final = 600.0


def check_against(names: Sequence[str], options: SessionOptions) -> list[str]:
    """The names without doubles. Raises DataError for an unknown one, EngineError, MissingDependencyError."""
    unknown = [name for name in names if name not in AGAINST]
    if unknown:
        raise DataError(f"--against must name some of {', '.join(AGAINST)}; got {', '.join(map(repr, unknown))}.")
    if "onnx-naive" in names and options.precision == "bf16":
        raise EngineError("onnx-naive runs fp32 and fp16: numpy has no bf16 for its input. Leave it out of --against.")
    if names and importlib.util.find_spec("torch") is None:
        raise MissingDependencyError(
            f"{', '.join(names)} need PyTorch, which is not installed: {install_hint('export')}, or leave them out."
        )
    return list(dict.fromkeys(names))


@contextmanager
def engines_prepared(
    names: Sequence[str], directory: Path, manifest: Manifest, options: SessionOptions
) -> Iterator[list[EngineSpec]]:
    """The engines to be started, one per name; the graph of onnx-naive exists until the block ends.

    Raises what ``check_against`` raises; DataError without model.pt; EngineError where torch.onnx.export fails.
    """
    names = check_against(names, options)
    if not names:
        yield []
        return
    bundle = find_bundle(directory, manifest, options.bundle)
    check_bundle(bundle, manifest)
    on_gpu = options.runtime.startswith("tensorrt") or options.provider != "cpu"
    common = SessionOptions(
        precision=options.precision,
        provider="cuda" if on_gpu else "cpu",
        device=options.device,
        threads=options.threads,
        bundle=str(bundle),
    )
    torch = replace(common, runtime="torch")
    with TemporaryDirectory(prefix="tokfilter-naive-") as folder:
        if "onnx-naive" in names:
            _export(bundle, Path(folder), options.precision)
        specs = {
            "torch-eager": EngineSpec(directory, "full", "torch-eager", torch),
            "torch-compile": EngineSpec(directory, "full", "torch-compile", replace(torch, torch_compile=True)),
            "onnx-naive": EngineSpec(directory, "full", "onnx-naive", common, graphs=Path(folder)),
        }
        yield [specs[name] for name in names]


def _export(bundle: Path, folder: Path, precision: str) -> None:
    command = Interpreter().command("tokfilter.runtime.torch_naive_onnx", str(bundle), str(folder), precision)
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_EXPORT_S)
    except subprocess.TimeoutExpired:
        raise EngineError(f"torch.onnx.export did not end within {_EXPORT_S:.0f} s. Leave onnx-naive out.") from None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise EngineError(f"onnx-naive cannot be exported: {last[:300]} Leave it out of --against.")
