"""recipe.json: the default recipe of ``tokfilter train`` on the data sets, and its fine-tuning with ToMe and EViT.

    python -m tokfilter.benchmarks recipe WORK --seeds 0,1,2
    python -m tokfilter.benchmarks recipe WORK --data objects-in-photographs --seeds 0 --jobs 5

The recipe was chosen on held-out training images (``recipe_search.py``). On digits-in-scenes there are 10,000 test
scenes here, not the study's 2,000, which make an interval wider than the goals. So backbones are trained in
``WORK/recipe``, by the study's settings. objects-in-photographs is for a GPU, and has the baselines too. Other reducers
get the multiply-accumulates of the filtered model, never less, and draw the budgets of their training from the range in
which they are compared. Finished rows are kept in WORK, so an interrupted run continues, and more seeds can be added.
"""

import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click
import torch

from tokfilter.benchmarks.accuracy_document import interval_name, mean_and_half_width
from tokfilter.benchmarks.options import command_line, data_option, json_option, numbers_from_text, publish
from tokfilter.benchmarks.records.paths import RESULTS
from tokfilter.benchmarks.study.methods import BEFORE, FILTER, RECIPE, RECIPE_BASELINES, RECIPE_VARIANTS
from tokfilter.benchmarks.study.seed_run import Rows, SeedRun, has_rows, rows_from_method
from tokfilter.benchmarks.study.task_data import write_data
from tokfilter.benchmarks.study.tasks import DIGITS, FASHION, OBJECTS_BY_RECIPE
from tokfilter.benchmarks.study.wheels import wheels_option
from tokfilter.benchmarks.study.work_folder import check_work_folder
from tokfilter.errors import DataError
from tokfilter.runtime.measure.record import header
from tokfilter.train.data import quiet
from tokfilter.train.recipe_file import recipe_from_source, text_from_recipe

__all__ = ["main", "rows_of_set"]

_SETS: Final = {
    DIGITS.name: replace(DIGITS, config=replace(DIGITS.config, test=10_000)),
    FASHION.name: FASHION,
    OBJECTS_BY_RECIPE.name: OBJECTS_BY_RECIPE,
}
_SMALL: Final = f"{DIGITS.name},{FASHION.name}"
_METHODS: Final = {
    DIGITS.name: (BEFORE, *RECIPE, *RECIPE_VARIANTS),
    FASHION.name: (BEFORE, *RECIPE, *RECIPE_VARIANTS),
    OBJECTS_BY_RECIPE.name: (BEFORE, *RECIPE, *RECIPE_BASELINES),
}
_COMPARED: Final = (*(name for name, reducer in RECIPE.items() if reducer != FILTER), *RECIPE_BASELINES)


def rows_of_set(per_seed: Sequence[Rows]) -> list[dict[str, Any]]:
    """One row for each method and budget of the filter, with the values of every seed.

    lost: points against the same checkpoint with every token
    ahead: of another reducer, points that the filter is ahead of it at the same budget and seed
    """
    cells: dict[tuple[str, int], dict[str, list[Any]]] = {}
    for rows in per_seed:
        by_budget = sorted(rows, key=lambda row: int(row["budget"] if "budget" in row else row["tokens"]))
        every = {row["method"]: row["top1"] for row in by_budget}  # that of the largest budget stays
        at_equal_cost = [row for row in rows if "tokens" in row]  # the others are of a reducer's curve
        filtered = {row["tokens"]: row["top1"] for row in at_equal_cost if RECIPE.get(row["method"]) == FILTER}
        for row in at_equal_cost:
            method, top1 = row["method"], row["top1"]
            empty: dict[str, list[Any]] = {"macs": [], "top1": [], "lost": [], "ahead": []}
            cell = cells.setdefault((method, row["tokens"]), empty)
            cell["macs"].append(row["macs"])
            cell["top1"].append(top1)
            cell["lost"].append(100 * (every[method] - top1))
            if method in _COMPARED and row["tokens"] in filtered:  # the filter's rows may not be there yet
                cell["ahead"].append(100 * (filtered[row["tokens"]] - top1))
    return [
        {"method": method, "tokens": tokens, **cell, "macs": cell["macs"][0]}
        for (method, tokens), cell in cells.items()
    ]


def _run(work: Path, name: str, seed: int, wheels: Path) -> SeedRun:
    task, folder = replace(_SETS[name], wheels=wheels), _folder(work, name, seed)
    return SeedRun(task, task.config, seed, (folder if task.seeded else folder.parent) / "data", folder, quiet)


def _folder(work: Path, name: str, seed: int) -> Path:
    return work / "recipe" / name / f"seed-{seed}"


def _rows_of_method(work: Path, name: str, seed: int, wheels: Path, method: str) -> Rows:
    torch.set_num_threads(1)
    return rows_from_method(_run(work, name, seed, wheels), method)


def _output(names: Sequence[str]) -> Path:
    """A document of its own for other data sets than the two small ones, which the pages show together."""
    name = "recipe.json" if ",".join(names) == _SMALL else f"recipe-{'-'.join(names)}.json"
    return RESULTS / name if RESULTS.is_dir() else Path(name)


@click.command()
@click.argument("work", type=click.Path(path_type=Path, file_okay=False))
@data_option(_SETS, _SMALL, "; the last one is for a GPU")
@wheels_option
@click.option("--seeds", callback=numbers_from_text, default="0,1,2", show_default=True)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Rows at once, a core each; of objects-in-photographs 3 GB of memory each.",
)
@click.option("--present", is_flag=True, help="Take the rows that are there; train nothing.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="JSON document to write. Default: recipe.json, or recipe-NAMES.json for other --data, in benchmarks/results.",
)
@json_option
def main(
    work: Path,
    data: list[str],
    wheels: Path,
    seeds: list[int],
    jobs: int,
    present: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Train the study's models by the default recipe: 90 minutes of one core for a seed of the two small sets."""
    if not seeds:
        raise click.UsageError("--seeds is empty; give at least one seed, such as --seeds 0")
    output = output or _output(data)
    check_work_folder(work / "recipe", _recipe(), "recipe.json")
    names = dict.fromkeys(data)
    cells = [
        (method, name, seed)
        for method in dict.fromkeys(method for name in names for method in _METHODS[name])
        for name in names
        for seed in seeds
        if method in _METHODS[name]
        if not present or has_rows(_folder(work, name, seed), method)
    ]
    if lacking := [name for name in names if (BEFORE, name) not in {cell[:2] for cell in cells}]:
        raise DataError(f"{work} has no rows of {lacking[0]}: leave --present out to train its models.")
    for _, name, seed in cells:  # before the processes start, which share Fashion-MNIST
        run = _run(work, name, seed, wheels)
        write_data(run.task, run.config, seed, run.data, quiet)
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:  # the filter's rows come first
        pending: dict[Any, Any] = {}
        for stage in ([cell for cell in cells if cell[0] == BEFORE], [cell for cell in cells if cell[0] != BEFORE]):
            pending |= {cell: pool.submit(_rows_of_method, work, cell[1], cell[2], wheels, cell[0]) for cell in stage}
            for method, name, seed in stage:  # each backbone is trained once, before what starts from it
                pending[method, name, seed].result()
                click.echo(f"{name}: seed {seed}, {method}", err=True)
    sets = []
    for name in names:
        per_seed = [
            rows
            for seed in seeds
            if (rows := [row for cell, of in pending.items() if cell[1:] == (name, seed) for row in of.result()])
        ]
        images, changes = per_seed[0][0]["images"], list(_SETS[name].recipe)
        sets.append({"name": name, "images": images, "settings": changes, "rows": rows_of_set(per_seed)})
    settings = {"seeds": seeds, "threads": 1, "interval": interval_name(len(seeds)), "recipe": _recipe()}
    document = {**header("recipe", command_line()), "settings": settings, "sets": sets}
    publish(document, output, as_json, (_line(one["name"], row) for one in sets for row in one["rows"]))


def _recipe() -> str:
    return text_from_recipe(recipe_from_source("default"))


def _line(name: str, row: Mapping[str, Any]) -> str:
    top1, lost = (mean_and_half_width(row[key])[0] for key in ("top1", "lost"))
    return f"{name:17} {row['method']:26} {row['tokens']:3} tokens  top-1 {top1:.1%}, {lost:.2f} points lost"
