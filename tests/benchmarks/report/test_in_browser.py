"""The report in headless Chromium: nothing is cut or printed over another text, on a phone and on screens."""

import pytest
from page_browser import browser_path, chromium, new_page
from page_layout import flaws
from report_samples import HOSTILE, UNBROKEN, document, many_rows, one_row, picture, wide_intervals

from tokfilter.benchmarks.report.render import render_report

WIDTHS = (390, 1280, 1920)


def awkward():
    return *many_rows(), [picture(0.1, guess=UNBROKEN), picture(truth=HOSTILE), picture(truth=None, guess=UNBROKEN)]


PAGES = {
    "wide intervals": lambda: (document("accuracy"), wide_intervals(), [picture(), picture(0.1)]),
    "one row": lambda: (*one_row(), [picture(truth=None)]),
    "awkward": awkward,
}


@pytest.fixture(scope="module")
def browser():
    pytest.importorskip("playwright", reason="needs Playwright: pip install playwright")
    if browser_path() is None:
        pytest.skip("needs Chromium: apt-get install chromium-headless-shell")
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module", params=PAGES)
def page(request, browser, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    accuracy, bench, pictures = PAGES[request.param]()
    render_report(accuracy, bench, pictures, path, real_size=document("bench"))
    opened = new_page(browser)
    opened.goto(path.as_uri())
    yield opened
    opened.context.close()


@pytest.fixture(scope="module")
def plain_page(browser, tmp_path_factory):
    """Accuracy alone, which is quickly drawn."""
    path = tmp_path_factory.mktemp("plain") / "report.html"
    render_report(document("accuracy"), None, [], path)
    opened = new_page(browser)
    opened.goto(path.as_uri())
    return opened


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_cut_or_printed_over_another_text(page, width):
    assert flaws(page, width) == []


@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 800), (1920, 1080)])
def test_the_gain_at_a_real_size_is_on_the_first_screen(page, width, height):
    page.set_viewport_size({"width": width, "height": height})
    box = page.locator(".real").bounding_box()
    assert box["y"] > 0 and box["y"] + box["height"] < height


def test_wrong_predictions_are_framed_and_named(page):
    shown = page.eval_on_selector_all(
        ".strip figure",
        "figures => figures.map(one => [one.innerText, getComputedStyle(one.querySelector('img')).outlineStyle])",
    )
    for text, outline in shown:
        assert (outline == "solid") == ("✗ wrong" in text), text
    if any(UNBROKEN in text for text, _ in shown):
        assert sum("✗ wrong" in text for text, _ in shown) == 4  # at two budgets of two pictures


@pytest.mark.parametrize(
    ("css", "expected"),
    [
        (".tiles { width: 2500px; }", "page: "),
        (".scroll table { width: 3000px; }", "table: "),
        (".scroll { overflow: hidden !important; } .scroll table { width: 3000px; }", "cannot be moved"),
        ("svg.plot text { font-size: 40px !important; }", "overlap: "),
        (".tiles .how { margin-top: -2rem; }", "overlap: "),
        ("p { width: 3rem; white-space: nowrap; overflow: hidden; }", "cell: "),
    ],
)
def test_planted_flaws_are_found(plain_page, css, expected):
    style = plain_page.add_style_tag(content=css)
    found = flaws(plain_page, 1280)
    style.evaluate("style => style.remove()")
    assert any(expected in line for line in found), found


def test_texts_of_a_plot_that_touch_are_found(plain_page):
    """Side by side without a gap two labels read as one, as in "full model50 %"."""
    added = plain_page.evaluate_handle("""() => {
        const text = document.querySelector("svg.plot text");
        const group = document.createElementNS("http://www.w3.org/2000/svg", "g");
        group.setAttribute("transform", `translate(${text.getBBox().width + 1} 0)`);
        group.append(text.cloneNode(true));
        text.after(group);
        return group;
    }""")
    found = flaws(plain_page, 390)
    added.evaluate("group => group.remove()")
    assert [line for line in found if line.startswith("touch: ")] and flaws(plain_page, 390) == []
