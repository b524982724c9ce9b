"""A page of `tokfilter page` behind a web server, and headless Chromium to look at it."""

import functools
import http.server
import json
import shutil
import statistics
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

ISOLATED = MappingProxyType(
    {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
)
"""Headers of a page whose models may use several threads."""

ANSWERED = "#filtered canvas[data-drawn]"
COMPARED = "#ratio:not(.settling)"
"""Selectors of an answer of the filtered model, and of both models' times."""


@contextmanager
def served(folder: Path, headers: Mapping[str, str] = MappingProxyType({})) -> Iterator[str]:
    """Address of a server like `python -m http.server`, with more headers."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def end_headers(self) -> None:
            for name, value in headers.items():
                self.send_header(name, value)
            super().end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            pass  # a browser that closes a connection early

    server = Server(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def browser_path() -> str | None:
    """Debian's Chromium on this machine, or its smaller build without windows."""
    return shutil.which("chromium") or shutil.which("chromium-headless-shell")


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless Chromium of this machine, with a fake camera that needs no permission."""
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path(), args=arguments)
        try:
            yield browser
        finally:
            browser.close()


def new_page(browser: Any, **options: Any) -> Any:
    """A page with an empty cache. Waiting ends after two minutes: other programs may run on the machine."""
    page = browser.new_context(**options).new_page()
    page.set_default_timeout(120_000)
    return page


SLIDE = """async (tokens) => {
    const slider = document.getElementById("tokens");
    const canvas = document.querySelector("#filtered canvas");
    const start = performance.now();
    const drawn = new Promise((done) => {
        const observer = new MutationObserver(() => {
            if (canvas.dataset.drawn === String(tokens)) done(observer.disconnect());
        });
        observer.observe(canvas, { attributes: true });
    });
    slider.value = tokens;
    slider.dispatchEvent(new Event("input"));
    await drawn;
    return performance.now() - start;
}"""


def figures(folder: Path, loads: int = 5) -> dict[str, Any]:
    """Milliseconds from the start of the navigation to the first answer, with an empty cache, and from a change of the
    slider to the picture of its tokens."""
    first, slides = [], []
    with served(folder) as address, chromium() as browser:
        for _ in range(loads):
            page = new_page(browser)
            page.add_init_script(
                "new MutationObserver(() => { if (!window.first && document.querySelector('" + ANSWERED + "')) "
                "window.first = performance.now(); }).observe(document, "
                "{ subtree: true, childList: true, attributes: true });"
            )
            page.goto(address)
            page.wait_for_selector(ANSWERED)
            first.append(page.evaluate("window.first"))
            page.wait_for_selector(COMPARED)
            patches = page.evaluate("Number(document.getElementById('tokens').max)")
            slides += [page.evaluate(SLIDE, max(1, patches * step // 10)) for step in (10, 7, 5, 3, 2, 9)]
            shown = {name: page.inner_text(f"#{name}") for name in ("ratio", "engine", "threads")}
            page.context.close()
    return {
        "first answer, ms": {"median": round(statistics.median(first)), "worst": round(max(first))},
        "slider, ms": {"median": round(statistics.median(slides)), "worst": round(max(slides))},
        "shown": shown,
    }


if __name__ == "__main__":  # page_browser.py PAGE
    sys.stdout.write(json.dumps(figures(Path(sys.argv[1])), indent=2, ensure_ascii=False) + "\n")
