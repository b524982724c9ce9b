"""Tables of README.md and docs/, from the JSON in ``results``: ``python -m tokfilter.benchmarks readme``.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end of table -->``. A test compares pages and results.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

import click

from tokfilter.artifacts.files import atomic_path
from tokfilter.benchmarks.documents import with_current_keys
from tokfilter.benchmarks.records.campaign_tables import campaign_table, kills_table, load_table
from tokfilter.benchmarks.records.cpu_form_tables import forms_table, options_table, profile_table
from tokfilter.benchmarks.records.cpu_tables import cpu_engines_table, cpu_figures_table
from tokfilter.benchmarks.records.cuda_tables import cuda_zoo_table
from tokfilter.benchmarks.records.gpu_tables import comparison_table, kernel_table, label_speed_table
from tokfilter.benchmarks.records.int8_tables import int8_table
from tokfilter.benchmarks.records.label_tables import frozen_table, methods_table, selection_table, trained_table
from tokfilter.benchmarks.records.paths import RESULTS, ROOT
from tokfilter.benchmarks.records.per_image_tables import per_image_table
from tokfilter.benchmarks.records.portability_tables import portability_table
from tokfilter.benchmarks.records.proof_tables import PROOF_TABLES
from tokfilter.benchmarks.records.recipe_tables import recipe_table, search_table
from tokfilter.benchmarks.records.reducer_tables import cost_table, equal_latency_table, reducer_table
from tokfilter.benchmarks.records.segmentation_tables import mask_head_table, segmentation_table
from tokfilter.benchmarks.records.tables import (
    Document,
    ablation_table,
    accuracy_table,
    drop_table,
    longer_table,
    speed_table,
)
from tokfilter.benchmarks.records.unlabelled_tables import embeddings_table, label_losses_table

__all__ = ["TABLES", "page_with_tables", "pages"]


_PROOF_FILES: Final = {
    "proof_native": "gpu-proof-native.json",
    "proof_attention": "gpu-proof-attention.json",
    "proof_engines": "gpu-proof-engines.json",
}
"""Tables whose steps were measured in a run of their own."""

TABLES: Final[dict[str, tuple[str, Callable[[Document], str]]]] = {
    "fashion": ("accuracy-fashion-mnist.json", accuracy_table),
    "speed": ("runtime.json", speed_table),
    "digits": ("accuracy-digits-in-scenes.json", accuracy_table),
    "objects": ("accuracy-objects-in-photographs.json", accuracy_table),
    "objects_reducers": ("accuracy-objects-in-photographs.json", reducer_table),
    "objects_drops": ("accuracy-objects-in-photographs.json", drop_table),
    "fashion_drops": ("accuracy-fashion-mnist.json", drop_table),
    "digits_drops": ("accuracy-digits-in-scenes.json", drop_table),
    "fashion_longer": ("accuracy-fashion-mnist.json", longer_table),
    "digits_longer": ("accuracy-digits-in-scenes.json", longer_table),
    "fashion_ablations": ("accuracy-fashion-mnist.json", ablation_table),
    "digits_ablations": ("accuracy-digits-in-scenes.json", ablation_table),
    "fashion_methods": ("label_methods_fashion.json", methods_table),
    "digits_methods": ("label_methods_digits.json", methods_table),
    "digits_selection": ("label_selection_digits.json", selection_table),
    "int8_accuracy": ("int8_accuracy.json", int8_table),
    "int8_accuracy_fashion": ("int8_accuracy_fashion.json", int8_table),
    "trained_vit": ("trained_vit.json", trained_table),
    "frozen": ("frozen.json", frozen_table),
    "label_losses": ("label_losses.json", label_losses_table),
    "embeddings": ("embeddings.json", embeddings_table),
    "gpu_kernel": ("gpu-kernel.json", kernel_table),
    "gpu_onnx_fp16": ("gpu-onnx-fp16.json", comparison_table),
    "gpu_onnx_fp32": ("gpu-onnx-fp32.json", comparison_table),
    "cpu_engines": ("cpu_engines.json", cpu_engines_table),
    "cpu_figures": ("cpu_engines.json", cpu_figures_table),
    "cuda_zoo": ("cuda_zoo.json", cuda_zoo_table),
    "cpu_forms": ("cpu_forms.json", forms_table),
    "cpu_options": ("cpu_forms.json", options_table),
    "cpu_profile": ("cpu_forms.json", profile_table),
    "per_image": ("per_image.json", per_image_table),
    "portability": ("portability.json", portability_table),
    "campaign": ("campaign.json", campaign_table),
    "campaign_kills": ("campaign.json", kills_table),
    "campaign_load": ("campaign.json", load_table),
    "mask_head": ("mask_head.json", mask_head_table),
    "segmentation": ("segmentation.json", segmentation_table),
    **{
        f"{data}_{table}": (f"reducers-{name}.json", write)
        for data, name in (("fashion", "fashion-mnist"), ("digits", "digits-in-scenes"))
        for table, write in (
            ("all", accuracy_table),
            ("reducers", reducer_table),
            ("equal_latency", equal_latency_table),
        )
    },
    "recipe": ("recipe.json", recipe_table),
    "objects_recipe": ("recipe-objects-in-photographs.json", recipe_table),
    "recipe_search": ("recipe_search.json", search_table),
    "reducer_costs": ("reducers-deit-small.json", cost_table),
    "gpu_labels": ("gpu-label_speed.json", label_speed_table),
    **{name: (_PROOF_FILES.get(name, "gpu-proof.json"), write) for name, (_, write) in PROOF_TABLES.items()},
}
"""Name of a table -> (file in results, function that writes the table)."""

_UNMEASURED: Final = {
    "accuracy-objects-in-photographs.json": (
        "Not measured yet: `python -m tokfilter.benchmarks study WORK --data objects-in-photographs`."
    ),
    "reducers-fashion-mnist.json": "Not measured yet: `python -m tokfilter.benchmarks study WORK --reducers`.",
    "reducers-digits-in-scenes.json": "Not measured yet: `python -m tokfilter.benchmarks study WORK --reducers`.",
    "reducers-deit-small.json": "Not measured yet on an idle machine: `python -m tokfilter.benchmarks reducer-costs`.",
    "recipe.json": "Not measured yet: `python -m tokfilter.benchmarks recipe WORK`.",
    "recipe_search.json": "Not measured yet: `python -m tokfilter.benchmarks recipe-search WORK`.",
    "frozen.json": "Not measured yet: `python -m tokfilter.benchmarks frozen WORK`.",
    "label_losses.json": "Not measured yet: `python -m tokfilter.benchmarks label-losses WORK`.",
    "label_selection_digits.json": "Not measured yet: `python -m tokfilter.benchmarks label-selection`.",
    "embeddings.json": "Not measured yet: `python -m tokfilter.benchmarks embeddings WORK`.",
    "mask_head.json": "Not measured yet: `python -m tokfilter.benchmarks mask-head`.",
    "segmentation.json": "Not measured yet: `python -m tokfilter.benchmarks segmentation`.",
    "campaign.json": "Not measured yet: `make campaign`.",
    "cpu_engines.json": "Not measured yet: `python -m tokfilter.benchmarks cpu-engines`.",
    "cpu_forms.json": "Not measured yet on an idle machine: `python -m tokfilter.benchmarks cpu-forms`.",
    "cuda_zoo.json": "Not measured yet: `python -m tokfilter.benchmarks cuda-zoo`.",
    "int8_accuracy_fashion.json": "Not measured yet: `python -m tokfilter.benchmarks int8-accuracy WORK`.",
    **dict.fromkeys(("gpu-proof.json", *_PROOF_FILES.values()), "Not measured yet: `make gpu-proof`."),
}
"""File in results that may be absent -> what stands in place of its tables."""


def pages() -> list[Path]:
    """Every page that may hold tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def page_with_tables(text: str, results: Path = RESULTS) -> str:
    """``text`` with every table rewritten. Raises KeyError for an unknown table."""

    def written(match: re.Match[str]) -> str:
        file, write = TABLES[match["name"]]
        if file in _UNMEASURED and not (results / file).is_file():
            return f"{match['start']}\n\n{_UNMEASURED[file]}\n\n{match['end']}"
        document = json.loads((results / file).read_text(encoding="utf-8"))
        return f"{match['start']}\n\n{write(with_current_keys(document))}\n\n{match['end']}"

    pattern = r"(?P<start><!-- table: (?P<name>\w+) -->).*?(?P<end><!-- end of table -->)"
    return re.sub(pattern, written, text, flags=re.DOTALL)


@click.command("readme")
def main() -> None:
    """Rewrite the tables of README.md and docs/, and the charts of docs/, from benchmarks/results."""
    from tokfilter.benchmarks.records.latency_charts import CHARTS, chart_of  # matplotlib takes a second to import

    for page in pages():
        text = page_with_tables(page.read_text(encoding="utf-8"))
        with atomic_path(page) as part:
            part.write_text(text, encoding="utf-8")
    for name, source in CHARTS.items():
        if (RESULTS / source).is_file():
            with atomic_path(ROOT / "docs" / name) as part:
                part.write_bytes(chart_of(name))
