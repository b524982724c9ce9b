"""The campaign: hostile input for every reader, kills, hostile load. ``make campaign``; docs/reliability.md."""

import os
import shutil
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice
from pathlib import Path

import click

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tools")]

from hostile import requests  # noqa: E402
from hostile.actions import NATIVE  # noqa: E402
from hostile.document import Figures, Findings, document  # noqa: E402
from hostile.fuzz import Fuzzer  # noqa: E402
from hostile.kills import WRITERS, Killer  # noqa: E402
from hostile.material import write_material  # noqa: E402
from hostile.readers import BY_NAME, READERS  # noqa: E402
from hostile.server import Server  # noqa: E402

from tokfilter.benchmarks.options import output_option  # noqa: E402
from tokfilter.benchmarks.records.paths import RESULTS, ROOT  # noqa: E402
from tokfilter.benchmarks.service.abuse import document_from_abuse  # noqa: E402
from tokfilter.benchmarks.service.process import serving  # noqa: E402
from tokfilter.runtime.measure.record import header, write_json  # noqa: E402

SHARES = {"readers": 0.72, "requests": 0.08, "kills": 0.15, "service": 0.05}
"""Of the time. The service's part takes two minutes, whatever its share is."""
WORK = ROOT / "build" / "campaign"


@click.command()
@click.option("--minutes", type=click.FloatRange(min=0.1), default=60.0, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--inputs", type=click.IntRange(min=1), help="Most inputs for the readers.")
@click.option("--jobs", type=click.IntRange(min=1), default=2, show_default=True, help="Commands at the same time.")
@click.option("--part", multiple=True, type=click.Choice(list(SHARES)), help="These parts only.")
@click.option("--only", type=click.Choice(list(BY_NAME)), help="This class only; with --case one input of it.")
@click.option("--case", type=click.IntRange(min=0), help="Make this input again, and keep its files.")
@output_option(RESULTS / "campaign.json")
def main(minutes, seed, inputs, jobs, part, only, case, output):
    """Try mutated files, requests, kills and hostile load for MINUTES; write one JSON document."""
    warnings.simplefilter("ignore")
    material = WORK / "material"
    if not (material / "done").exists():
        shutil.rmtree(material, ignore_errors=True)
        click.echo("writing the files to start from (two minutes)", err=True)
        write_material(material)
    programs = sorted((ROOT / "build" / "runtime-cpp").glob("sanitized-*/c_client"))
    os.environ[NATIVE] = str(programs[-1].parent) if programs else ""
    server, begin = Server(), time.monotonic()
    try:
        if case is not None:
            _again(server, material, BY_NAME[only or READERS[0].name], case, seed)
            return
        run = Run(server, material, seed, minutes, part or tuple(SHARES), only, jobs)
        for done in run.parts_done(inputs):
            found = run.document(round((time.monotonic() - begin) / 60, 1))
            command = f"python tests/campaign --minutes {minutes:g} --seed {seed}"
            write_json(output, {**header("campaign", command), **found})
            _say(f"{done}: {found['inputs']} inputs, {found['findings']['count']} with a fault; wrote {output}")
    finally:
        server.close()


class Run:
    """Parts of a campaign and their figures."""

    def __init__(self, server, material, seed, minutes, parts, only, jobs):
        self.server, self.material, self.seed, self.parts, self.jobs = server, material, seed, parts, jobs
        self.readers = [BY_NAME[only]] if only else [reader for reader in READERS if _is_possible(reader, material)]
        share = sum(SHARES[name] for name in parts)
        self.seconds = {name: 60 * minutes * SHARES[name] / share for name in parts}
        self.figures = {reader.name: Figures(reader.name) for reader in self.readers}
        self.figures[requests.NAME] = Figures(requests.NAME)
        self.killer = Killer(server, material, WORK / "kills", seed)
        self.findings, self.service = Findings(), {}
        revision = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
        self.revision = revision.stdout.strip()  # of what is imported now, whatever is committed meanwhile

    @property
    def classes(self):
        return [one for one in self.figures.values() if one.inputs]

    def parts_done(self, inputs):
        """Run every part that was asked for; its name comes when it is done."""
        parts = {
            "readers": lambda: self._readers(inputs),
            "requests": self._requests,
            "kills": self._kills,
            "service": self._attack,
        }
        for name, run in parts.items():
            if name in self.parts:
                run()
                yield name

    def document(self, minutes):
        """The figures so far."""
        killed = [one for one in self.killer.results.values() if one.kills + one.finished]
        figures = (self.classes, killed, self.service, self.findings, self.server.baseline)
        return document(self.seed, minutes, *figures, self.revision)

    def _attack(self):
        self.service = document_from_abuse(self.material / "out", pairs=2, window=5, seconds=60)["goals"]

    def _readers(self, inputs):
        """Threads that wait for the processes in which the commands run; each has a folder of its own."""
        deadline = time.monotonic() + self.seconds["readers"]
        turns, lock = islice(self._turns(), inputs), threading.Lock()
        originals: dict = {}

        def work(job):
            server, folder = self.server if job == 0 else Server(), WORK / f"readers-{job}"
            fuzzer = Fuzzer(server, self.material, folder, self.seed, originals, lock)
            while time.monotonic() < deadline:
                with lock:
                    turn = next(turns, None)
                if turn is None:
                    break
                case, done, judged, taken = fuzzer.run(*turn)
                with lock:
                    reader, number = turn
                    self.figures[reader.name].add(done, judged, taken, server.baseline)
                    self._note(reader.name, number, case.argv, case.what, done, judged)
            shutil.rmtree(folder, ignore_errors=True)
            if job:
                server.close()

        with ThreadPoolExecutor(self.jobs) as pool:
            for finished in [pool.submit(work, job) for job in range(self.jobs)]:
                finished.result()

    def _turns(self):
        """Classes by their weight, and the numbers of their inputs, without end."""
        numbers = dict.fromkeys(self.readers, 0)
        for turn in count(1):
            for reader in self.readers:
                for _ in range(max(1, round(reader.weight / 2))):
                    yield reader, numbers[reader]
                    numbers[reader] += 1
            _say(f"turn {turn}: {sum(numbers.values())} inputs begun, {self.findings.count} with a fault")

    def _requests(self):
        pictures = [
            path.read_bytes()
            for path in sorted((self.material / "images").iterdir())
            if path.suffix in (".jpg", ".png")
        ]
        figures, deadline = self.figures[requests.NAME], time.monotonic() + self.seconds["requests"]
        with serving(self.material / "out", "--threads", 1) as running:
            service = requests.Service(running)
            while time.monotonic() < deadline and running.process.poll() is None:
                number = figures.inputs
                content, what = requests.made_request(pictures, self.seed, number)
                done, judged = service.ask(content)
                figures.add(done, judged, "different", _Nothing(service.first_peak))
                self._note(requests.NAME, number, ("serve", "out"), what, done, judged)
            running.stop()
        _say(f"{figures.inputs} requests, {self.findings.count} findings so far")

    def _kills(self):
        deadline, number = time.monotonic() + self.seconds["kills"], 0
        while time.monotonic() < deadline:
            for writer in WRITERS:
                self.killer.run(writer, number)
            number += 1
            faults = [text for one in self.killer.results.values() for text in one.faults]
            _say(f"{number} kills of each command, {len(faults)} faults {faults[-1:]}")
        shutil.rmtree(WORK / "kills", ignore_errors=True)

    def _note(self, name, number, argv, what, done, judged):
        self.findings.add(name, number, argv, what, done, judged)
        if judged.faults:
            _say(f"{name} {number}: {', '.join(judged.faults)}: {argv[0]}: {what!r:.150}\n{judged.tail[-400:]}")


def _is_possible(reader, material):
    """Whether the material has its files: some need packages that are not installed. Says so where not."""
    missing = [name for name in reader.files if not (material / name).exists()]
    if reader.action == "native" and not os.environ[NATIVE]:
        missing.append("programs of the C++ library's tests: run pytest tests/runtime/cpp")
    if missing:
        _say(f"{reader.name} is left out: no {', '.join(missing)}")
    return not missing


class _Nothing:
    """A baseline of a service: its memory when it was ready."""

    def __init__(self, peak):
        self.peak, self.cpu_s = peak, 0.0


def _again(server, material, reader, number, seed):
    fuzzer = Fuzzer(server, material, WORK / "one", seed)
    case, done, judged, taken = fuzzer.run(reader, number)
    click.echo(
        f"{case.what!r}\ntokfilter {' '.join(case.argv)}\n{done}\n{judged.faults} {taken}\n{judged.tail}\n"
        f"in {WORK / 'one'}"
    )


def _say(text):
    click.echo(text, err=True)


if __name__ == "__main__":
    main()
