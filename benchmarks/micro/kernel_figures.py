"""The CUDA kernel without a GPU: compile matrix, bytes moved, cycles of the selection.

``python -m tokfilter.benchmarks kernel-figures`` measures them, and writes the JSON document and the tables in
``kernels/csrc/README.md``. It needs nvcc, nvdisasm (Triton's is enough) and g++, and takes a few minutes.
"""

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any, Final

import click

from tokfilter.artifacts.files import atomic_path
from tokfilter.benchmarks.micro.compile_matrix import ARCHITECTURES, MAX_PATCHES, compile_matrix, compiler
from tokfilter.benchmarks.micro.cycles import ORIN, busy_cycles, kernel_code
from tokfilter.benchmarks.micro.kernel_cases import KernelCase, run_cases
from tokfilter.benchmarks.micro.native import CSRC, KERNEL, build_check
from tokfilter.benchmarks.options import PROGRAM, json_option, output_option, publish
from tokfilter.benchmarks.records.paths import RESULTS
from tokfilter.errors import VerificationError
from tokfilter.kernels.op import Order

__all__ = ["README", "RESULT", "main", "measure", "sources_digest", "tables", "written_into"]

RESULT: Final = RESULTS / "kernel-figures.json"
README: Final = CSRC / "README.md"
VERSION: Final = 1

_BEGIN: Final = f"<!-- figures: {PROGRAM} kernel-figures -->"
_END: Final = "<!-- end of figures -->"
_MODELS: Final = {"DeiT-S": (196, 384, 98), "ViT-L": (1024, 1024, 512)}
_ORDERS: Final[tuple[Order, ...]] = ("position", "score")
_BATCHES: Final = (1, 8, 64)
_PREFIX, _SIZE = 1, 2  # one class token; fp16


def sources_digest() -> str:
    """Digest of the kernel's source files, on which the figures depend."""
    digest = hashlib.sha256()
    for path in sorted((KERNEL, *CSRC.glob("*.cuh"), *CSRC.glob("*.h"))):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def measure(directory: Path) -> dict[str, Any]:
    """Compile for every architecture, run the models' sizes on the CUDA-on-CPU layer, bound the cycles."""
    matrix = compile_matrix(directory)
    traffic = _traffic(build_check("check_cases", directory, ""))
    return {
        "format": "tokfilter-kernel-figures",
        "version": VERSION,
        "date": date.today().isoformat(),
        "command": f"{PROGRAM} kernel-figures",
        "compiler": compiler(),
        "sources": sources_digest(),
        "matrix": [asdict(resources) for resources in matrix],
        "traffic": traffic,
        "cycles": [_cycles(directory, row, order) for row in traffic if row["batch"] == 64 for order in _ORDERS],
    }


def _traffic(check: Path) -> list[dict[str, Any]]:
    rows = []
    for model, (num_patches, channels, k) in _MODELS.items():
        for batch in _BATCHES:
            case = KernelCase(
                batch, _PREFIX, num_patches, channels, k, _SIZE, multiprocessors=ORIN.multiprocessors, seed=batch
            )
            (record,) = run_cases([check], [case])
            if record["difference"]:
                raise VerificationError(f"the kernel differs from the reference, {case}: {record['difference']}")
            sizes = {"model": model, "batch": batch, "patches": num_patches, "channels": channels, "k": k}
            rows.append(sizes | {"minimum": 2 * batch * channels * (_PREFIX + k) * _SIZE} | record)
    return rows


def _cycles(directory: Path, row: dict[str, Any], order: Order) -> dict[str, Any]:
    """The bound for fp32 scores, the most expensive type, at the batch of the row."""
    keys, threads = next(variant for variant, most in MAX_PATCHES.items() if row["patches"] <= most)
    kernel = kernel_code(directory / f"sm_{ORIN.architecture}.cubin", 0, keys)
    blocks = row["blocks"] // row["batch"]
    per_block = busy_cycles(kernel, order, threads, 32, -(-(_PREFIX + row["k"]) // blocks))
    selection = row["blocks"] * per_block / (ORIN.multiprocessors * ORIN.clock_hz)
    return {
        "device": ORIN.name,
        "model": row["model"],
        "batch": row["batch"],
        "order": order,
        "blocks_per_image": blocks,
        "cycles_per_block": round(per_block),
        "selection_microseconds": round(selection * 1e6, 2),
        "bytes_microseconds": round(row["minimum"] / ORIN.bytes_per_second * 1e6, 2),
    }


def tables(figures: dict[str, Any]) -> str:
    """The README's tables."""
    return "\n\n".join((_matrix_table(figures), _traffic_table(figures), _cycles_table(figures)))


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _matrix_table(figures: dict[str, Any]) -> str:
    rows = []
    for sm in ARCHITECTURES:
        cells = []
        for keys, threads in MAX_PATCHES:
            same = [
                one
                for one in figures["matrix"]
                if (one["architecture"], one["keys_per_thread"], one["threads"]) == (sm, keys, threads)
            ]
            registers, fraction = max(one["registers"] for one in same), min(one["occupancy"] for one in same)
            cells.append(f"{registers} / {fraction:.0%}")
        spills = sum(one["spill_bytes"] for one in figures["matrix"] if one["architecture"] == sm)
        shared = max(one["shared_bytes"] for one in figures["matrix"] if one["architecture"] == sm)
        rows.append([f"sm_{sm}", *cells, shared, spills])
    variants = [f"N <= {most} ({keys} x {threads})" for (keys, threads), most in MAX_PATCHES.items()]
    head = ["", *variants, "shared bytes", "spilled bytes"]
    text = (
        "Registers / theoretical occupancy, the worst of the three score types; (keys per thread x threads per block). "
        f"{figures['compiler']}, no warnings, PTX of compute_{max(ARCHITECTURES)} included."
    )
    return f"{text}\n\n{_table(head, rows)}"


def _traffic_table(figures: dict[str, Any]) -> str:
    head = ["", "batch", "blocks", "token bytes moved", "minimum", "score bytes loaded", "barriers per block"]
    rows = []
    for row in figures["traffic"]:
        moved = row["tokens_loaded"] + row["selected_stored"]
        barriers = row["barriers"] / row["blocks"]
        scores = f"{row['scores_loaded']:,}"
        name = f"{row['model']} (N {row['patches']}, k {row['k']})"
        rows.append([name, row["batch"], row["blocks"], f"{moved:,}", f"{row['minimum']:,}", scores, f"{barriers:.1f}"])
    text = "Bytes counted by the CUDA-on-CPU layer, fp16 tokens, fp32 scores, a device of 16 multiprocessors."
    return f"{text}\n\n{_table(head, rows)}"


def _cycles_table(figures: dict[str, Any]) -> str:
    head = ["", "order", "blocks per image", "cycles per block", "selection, all blocks", "bytes alone"]
    rows = [
        [
            f"{row['model']}, batch {row['batch']}",
            row["order"],
            row["blocks_per_image"],
            f"{row['cycles_per_block']:,}",
            f"{row['selection_microseconds']} us",
            f"{row['bytes_microseconds']} us",
        ]
        for row in figures["cycles"]
    ]
    text = (
        f"Bound from above for the selection's own instructions on {ORIN.name}, and the time that the rows' bytes need."
    )
    return f"{text}\n\n{_table(head, rows)}"


def written_into(readme: str, figures: dict[str, Any]) -> str:
    """The README's text with its generated part replaced."""
    before, rest = readme.split(_BEGIN)
    return f"{before}{_BEGIN}\n\n{tables(figures)}\n\n{_END}{rest.split(_END)[1]}"


@click.command()
@output_option(RESULT)
@json_option
def main(output: Path, as_json: bool) -> None:
    """Measure the kernel without a GPU; write the JSON document and the tables of kernels/csrc/README.md."""
    with tempfile.TemporaryDirectory() as directory:
        figures = measure(Path(directory))
    readme = written_into(README.read_text(encoding="utf-8"), figures)
    with atomic_path(README) as part:
        part.write_text(readme, encoding="utf-8")
    publish(figures, output, as_json, [tables(figures)])
