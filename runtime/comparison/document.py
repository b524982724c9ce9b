"""bench.json: the measurements of a comparison with the settings, machine and verification they depend on."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tokfilter.artifacts.manifest import Manifest
from tokfilter.runtime.comparison.against import AGAINST
from tokfilter.runtime.comparison.other_rows import best_other, gpu_metrics, other_row
from tokfilter.runtime.comparison.rounds import BenchConfig, Cell, Measurements
from tokfilter.runtime.measure.cost_document import cost_document, cost_point
from tokfilter.runtime.measure.metrics import (
    PERCENTILE_RULE,
    latency_from_samples,
    stability,
    transfer_warnings,
)
from tokfilter.runtime.measure.record import header
from tokfilter.runtime.measure.statistics import CONFIDENCE, Interval, break_even, macs_at, speedup_from_pairs
from tokfilter.runtime.sessions import SessionOptions

__all__ = ["document_from_measurements"]


def document_from_measurements(
    measured: Measurements,
    manifest: Manifest,
    options: SessionOptions,
    config: BenchConfig,
    command: str,
    further: Sequence[SessionOptions] = (),
) -> dict[str, Any]:
    """The document (``schemas/bench.json``).

    further: options of ``measured.further``, in the same order
    """
    card = manifest.model
    rows, points = _rows(measured.cells, measured, manifest, config)
    before, after = measured.before, measured.after
    return {
        **header("bench", command),
        "conditions": {"before": before, "after": after},
        "model": {
            "architecture": card.architecture,
            "input_size": list(card.input_size),
            "patches": card.num_patches,
            "prefix_tokens": card.prefix_tokens,
            "classes": card.classes,
        },
        "settings": _settings(options, config)
        | {"against": {cell.spec.path: AGAINST[cell.spec.path] for cell in measured.others}},
        "verification": measured.verdicts,
        "rows": rows,
        "against": [other_row(cell) for cell in measured.others],
        **_further(measured, manifest, config, further),
        "break_even": points,
        "cost_model": _cost_model(measured, manifest, config),
        "notes": _notes(measured, rows),
    }


def _rows(
    engine: Sequence[Cell], measured: Measurements, manifest: Manifest, config: BenchConfig
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of one engine, each against its own full model, and its break-even budget at each batch size."""
    rows: list[dict[str, Any]] = []
    points = []
    for batch in sorted({cell.batch for cell in engine}):
        cells = [cell for cell in engine if cell.batch == batch]
        full = next(cell for cell in cells if cell.spec.role == "full")
        speedups = {
            cell.tokens: speedup_from_pairs(full.medians, cell.medians, config.seed)
            for cell in cells
            if cell is not full
        }
        others = [cell for cell in measured.others if cell.batch == batch]
        rows += [
            _row(cell, manifest, speedups.get(cell.tokens)) | best_other(cell, others, manifest.model, config.seed)
            for cell in cells
        ]
        points.append(asdict(break_even(batch, speedups, manifest.model.num_patches)))
    return rows, points


def _further(
    measured: Measurements, manifest: Manifest, config: BenchConfig, options: Sequence[SessionOptions]
) -> dict[str, Any]:
    """Rows of the further engines, with the speed-up over the first engine at the same batch size and budget."""
    if not options:
        return {}
    first = {(cell.batch, cell.tokens): cell for cell in measured.cells}
    engines = []
    for one, cells in zip(options, measured.further, strict=True):
        rows, points = _rows(cells, measured, manifest, config)
        for row in rows:
            place = row["batch"], row["tokens"]
            cell = next(c for c in cells if (c.batch, c.tokens) == place)
            row["over_first"] = asdict(speedup_from_pairs(first[place].medians, cell.medians, config.seed))
        engines.append({"settings": _engine_settings(one), "rows": rows, "break_even": points})
    return {"engines": engines}


def _cost_model(measured: Measurements, manifest: Manifest, config: BenchConfig) -> dict[str, Any]:
    """Fitted to all rows; its sentence is about the filtered budget nearest to half of the tokens."""
    card = manifest.model
    points = [cost_point(card, c.batch, c.tokens, latency_from_samples(c.samples).median) for c in measured.cells]
    budgets = {cell.tokens for cell in measured.cells if cell.spec.role == "filtered"}
    tokens = min(budgets, key=lambda k: (abs(k - card.num_patches / 2), k), default=card.num_patches)
    return cost_document(card, points, tokens, config.seed)


def _row(cell: Cell, manifest: Manifest, speedup: Interval | None) -> dict[str, Any]:
    card = manifest.model
    latency = latency_from_samples(cell.samples)
    timings = cell.timings
    macs, full_macs = macs_at(card, cell.tokens), macs_at(card, card.num_patches)
    mac_ratio = full_macs / macs if macs and full_macs and speedup is not None else None
    return {
        "batch": cell.batch,
        "role": cell.spec.role,
        "keep": cell.tokens / card.num_patches,
        "tokens": cell.tokens,
        "path": cell.spec.path,
        "latency_ms": asdict(latency),
        "gpu_ms": gpu_metrics(timings),
        "images_per_s": cell.batch / latency.median * 1e3,
        "speedup": None if speedup is None else asdict(speedup),
        "macs": macs,
        "mac_ratio": mac_ratio,
        "efficiency": None if speedup is None or mac_ratio is None else speedup.value / mac_ratio,
        "warnings": stability(latency, gpu=bool(timings)) + transfer_warnings(timings),
        "memory": dict(cell.memory),
        "power": cell.power,
    }


def _engine_settings(options: SessionOptions) -> dict[str, Any]:
    onnx, torch = options.runtime == "onnx", options.runtime == "torch"
    return {
        "engine": options.runtime,
        "provider": options.provider if torch or onnx else None,
        "precision": options.precision,
        "threads": options.threads,
        "spinning": options.spinning if onnx else None,
        "huge_pages": options.huge_pages if onnx else None,
        "hint": options.hint if options.runtime == "openvino" else None,
        "fixed_shapes": options.fixed_shapes if options.runtime == "openvino" else None,
    }


def _settings(options: SessionOptions, config: BenchConfig) -> dict[str, Any]:
    on_host = options.runtime in ("torch", "onnx", "openvino") and options.provider == "cpu"
    return {
        **_engine_settings(options),
        "duration_s": config.duration_s,
        "warm_up_s": config.warm_up_s,
        "block_s": config.block_s,
        "order": "rounds of full and every budget, in alternating order; one process per engine, one runs at a time",
        "transfers": "none: host memory" if on_host else "included: host to device and device to host",
        "stages": "none: an engine on the CPU has no transfers" if on_host else "between device events: gpu_ms",
        "cuda_graph": options.cuda_graph and options.runtime != "onnx",
        "spin_wait": "none: CPU" if on_host else "the driver's default",
        "streams": 1,
        "clocks": "as found (conditions)",
        "percentile_rule": PERCENTILE_RULE,
        "confidence": CONFIDENCE,
        "seed": config.seed,
    }


def _notes(measured: Measurements, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    notes = []
    if measured.absent_sensors:
        notes.append(f"absent power sensors: {', '.join(measured.absent_sensors)}")
    unstable = sum(1 for row in rows if row["warnings"])
    if unstable:
        notes.append(f"{unstable} of {len(rows)} rows have warnings, marked ! in the table")
    if measured.after["throttled"]:
        notes.append("the machine was throttled: " + ", ".join(measured.after["throttle_reasons"]))
    load = measured.before["load_average"]
    if load is not None and load > 0.5:
        notes.append(f"other processes were running: load average {load:.1f} before the measurement")
    without = sorted({v["tokens"] for v in measured.verdicts if v["compared"] == "indices"})
    if without:
        notes.append(
            f"the kept tokens were compared at {without} tokens, and no other output: torch computed none, or every "
            "image kept other tokens in near ties"
        )
    return notes
