"""The page in headless Chromium: answers, pixels, controls, and what it says when something is wrong."""

import base64
import hashlib
import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_browser import ANSWERED, COMPARED, ISOLATED, SLIDE, browser_path, chromium, new_page, served
from PIL import Image

from tokfilter.artifacts.compare import TOLERANCES, compare_indices, compare_logits
from tokfilter.artifacts.golden import GoldenArrays, golden_of
from tokfilter.artifacts.images import image_from_bytes
from tokfilter.artifacts.manifest import load_manifest
from tokfilter.artifacts.pixels import normalise
from tokfilter.benchmarks.page.build import write_page
from tokfilter.benchmarks.page.onnxruntime_web import FETCH, cached_package
from tokfilter.runtime.preprocess import Preprocess, preprocess_from_fields

HOSTILE = ["<img src=x onerror=alert(1)>", "bee & <b>wasp</b>", "cat", "'dog'", "eel\u202e"]


@dataclass
class Opened:
    """A page of the small model in a browser.

    page: Playwright's page
    problems: what its console and its scripts reported
    hosts: that anything was requested from
    """

    page: Any
    address: str
    folder: Path
    golden: GoldenArrays
    problems: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    def watch(self, page: Any) -> Any:
        page.on("console", lambda message: self.problems.append(message.text))
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("request", lambda request: self.hosts.add(request.url.rpartition("://")[2].split("/")[0]))
        return page


@pytest.fixture(scope="module")
def folder(export_directory, tmp_path_factory) -> Path:
    pytest.importorskip("playwright", reason="needs Playwright: pip install playwright")
    if browser_path() is None:
        pytest.skip("needs Chromium: apt-get install chromium-headless-shell")
    if not cached_package().is_file():
        pytest.skip(f"needs ONNX Runtime Web: {FETCH} --pack-destination {cached_package().parent}")
    export = shutil.copytree(export_directory, tmp_path_factory.mktemp("hostile") / "out")
    manifest = json.loads((export / "manifest.json").read_text())
    manifest["model"]["class_names"] = HOSTILE
    (export / "manifest.json").write_text(json.dumps(manifest))
    target = tmp_path_factory.mktemp("site") / "page"
    write_page(export, target)
    return target


@pytest.fixture(scope="module")
def browser(folder) -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def opened(folder, browser, export_directory) -> Iterator[Opened]:
    with served(folder) as address:
        page = new_page(browser, viewport={"width": 1280, "height": 900})
        golden = golden_of(export_directory, load_manifest(export_directory))
        result = Opened(page, address, folder, golden)
        result.watch(page).goto(address)
        page.wait_for_selector(ANSWERED)
        yield result


RUN = """async ({ files, input, budgets }) => {
    const { Engine } = await import("/js/engine.js");
    const { loadSettings } = await import("/js/settings.js");
    const settings = await loadSettings();
    const started = window.started ??= new Map();
    if (!started.size) {
        started.set("engine", new Engine());
        await started.get("engine").start(settings);
    }
    const engine = started.get("engine");
    const data = (input.type === "uint8" ? Uint8Array : Float32Array).from(input.data);
    await engine.setInput({ ...input, data });
    const answers = {};
    for (const [name, file] of Object.entries({ ...settings.models, ...files })) {
        if (!started.has(name)) await engine.open(name, file);
        started.set(name, true);
        if ((name === "pixels") !== (input.type === "uint8")) continue;
        for (const tokens of name === "full" ? [null] : budgets) {
            const { logits, indices } = await engine.run(name, tokens);
            answers[tokens ?? "full"] = [Array.from(logits), indices && Array.from(indices)];
        }
    }
    return answers;
}"""


def answers_of(opened: Opened, image: np.ndarray, budgets: list[int], **files: Any) -> dict[str, Any]:
    given = {"type": str(image.dtype), "data": image.ravel().tolist(), "dims": [1, *image.shape]}
    return opened.page.evaluate(RUN, {"files": files, "input": given, "budgets": budgets})


def described(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {"path": path.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_answers_equal_the_golden_tensors_at_every_budget(opened):
    golden = opened.golden
    budgets = sorted(golden.logits)
    assert len(budgets) >= 3
    found = [answers_of(opened, image, budgets) for image in golden.images]
    for name in [*map(str, budgets), "full"]:
        logits = np.array([answers[name][0] for answers in found], np.float32)
        expected = golden.full if name == "full" else golden.logits[int(name)]
        assert compare_logits(logits, expected, TOLERANCES["fp32"]).errors == ()
    for k in budgets:
        indices = np.array([answers[str(k)][1] for answers in found], np.int32)
        assert compare_indices(indices, golden.expected_indices(k), golden.scores).errors == ()


def test_a_graph_that_takes_pixels_gives_the_same_answers(opened):
    from tokfilter.export.onnx_file import load_graph, save_graph
    from tokfilter.export.pixel_input import with_pixel_input

    mean = std = (0.5, 0.5, 0.5)
    path = opened.folder / "pixels.onnx"
    save_graph(with_pixel_input(load_graph(opened.folder / "model.onnx"), "uint8-nhwc", mean, std), path)
    pixels = np.random.default_rng(2).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    floats = answers_of(opened, normalise(pixels, mean, std), [3, 16])
    found = answers_of(opened, pixels.transpose(1, 2, 0), [3, 16], pixels=described(path))
    for k in ("3", "16"):
        logits, expected = (np.array([answers[k][0]], np.float32) for answers in (found, floats))
        assert compare_logits(logits, expected, TOLERANCES["fp32"]).errors == ()
        assert found[k][1] == floats[k][1]


PREPROCESS = """async (cases) => {
    const { inputFromView, viewFromImage } = await import("/js/preprocess.js");
    const bytes = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    return cases.map(({ settings, width, height, data }) => {
        const view = viewFromImage({ data: bytes(data), width, height }, settings);
        const input = inputFromView(view, settings);
        return { view: Array.from(view.data), input: Array.from(input.data), dims: input.dims };
    });
}"""


def transforms() -> Iterator[tuple[Preprocess, Image.Image]]:
    rng = np.random.default_rng(0)
    for mode in ("center", "squash", "border", "center-floor", "squash-floor"):
        for interpolation in ("bicubic", "bilinear", "nearest", "lanczos", "hamming", "box"):
            size = [(32, 32), (20, 31), (28, 28)][int(rng.integers(3))]
            crop = [1.0, 0.875, 0.95, 0.5, 1.1][int(rng.integers(5))]
            height, width = (int(n) for n in rng.integers(1, 90, 2))
            fields = {"input_size": (3, *size), "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
            transform = preprocess_from_fields(
                {**fields, "interpolation": interpolation, "crop_pct": crop, "crop_mode": mode}
            )
            yield transform, Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def settings_of(transform: Preprocess, form: str) -> dict[str, Any]:
    return {**{name: getattr(transform, name) for name in transform.__dataclass_fields__}, "form": form}


def test_pixels_equal_those_of_the_toolkit(opened):
    """Bit for bit with the Pillow whose order of passes it has; within a grey level of others."""
    cases, expected = [], []
    for i, (transform, image) in enumerate(transforms()):
        form = ("float", "uint8", "uint8-nhwc")[i % 3]
        data = base64.b64encode(np.asarray(image).tobytes()).decode()
        settings = settings_of(transform, form)
        cases.append({"settings": settings, "width": image.width, "height": image.height, "data": data})
        expected.append((transform, np.asarray(transform.view(image)).astype(int), form))
    differs = []
    for found, (transform, view, form) in zip(opened.page.evaluate(PREPROCESS, cases), expected, strict=True):
        pixels = np.array(found["view"]).reshape(view.shape)
        assert np.abs(pixels - view).max() <= 1
        differs.append((pixels != view).mean())
        again = preprocess_from_fields({**settings_of(transform, form), "input_size": (3, *view.shape[:2])})
        wanted = Preprocess(**{**again.__dict__, "form": form}).input_from_view(
            Image.fromarray(pixels.astype(np.uint8))
        )
        assert found["dims"] == [1, *wanted.shape]
        np.testing.assert_array_equal(np.array(found["input"], wanted.dtype), wanted.ravel())
    assert np.mean(differs) < 0.05


DECODE = """async (files) => {
    const { pictureFromBlob } = await import("/js/pictures.js");
    const results = [];
    for (const { name, data } of files) {
        const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
        const picture = await pictureFromBlob(new Blob([bytes]), name);
        const { width, height } = picture;
        const rgba = picture.canvas.getContext("2d").getImageData(0, 0, width, height).data;
        results.push({ width, height, rgba: Array.from(rgba) });
    }
    return results;
}"""


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_files_are_decoded_as_the_toolkit_decodes_them(opened):
    rng = np.random.default_rng(1)
    smooth = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((40, 24), Image.Resampling.BICUBIC)
    turned = Image.Exif()
    turned[0x0112] = 6
    layer = Image.fromarray(rng.integers(0, 256, (9, 7, 4), dtype=np.uint8))
    files = [
        (encoded(smooth, "PNG"), 0),
        (encoded(smooth.convert("L"), "PNG"), 0),
        (encoded(layer, "PNG"), 2),  # blended onto white: each rounds its own way
        (encoded(smooth, "JPEG", quality=90, exif=turned, icc_profile=b""), 2),
        (encoded(smooth, "WEBP", lossless=True), 0),
    ]
    given = [{"name": f"file {i}", "data": base64.b64encode(data).decode()} for i, (data, _) in enumerate(files)]
    for found, (data, tolerance) in zip(opened.page.evaluate(DECODE, given), files, strict=True):
        expected = np.asarray(image_from_bytes(data, "it")).astype(int)
        pixels = np.array(found["rgba"]).reshape(found["height"], found["width"], 4)[..., :3]
        assert pixels.shape == expected.shape
        assert np.abs(pixels - expected).max() <= tolerance


def test_the_slider_changes_the_tokens_that_are_drawn(opened):
    page = opened.page
    for tokens in (16, 8, 1):
        assert page.evaluate(SLIDE, tokens) >= 0
        assert page.get_attribute("#filtered canvas", "data-drawn") == str(tokens)
        assert page.inner_text("#budget output").startswith(f"{tokens} of 16 · ")
    assert page.get_attribute("#full canvas", "data-drawn") == "16"
    page.get_by_role("button", name="Keep 5 of 16 tokens").click()
    page.wait_for_selector("#filtered canvas[data-drawn='5']")
    slider = page.get_by_label("Tokens kept")
    slider.press("ArrowRight")
    page.wait_for_selector("#filtered canvas[data-drawn='6']")
    assert slider.get_attribute("aria-valuetext") == "6 of 16 tokens"
    assert "6 tokens: " in page.inner_text("[role=status]")


def test_both_models_are_timed(opened):
    opened.page.wait_for_selector(COMPARED)
    full, filtered = (opened.page.inner_text(f"#{name} .time") for name in ("full", "filtered"))
    assert float(full.removesuffix(" ms")) > 0 and float(filtered.removesuffix(" ms")) > 0
    assert opened.page.inner_text("#ratio").endswith("×")
    assert opened.page.inner_text("#threads") == "one thread"


def test_names_of_classes_are_text(opened):
    for pane in ("#full", "#filtered"):
        names = opened.page.locator(f"{pane} .bars .name").all_text_contents()
        assert sorted(names) == sorted(HOSTILE)
    assert opened.page.locator(".bars img, .bars b").count() == 0


def test_dropped_patches_are_dark_with_a_bright_rim(opened):
    page = opened.page
    page.evaluate(SLIDE, 1)
    with Image.open(io.BytesIO(page.locator("#filtered canvas").screenshot())) as shot:
        image = np.asarray(shot.convert("RGB").resize((400, 400))).astype(int)
    side = 100
    cores = image.reshape(4, side, 4, side, 3)[:, side // 4 : -side // 4, :, side // 4 : -side // 4]
    grey = (cores.max(axis=-1) - cores.min(axis=-1)).mean(axis=(1, 3)) < 20
    dark = cores.mean(axis=(1, 3, 4)) < 110
    assert (grey & dark).sum() == 15
    assert (image.min(axis=-1) > 200).sum() > side


def test_a_file_that_is_no_image_is_refused_in_a_sentence(opened):
    page = opened.page
    page.set_input_files("#file", {"name": "<i>notes</i>.txt", "mimeType": "text/plain", "buffer": b"hello"})
    page.wait_for_selector("#failure:not([hidden])")
    expected = "<i>notes</i>.txt is not an image that this browser reads. Take a JPEG, PNG or WebP file."
    assert page.inner_text("#failure") == expected
    page.set_input_files(
        "#file", {"name": "a.png", "mimeType": "image/png", "buffer": encoded(Image.new("RGB", (50, 20)), "PNG")}
    )
    page.wait_for_selector("#failure", state="hidden")
    assert page.locator("#samples [aria-pressed=true]").count() == 0


DROP = """(name) => {
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File(["text"], name));
    const options = { dataTransfer, bubbles: true, cancelable: true };
    document.body.dispatchEvent(new DragEvent("dragenter", options));
    const marked = document.body.classList.contains("dropping");
    const prevented = !document.body.dispatchEvent(new DragEvent("drop", options));
    return [marked, prevented, document.body.classList.contains("dropping")];
}"""


def test_a_file_can_be_dropped_anywhere(opened):
    page = opened.page
    assert page.evaluate(DROP, "dropped.txt") == [True, True, False]
    page.wait_for_selector("#failure:text('dropped.txt is not an image')")
    page.locator("#samples button").nth(1).click()
    page.wait_for_selector("#failure", state="hidden")
    assert page.locator("#samples button").nth(1).get_attribute("aria-pressed") == "true"


def test_the_camera_runs_live_until_it_is_stopped(opened):
    page = opened.page
    page.click("#camera")
    page.wait_for_selector("#camera:text('Stop the camera')")
    first = page.locator("#full canvas").screenshot()
    page.wait_for_timeout(300)
    assert page.locator("#full canvas").screenshot() != first
    page.click("#camera")
    page.wait_for_selector("#camera:text('Use the camera')")
    page.locator("#samples button").first.click()
    page.wait_for_selector("#samples [aria-pressed=true]")
    assert page.locator("#failure").is_hidden()


def test_a_phone_needs_no_horizontal_scrolling(opened):
    page = opened.page
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for name in ("full", "filtered"):
        box = page.locator(f"#{name} canvas").bounding_box()
        assert box["width"] > 150 and box["x"] + box["width"] <= 390
    page.set_viewport_size({"width": 1280, "height": 900})


def test_a_damaged_graph_gives_a_sentence(opened):
    (opened.folder / "bad.onnx").write_bytes(b"no graph")
    program = """async (file) => {
        const { Engine } = await import("/js/engine.js");
        const engine = window.started?.get("engine") ?? new Engine();
        return engine.open("damaged", file).catch((error) => error.message);
    }"""
    page = opened.page
    file = described(opened.folder / "bad.onnx")
    assert page.evaluate(program, file).startswith("ONNX Runtime could not open bad.onnx: ")
    changed = {**file, "sha256": "0" * 64}
    assert page.evaluate(program, changed).startswith(
        "bad.onnx is not the file that page.json describes: its bytes have changed."
    )
    cut = page.evaluate(program, {**file, "bytes": 9})
    assert "expected 9 bytes, got 8. Make the page again: tokfilter page." in cut


def test_nothing_was_reported_or_asked_of_another_host(opened):
    """After the tests above: of everything that the page has done until here."""
    assert opened.problems == []
    assert opened.hosts == {opened.address.removeprefix("http://")}


def test_a_changed_model_is_not_run(opened, browser):
    page = new_page(browser)
    page.route("**/model.onnx*", lambda route: route.fulfill(body=b"short"))
    page.goto(opened.address)
    page.wait_for_selector("#failure:not([hidden])")
    expected = "model.onnx is not the file that page.json describes: expected"
    assert page.inner_text("#failure").startswith(expected)
    page.close()


def test_a_page_opened_as_a_file_says_what_to_do(opened, browser):
    page = new_page(browser)
    page.goto((opened.folder / "index.html").as_uri())
    assert "python -m http.server 8000" in page.inner_text("#from-file")
    assert page.locator("#app").is_hidden()
    page.close()


def test_an_isolated_page_uses_threads(opened, browser):
    with served(opened.folder, ISOLATED) as address:
        page = opened.watch(new_page(browser))
        page.goto(address)
        page.wait_for_selector(ANSWERED)
        assert page.inner_text("#threads").endswith(" threads")
        page.close()
    assert opened.problems == []
