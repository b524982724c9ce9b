"""The campaign's own code: inputs can be made again, and a planted fault of each kind is found."""

import json
from collections import Counter
from itertools import count
from random import Random
from types import SimpleNamespace

import pytest
from hostile import cases, damage, values, verdict
from hostile.document import Figures, Findings, document
from hostile.fuzz import Fuzzer, Original
from hostile.kills import Killed, state
from hostile.readers import BY_NAME, READERS
from hostile.requests import made_request
from hostile.server import CPU_S, Done, Patience, Server
from schema_check import valid

from tokfilter.runtime.measure.record import header

BASELINE = Done(0, 0.1, 0.1, 100 << 20, False)


@pytest.fixture(scope="module")
def server():
    """Forks without torch: what is planted needs none."""
    with_nothing = Server(modules=())
    yield with_nothing
    with_nothing.close()


@pytest.fixture
def planted(server, tmp_path):
    folder = tmp_path / "watched"
    (folder / "home" / "tmp").mkdir(parents=True)

    numbers = count()

    def run(kind, *more, wall_s=20):
        before, log = verdict.tree(folder), tmp_path / f"log-{next(numbers)}"
        done = server.run("planted", [kind, *more], folder / "home", folder, log, wall_s)
        changes = verdict.changed_paths(before, verdict.tree(folder), ("home/tmp",))
        return verdict.verdict(done, server.baseline, log.read_bytes(), changes, False, [])

    return run


@pytest.mark.parametrize("kind", ["crash", "memory", "traceback", "unexpected"])
def test_a_planted_fault_is_found(planted, kind):
    assert planted(kind).faults == (kind,)


def test_what_waits_or_computes_without_end_hangs(planted):
    assert planted("wait", wall_s=0.3).faults == ("hang",)
    assert planted("spin", wall_s=0.3).faults == ("hang",)
    for done, faults in (
        (Done(0, CPU_S + 0.2, 11, 0, False), ("hang",)),
        (Done(0, 1, CPU_S + 20, 0, False), ()),  # a machine that others use
        (Done(-24, 30, 31, 0, False), ("hang",)),
    ):
        assert verdict.verdict(done, BASELINE, b"", [], False, []).faults == faults


@pytest.mark.parametrize(
    ("own", "taken", "hangs"), [(0.1, 10.5, True), (11, 12, False), (11, 20.9, False), (11, 21.1, True)]
)
def test_a_measurement_of_ten_seconds_is_no_hang_and_one_of_twenty_is(tmp_path, own, taken, hangs):
    """The time of the same command with the unchanged files is subtracted, and no other."""
    fuzzer = Fuzzer(SimpleNamespace(baseline=BASELINE), tmp_path, tmp_path, 0)
    done, unchanged = Done(0, taken, taken, 0, False), Done(0, own, own, 0, False)
    judged = verdict.verdict(done, BASELINE, b"Traceback (most recent call last)", [], False, [])
    original = Original(unchanged, verdict.verdict(unchanged, BASELINE, b"", [], False, []), "")
    found = fuzzer._without_asked_time(judged, done, original)
    assert found.faults == (("hang", "traceback") if hangs else ("traceback",))


def test_what_computes_on_a_busy_machine_is_waited_for():
    """Looks at 60 s and each 20 s from then on; processor time so far at each look."""

    def killed_after(cpu, kill_after=None):
        looks = iter(cpu)
        patience = Patience(1000.0, 60, kill_after, lambda: next(looks))
        return next(second for second in range(700) if patience.is_over(1000 + second))

    assert killed_after([1.0, 1.1]) == 82
    assert killed_after([1.0, 1.5, 2.0, 2.1]) == 124
    assert killed_after([one / 2 for one in range(100)]) == 607
    assert killed_after([], kill_after=3) == 4


def test_each_class_is_complete():
    """Names are used once, what a command names is copied, and nothing is summed again without a manifest."""
    assert len(BY_NAME) == len(READERS)
    for reader in READERS:
        for glob in reader.changed:
            assert any(glob == name or glob.startswith((f"{name}/", "*")) for name in reader.files), reader.name
        assert not reader.resum or any("out" in one or "*" in one for one in reader.changed), reader.name


def test_a_write_outside_is_found_where_it_is_watched_and_elsewhere(planted, tmp_path):
    assert planted("outside", "evil").faults == ("outside",)
    found = planted("outside", str(tmp_path / "elsewhere"))
    assert found.faults == ("outside",) and "wrote open" in found.tail
    assert planted("outside", "home/tmp/allowed").faults == ()


def test_a_program_or_a_payload_that_ran_is_found(planted):
    found = planted("execute")
    assert found.faults == ("executed",) and "started os.system" in found.tail
    assert verdict.verdict(BASELINE, BASELINE, b"", [], True, ["x.part"]).faults == ("executed", "leftover")


def test_escapes_are_found_and_not_passed_on(planted):
    found = planted("escape")
    assert found.faults == ("escape",) and "\x1b" not in found.tail and r"\x1b[31mred" in found.tail
    assert verdict.verdict(BASELINE, BASELINE, "a\tb é\n".encode(), [], False, []).faults == ()


def test_a_refusal_is_no_fault(planted):
    refused, taken = planted("refuse"), planted("nothing else")
    assert (refused.refused, refused.faults) == (True, ()) and (taken.refused, taken.faults) == (False, ())


CONTENT = json.dumps({"a": [1, 2.5, {"b": "text"}], "c": None, "files": [{"path": "x", "bytes": 3}]}).encode()


@pytest.mark.parametrize("change", [damage.damaged, values.json_changed])
def test_a_change_can_be_made_again(change):
    first = [change(CONTENT, Random(f"0/{i}")) for i in range(30)]
    assert first == [change(CONTENT, Random(f"0/{i}")) for i in range(30)]
    assert len({content for content, _ in first}) > 20


def test_a_request_can_be_made_again():
    pictures = [b"\xff\xd8\xff\xc0" + bytes(60), b"P6 2 2 255 " + bytes(12)]
    first = [made_request(pictures, 0, i) for i in range(60)]
    assert (
        first == [made_request(pictures, 0, i) for i in range(60)] != [made_request(pictures, 1, i) for i in range(60)]
    )


@pytest.fixture
def small(tmp_path, export_directory):
    """Material for the readers of exports."""
    material = tmp_path / "material"
    cases.shutil.copytree(export_directory, material / "out")
    (material / "images").mkdir()
    (material / "images" / "photo.png").write_bytes(bytes(100))
    return material


def plain_files(folder):
    """Without links, pipes and holes that stand in the place of a file."""
    return sorted(p for p in folder.iterdir() if p.is_file() and not p.is_symlink() and p.stat().st_size < 1 << 20)


@pytest.mark.parametrize("name", ["manifest.json", "golden.npz", "export's graphs"])
def test_a_case_can_be_made_again_and_differs_from_the_original(small, tmp_path, name):
    made, kinds = [], Counter()
    for turn in ("first", "second"):
        found = []
        for number in range(12):
            folder = tmp_path / turn / str(number)
            case = cases.make_case(BY_NAME[name], number, 3, small, folder, "/canary")
            kinds[case.damage] += 1
            files = {path.name: path.read_bytes() for path in plain_files(folder / "out")}
            found.append((case, files))
        made.append(found)
    original = {path.name: path.read_bytes() for path in sorted((small / "out").iterdir())}
    assert made[0] == made[1] and all(files != original for _, files in made[0]) and len(kinds) == 2


def test_an_attacker_sums_again(small):
    (small / "out" / "golden.npz").write_bytes(b"other")
    cases.sum_again(small / "out" / "golden.npz")
    entries = {entry["path"]: entry for entry in json.loads((small / "out" / "manifest.json").read_text())["files"]}
    assert entries["golden.npz"]["bytes"] == 5 and entries["golden.npz"]["sha256"].startswith("d9298a10d1b0735837dc")


def test_the_state_of_a_result_leaves_temporary_names_out(tmp_path):
    (tmp_path / "a").write_text("1")
    first = state(tmp_path)
    (tmp_path / ".a.1.x.part").write_text("2")
    assert state(tmp_path) == first != state(tmp_path / "none")
    (tmp_path / "a").write_text("2")
    assert state(tmp_path) != first


def test_the_document_follows_its_schema_and_is_bounded():
    figures, findings = Figures("bundle"), Findings()
    for number in range(100):
        judged = verdict.Verdict(number % 2 == 0, ("traceback",) if number > 3 else (), "x" * 5000)
        figures.add(Done(1, 0.5, 1, 300 << 20, False), judged, "equal", BASELINE)
        findings.add("bundle", number, ("inspect", "model.pt"), "\x1b[31m" * 200, Done(1, 0.5, 1, 0, False), judged)
    killed = [Killed("pack", 3, 1, 2, 1, [])]
    goals = {"saturation": {"reached": True, "found": "0 errors"}}
    found = document(0, 1.0, [figures], killed, goals, findings, BASELINE, "abc1234")
    valid({**header("campaign", "python tests/campaign --minutes 1 --seed 0"), **found})
    assert found["faults"]["traceback"] == found["findings"]["count"] == 96
    assert len(json.dumps(found)) < 150_000 and "\x1b" not in json.dumps(found, ensure_ascii=False)
