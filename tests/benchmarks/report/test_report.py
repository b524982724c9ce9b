"""The report's page: self-contained, and every number on it is in report.json."""

import json
import re
from functools import cache
from html.parser import HTMLParser

import jsonschema
import numpy as np
import pytest
import referencing
from paths import DATA, SCHEMAS
from PIL import Image

from tokfilter.benchmarks.report.numbers import STYLES, resolve
from tokfilter.benchmarks.report.render import render_report
from tokfilter.errors import DataError
from tokfilter.runtime.pictures import BudgetResult, Picture


def document(name, **changes):
    return {**json.loads((DATA / f"{name}.json").read_text()), **changes}


def rows_of(name, selected):
    """The sample document with those of its rows for which ``selected(row)`` is true."""
    sample = document(name)
    return {**sample, "rows": [row for row in sample["rows"] if selected(row)]}


class Page(HTMLParser):
    """A parsed page: its elements with attributes, numbers, text and table cells."""

    def __init__(self, source):
        super().__init__()
        self.source = source
        self.elements, self.numbers, self.cells, self.styles, self.text = [], [], [], [], ""
        self.open = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.open.append(tag)
        if tag == "data":
            self.numbers.append([dict(attrs), ""])
        if tag in ("td", "th"):
            self.cells.append("")
        if tag in ("meta", "img", "br"):
            self.open.pop()

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if "style" in self.open:
            self.styles.append(data)
            return
        self.text += data
        if "data" in self.open:
            self.numbers[-1][1] += data
        elif self.open and self.open[-1] in ("td", "th", "span") and {"td", "th"} & set(self.open):
            self.cells[-1] += data

    def attributes(self, name):
        return [attrs[name] for _, attrs in self.elements if name in attrs]


HOSTILE = '<script>$x_1$</script> & "it\'s"'


def rendered(directory, accuracy=None, bench=None, shown=()):
    data = render_report(accuracy, bench, list(shown), directory / "report.html")
    return Page((directory / "report.html").read_text()), json.loads(data.read_text())


def renamed(name):
    rows = [{**row, "method": name} if row["method"] == "norm" else row for row in document("accuracy")["rows"]]
    return document("accuracy", rows=rows)


def one_budget(row):
    return row["tokens"] in (36, 144)


def with_others(on_gpu):
    """The sample with other engines and a cost model, as ``bench --against`` writes them."""
    sample = document("bench")
    latency = sample["rows"][0]["latency_ms"]
    stages = dict.fromkeys(("H2D Latency", "GPU Compute Time", "D2H Latency", "Enqueue Time"), latency)
    shared = {"warnings": ["cv 3 %"], "memory": {}, "power": None, "images_per_s": 12.5, "latency_ms": latency}
    against = [
        {"engine": engine, "batch": batch, "gpu_ms": stages if on_gpu else None, **shared}
        for batch in (1, 8)
        for engine in ("torch-eager", "onnx-naive")
    ]
    best = {"engine": "torch-eager", "speedup": {"value": 1.9, "low": 1.8, "high": 2.1}, "efficiency": 0.93}
    points = [
        {key: row[key] for key in ("batch", "tokens")}
        | {"latency_ms": row["latency_ms"]["median"], "predicted_ms": row["latency_ms"]["median"] * 1.02}
        for row in sample["rows"]
    ]
    model = {"form": "sum", "coefficients": {"call_ms": 1.0}, "error": 0.04, "worst": 0.08, "points": points}
    pays = {"tokens": 72, "batch": 1, "low": 1, "high": 2}
    cost = {"fits": on_gpu, "sentence": "Cost model of 18 points.", "model": model, "pays_from": pays}
    rows = [{**row, "best_other": best} for row in sample["rows"]]
    return document("bench", rows=rows, against=against, cost_model=cost)


def with_engines():
    """The sample with a further engine, as ``bench --runtime onnx,openvino`` writes it."""
    sample = document("bench")
    rows = [{**row, "over_first": {"value": 1.8, "low": 1.7, "high": 1.9}} for row in sample["rows"]]
    settings = {"engine": "openvino", "provider": None, "precision": "bf16", "threads": 2, "hint": "latency"}
    engine = {"settings": settings, "rows": rows, "break_even": sample["break_even"]}
    return document("bench", engines=[engine], settings=sample["settings"] | {"engine": "openvino"})


CONTENTS = {
    "all": lambda: (document("accuracy"), document("bench"), pictures()),
    "accuracy": lambda: (document("accuracy"), None, []),
    "bench": lambda: (None, rows_of("bench", lambda row: row["batch"] == 8), []),
    "pictures": lambda: (None, None, pictures()),
    "no full": lambda: (rows_of("accuracy", lambda row: row["method"] != "full"), None, []),
    "only full": lambda: (None, rows_of("bench", lambda row: row["role"] == "full"), []),
    "one budget": lambda: (rows_of("accuracy", one_budget), rows_of("bench", one_budget), []),
    "engines": lambda: (None, with_engines(), []),
    "others": lambda: (None, with_others(on_gpu=False), []),
    "others on a GPU": lambda: (document("accuracy"), with_others(on_gpu=True), []),
    "strange": lambda: (renamed(HOSTILE), document("bench", notes=[HOSTILE]), pictures(HOSTILE)),
}


def test_further_engines_have_rows_and_names(tmp_path):
    page, _ = rendered(tmp_path, None, with_engines())
    assert "Engines in the same rounds" in page.text and "OpenVINO, bf16" in page.text
    places = [place for place in page.attributes("data-at") if place.startswith("/bench/engines/0/rows/")]
    assert sum(place.endswith("/over_first/value") for place in places) == len(document("bench")["rows"])


def pictures(truth="7"):
    rng = np.random.default_rng(1)
    return [picture(rng, truth) for _ in range(2)]


def picture(rng, truth, size=96, grid=(12, 12)):
    view = Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)).resize((size, size))
    scores = rng.standard_normal(grid[0] * grid[1]).astype(np.float32)
    order = np.argsort(-scores).tolist()
    choices = [BudgetResult(scores.size, truth, 0.99)]
    choices += [
        BudgetResult(k, guess, 0.9, tuple(sorted(order[:k]))) for k, guess in ((72, truth), (36, truth), (14, "9"))
    ]
    return Picture(view, grid, choices, truth, scores)


@pytest.fixture(scope="module")
def of(tmp_path_factory):
    """Page and report.json of one of CONTENTS, drawn once."""
    return cache(lambda name: rendered(tmp_path_factory.mktemp("report"), *CONTENTS[name]()))


@pytest.fixture(scope="module", params=CONTENTS)
def written(request, of):
    return of(request.param)


def test_page_loads_nothing(written):
    page, _ = written
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form", "video", "audio"}
    for name in ("src", "href", "data", "srcset", "poster", "action", "background"):
        for value in page.attributes(name):
            assert value.startswith(("#", "data:image/webp;base64,")), value[:80]
    for css in page.styles + page.attributes("style"):
        assert "@import" not in css and "http" not in css
        assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", css))
    assert not [name for _, attrs in page.elements for name in attrs if name.startswith("on")]


def test_ids_are_unique_and_references_resolve(written):
    page, _ = written
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    aims = [value[1:] for value in page.attributes("href")]
    aims += [
        aim for name in ("clip-path", "style") for v in page.attributes(name) for aim in re.findall(r"url\(#(.*?)\)", v)
    ]
    assert set(aims) <= set(ids)


def test_every_number_is_in_the_report(written):
    page, report = written
    assert page.numbers or not (report["accuracy"] or report["bench"] or report["pictures"])
    for attrs, text in page.numbers:
        value = resolve(report, attrs["data-at"])
        assert float(attrs["value"]) == value, attrs
        assert text == STYLES[attrs["data-style"]](value)
        shown, near = as_number(text), pytest.approx(value, rel=0.01, abs=0.0006)
        assert {"points": shown / 100, "distance": shown if value > 0 else -shown}.get(
            attrs["data-style"], shown
        ) == near


UNITS = {"%": 0.01, "point": 0.01, "points": 0.01, "T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3, "MiB": 2**20, "GiB": 2**30}


def as_number(text):
    """The number in a text with its unit, parsed independently of the code that wrote it."""
    number, unit = re.fullmatch(r"([+-]?[\d.]+)\W*(.*)", text.replace("\u202f", "").replace("−", "-")).groups()
    return float(number) * UNITS.get("%" if "%" in text else unit, 1.0)


def test_table_cells_have_no_other_numbers(written):
    page, _ = written
    for cell in page.cells:
        assert not re.search(r"\d", re.sub(r"top-1|p9\d|\$x_1\$", "", cell)), cell


def test_report_matches_its_schema(written):
    _, report = written
    assert list(jsonschema.Draft202012Validator(schema("report"), registry=registry()).iter_errors(report)) == []


def schema(name):
    return json.loads((SCHEMAS / f"{name}.json").read_text())


def registry():
    names = ("accuracy", "bench", "report")
    return referencing.Registry().with_resources(
        (f"tokfilter/{name}", referencing.Resource.from_contents(schema(name))) for name in names
    )


def test_samples_match_their_schemas():
    for name, sample in ((name, document(name)) for name in ("accuracy", "bench")):
        assert list(jsonschema.Draft202012Validator(schema(name)).iter_errors(sample)) == []


def test_the_cost_model_is_drawn_only_where_it_fits(tmp_path):
    for on_gpu in (True, False):
        (tmp_path / str(on_gpu)).mkdir()
        page, _ = rendered(tmp_path / str(on_gpu), None, with_others(on_gpu))
        assert ("Grey: the cost model" in page.text) == on_gpu
        assert "Cost model of 18 points." in page.text and "best other engine" in page.text


def test_text_from_documents_is_escaped(of):
    page, _ = of("strange")
    assert page.text.count(HOSTILE) > 3
    assert "<script" not in page.source


def test_same_input_same_page(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        rendered(tmp_path / name, *CONTENTS["one budget"]())
    first, second = ((tmp_path / name / "report.html").read_text() for name in ("a", "b"))
    moment = r"\d{4}-\d\d-\d\d \d\d:\d\d UTC"
    assert re.sub(moment, "", first) == re.sub(moment, "", second)


@pytest.mark.parametrize(
    ("content", "shown", "absent"),
    [
        ("all", {"accuracy", "speed", "kept"}, set()),
        ("accuracy", {"accuracy"}, {"speed", "pictures"}),
        ("bench", {"speed"}, {"accuracy", "pictures"}),
        ("pictures", {"kept"}, {"accuracy", "speed"}),
    ],
)
def test_absent_parts_are_left_out_and_listed(of, content, shown, absent):
    page, report = of(content)
    assert {"accuracy", "speed", "kept"} & set(page.attributes("id")) == shown
    assert {item["what"] for item in report["absent"]} == absent
    for item in report["absent"]:
        assert item["remedy"].replace("`", "") in page.text


def test_a_real_size_has_its_speed_and_no_more(tmp_path):
    data = render_report(None, None, pictures(), tmp_path / "report.html", real_size=document("bench"))
    page, report = Page((tmp_path / "report.html").read_text()), json.loads(data.read_text())
    assert list(jsonschema.Draft202012Validator(schema("report"), registry=registry()).iter_errors(report)) == []
    for attrs, text in page.numbers:
        assert text == STYLES[attrs["data-style"]](resolve(report, attrs["data-at"]))
    assert [gain["batch"] for gain in report["story"]["real_size"]["gains"]] == [1, 8, 32]
    assert "At a real size: vit_tiny_patch16_224, 50\u202f% of the tokens" in page.text
    assert (
        "1.73× as fast at batch 1" in page.text and "Random weights, so this is its speed and no accuracy" in page.text
    )
    assert "The weights of vit_tiny_patch16_224 are random" in page.text
    assert {item["what"] for item in report["absent"]} == {"accuracy", "speed"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"speedup": {"value": 1.01, "low": 0.9, "high": 1.1}}, "No measurable speed-up at batch 1"),
        ({"speedup": {"value": 0.8, "low": 0.7, "high": 0.9}}, "Slower, 0.80× the speed at batch 1"),
        ({"warnings": ["unstable"]}, "Unstable measurement: measure again on an idle machine."),
    ],
)
def test_a_real_size_without_a_gain_says_so(tmp_path, changes, expected):
    rows = [row | changes if row["role"] == "filtered" else row for row in document("bench")["rows"]]
    render_report(None, None, pictures(), tmp_path / "report.html", real_size=document("bench", rows=rows))
    assert expected in " ".join(Page((tmp_path / "report.html").read_text()).text.split())


def test_an_empty_report_is_refused(tmp_path):
    with pytest.raises(DataError, match="got none of them"):
        render_report(None, None, [], tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


def test_another_file_type_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"ends in \.html"):
        render_report(None, document("bench"), [], tmp_path / "report.json")


def test_plots_take_every_colour_from_the_page(of):
    page, _ = of("all")
    inside = [
        v
        for tag, attrs in page.elements
        for k, v in attrs.items()
        if tag not in ("meta", "data") and k in ("style", "fill")
    ]
    assert not [value for value in inside if re.search(r"#[0-9a-f]{3,6}\b", value)]
    css = " ".join(page.styles)
    for value in {name for v in inside for name in re.findall(r"var\((--[\w-]+)\)", v)}:
        assert css.count(f"{value}:") == 2, f"{value} requires a light and a dark colour"


def test_plots_have_text_for_screen_readers(written):
    page, _ = written
    for tag, attrs in page.elements:
        if tag == "svg":
            assert attrs["role"] == "img" and len(attrs["aria-label"]) > 10
        if tag == "img":
            assert attrs["alt"]
