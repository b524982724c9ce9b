"""accuracy.json: top-1 of the filter and of its baselines at the same budgets, after the same fine-tuning.

``python -m tokfilter.benchmarks study WORK --data fashion-mnist,digits-in-scenes --seeds 0,1,2 --jobs 2`` runs the
study, one core a job, and writes ``WORK/<data>.json``; ``--longer`` adds the contenders, fine-tuned for longer. What is
measured is kept: an interrupted study goes on, and so does one that gets more seeds or rows. The images per second of
every row are taken last, when nothing else runs, and stand in ``WORK/<data>-speed.json`` too.
"""

import multiprocessing
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch

from tokfilter.benchmarks.accuracy_document import interval_name, model_card, row_from_members, with_rates
from tokfilter.benchmarks.options import PROGRAM
from tokfilter.benchmarks.study.baseline_speed import Timing
from tokfilter.benchmarks.study.baseline_speed import document_from_bundle as speed_from_bundle
from tokfilter.benchmarks.study.baselines import RIVALS
from tokfilter.benchmarks.study.methods import (
    ABLATIONS,
    BEFORE,
    FILTER,
    LONG_SPECIALISTS,
    LONGER,
    MAIN,
    SPECIALISTS,
    Rows,
    Setting,
    rows_from_method,
    write_data,
)  # fmt: skip
from tokfilter.benchmarks.study.setup import DIGITS, Study, Subject
from tokfilter.runtime.measure.record import header, write_json
from tokfilter.train.data import Progress
from tokfilter.vit.bundle import load_bundle

__all__ = ["BUDGETS", "STUDY", "WITH_LONGER", "demo_study", "run"]

BUDGETS: Final = DIGITS.budgets
STUDY: Final = (*MAIN, SPECIALISTS, *ABLATIONS)
WITH_LONGER: Final = (*STUDY, *LONGER, LONG_SPECIALISTS)
_DEMO: Final = (BEFORE, FILTER, *RIVALS)


def demo_study(folder: Path, seed: int, progress: Progress, study: Study | None = None) -> dict[str, Any]:
    """One seed from nothing: ``folder/data``, ``folder/model.pt`` and ``folder/accuracy.json``, whose value it returns.

    Stages that an interrupted call finished are not done again.
    """
    study = study or DIGITS.study
    rows = _rows(DIGITS, study, seed, folder / "data", folder, _DEMO, progress)
    document = _document(DIGITS, study, {seed: rows}, folder / "model.pt", f"tokfilter demo --seed {seed}")
    write_json(folder / "accuracy.json", document)
    return document


def run(
    folder: Path,
    subjects: Sequence[Subject],
    seeds: Sequence[int],
    jobs: int = 1,
    methods: Sequence[str] = WITH_LONGER,
    ablated: Sequence[int] | None = None,
    timing: Timing | None = None,
    said: Callable[[str], None] = lambda line: None,
) -> dict[str, dict[str, Any]]:
    """The study with several seeds: backbone, labels, filter and baselines anew for each.

    jobs: seeds that run at once, each on a core of its own
    ablated: seeds that run those methods that are not among MAIN and LONGER; None means all
    timing: how images per second are taken, after everything else; None leaves them out
    Writes ``folder/<data>.json`` for each subject and returns their values by name. Raises DataError.
    """
    chains = [_Chain(subject, seed, _data_of(folder, subject, seed), folder / subject.name / f"seed-{seed}")
              for subject in subjects for seed in seeds]  # fmt: skip
    for chain in chains:
        write_data(chain.subject, chain.subject.study, chain.seed, chain.data, _silent)
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _one_core) as pool:
        main = tuple(method for method in methods if method in (*MAIN, *LONGER))
        asked = [tuple(methods) if ablated is None or chain.seed in ablated else main for chain in chains]
        pending = [pool.submit(_rows_of_chain, chain, names) for chain, names in zip(chains, asked, strict=True)]
        for done in as_completed(pending):
            chain = chains[pending.index(done)]
            said(f"{chain.subject.name}: seed {chain.seed}, {len(done.result())} rows")
    documents = {}
    for subject in subjects:
        rows = {c.seed: done.result() for c, done in zip(chains, pending, strict=True) if c.subject is subject}
        command = _command(subject, seeds, ablated, any(method in LONGER for method in methods))
        model = folder / subject.name / f"seed-{seeds[0]}" / "model.pt"
        document = _document(subject, subject.study, rows, model, command)
        if timing is not None:
            speed = speed_from_bundle(model, subject.budgets, timing, command, say=said)
            write_json(folder / f"{subject.name}-speed.json", speed)
            document = with_rates(document, speed)
        documents[subject.name] = document
        write_json(folder / f"{subject.name}.json", document)
    return documents


@dataclass(frozen=True)
class _Chain:
    """One seed of a subject."""

    subject: Subject
    seed: int
    data: Path
    folder: Path


def _data_of(folder: Path, subject: Subject, seed: int) -> Path:
    return folder / subject.name / (f"seed-{seed}/data" if subject.seeded else "data")


def _one_core() -> None:
    torch.set_num_threads(1)


def _rows_of_chain(chain: _Chain, methods: Sequence[str]) -> Rows:
    return _rows(chain.subject, chain.subject.study, chain.seed, chain.data, chain.folder, methods, _silent)


def _silent(what: str, share: float) -> None:
    """Several processes would draw over each other."""


def _rows(
    subject: Subject, study: Study, seed: int, data: Path, folder: Path, methods: Sequence[str], progress: Progress
) -> Rows:
    setting = Setting(subject, study, seed, data, folder, progress)
    return [row for method in methods for row in rows_from_method(setting, method)]


def _document(
    subject: Subject, study: Study, per_seed: Mapping[int, Rows], model: Path, command: str
) -> dict[str, Any]:
    bundle, everything = load_bundle(model), [row for rows in per_seed.values() for row in rows]
    card = model_card(bundle)
    before = [row["top1"] for row in everything if row["method"] == BEFORE]
    tested = [row for row in everything if row["method"] != BEFORE]
    rows = _joined([row for row in tested if row["method"] in ("full", *MAIN)], card["patches"])
    parts = {
        "longer": [row for row in tested if row["method"] in (*LONGER, LONG_SPECIALISTS)],
        "ablations": _changed(per_seed.values()),
    }
    settings = {"seeds": list(per_seed), "interval": interval_name(len(per_seed)), BEFORE: before, **asdict(study)}
    tests = everything[0]["images"]
    data = {"name": subject.name, "images": tests, "classes": card["classes"]}
    document = {**header("accuracy", command), "model": card, "data": data, "settings": settings, "rows": rows}
    return document | {name: _joined(members, card["patches"]) for name, members in parts.items() if members}


def _joined(members: Rows, patches: int) -> Rows:
    """One row for each method and budget from those of every seed."""
    cells = dict.fromkeys((row["method"], row["tokens"], row["macs"]) for row in members)
    alike = {c: [row for row in members if (row["method"], row["tokens"], row["macs"]) == c] for c in cells}
    return [row_from_members(*cell, alike[cell], patches) for cell in cells]


def _changed(per_seed: Iterable[Rows]) -> Rows:
    """Rows of ablations, and before them the unchanged filter's of the same seeds."""
    ablated = [rows for rows in per_seed if any(row["method"] in (*ABLATIONS, SPECIALISTS) for row in rows)]
    unchanged = [{**row, "method": FILTER} for rows in ablated for row in rows if row["method"] in ("full", FILTER)]
    return unchanged + [row for rows in ablated for row in rows if row["method"] in (*ABLATIONS, SPECIALISTS)]


def _command(subject: Subject, seeds: Sequence[int], ablated: Sequence[int] | None, longer: bool) -> str:
    """What a reader types to have the same rows of this data set."""
    command = f"{PROGRAM} study WORK --data {subject.name} --seeds {_text(seeds)}"
    command += "" if ablated is None else f" --ablation-seeds {_text(ablated)}"
    return f"{command} --longer" if longer else command


def _text(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers)) or "''"
