"""The charts of reducers show every timed row, and are as new as the measurements."""

from xml.etree import ElementTree

import pytest

from tokfilter.artifacts.files import sha256
from tokfilter.benchmarks.records.latency_charts import CHARTS, chart_from_document
from tokfilter.benchmarks.records.paths import RESULTS, ROOT

SVG = "{http://www.w3.org/2000/svg}"


def row(method, tokens, top1, speedup):
    timed = {"images_per_s": {"torch": 100 * speedup}, "speedup": {"torch": {"value": speedup}}} if speedup else {}
    return {"method": method, "tokens": tokens, "top1": top1, **timed}


@pytest.mark.parametrize(("name", "source"), CHARTS.items())
def test_the_chart_is_of_the_measurements(name, source):
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert sha256(RESULTS / source) in text, "run `python -m tokfilter.benchmarks readme`"
    assert f"]({name})" in (ROOT / "docs" / "study.md").read_text(encoding="utf-8")


def test_every_timed_row_is_a_point_and_the_others_are_not():
    document = {
        "data": {"name": "pic<tures"},
        "settings": {"speed": {"batch": 32}},
        "rows": [row("full", 64, [0.9, 0.8], 1.0), row("filter", 32, [0.8, 0.8], 2.0), row("random", 32, [0.5], None)],
        "curve": [row("evit", 22, [0.7], 1.5), row("evit", 64, [0.9], 1.0), row("evit", 8, [0.5], None)],
    }
    chart = chart_from_document(document, "0123abcd")
    assert chart == chart_from_document(document, "0123abcd")
    root = ElementTree.fromstring(chart)
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert {"token filter", "EViT", "PyTorch", "ms for a batch of 32", "top-1 in %, pic<tures"} <= set(texts)
    points = [
        len(list(group.iter(f"{SVG}use")))
        for group in root.iter(f"{SVG}g")
        if (group.get("id") or "").startswith("line2d_")
    ]
    assert points.count(2) == 2, points  # each reducer's two timed rows; markers of axes and legend are single
    assert b"0123abcd" in chart
