"""The commands on a model that gives masks."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from tokfilter.cli import cli


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def run(*arguments):
    return CliRunner().invoke(cli, [*map(str, arguments)])


@pytest.mark.parametrize("source", ["mask_bundle_file", "mask_export_directory"])
def test_predict_draws_masks_beside_the_kept_tokens(source, photo, tmp_path, request):
    path = request.getfixturevalue(source)
    result = run("predict", path, photo, "--keep", "0.5", "-o", tmp_path / "out.png", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["mask_size"] == [16, 16] and len(found["indices"]) == 8
    assert abs(sum(area["pixels"] for area in found["areas"]) - 1) < 1e-9
    assert {area["class"] for area in found["areas"]} <= {"sky", "sea", "sand"}
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.width > 2 * picture.height
    text = run("predict", path, photo)
    assert "per cent of the pixels of masks of 16 x 16" in text.output


def test_verify_and_inspect_take_masks(mask_export_directory, mask_bundle_file):
    result = run("verify", mask_export_directory)
    assert result.exit_code == 0, result.output
    assert "full.onnx, batch 2, 16 tokens: masks match PyTorch's" in result.output
    inspected = run("inspect", mask_bundle_file)
    assert inspected.exit_code == 0, inspected.output


def test_the_report_shows_masks_beside_kept_tokens(mask_bundle_file, tmp_path):
    result = run("report", "--bundle", mask_bundle_file, "--keep", "0.5", "-o", tmp_path / "report.html")
    assert result.exit_code == 0, result.output
    page = (tmp_path / "report.html").read_text()
    assert page.count('alt="masks over the image"') == 4  # two golden images, every token and half of them
    assert "each pixel in the colour of its class" in page


def test_commands_for_classifiers_refuse_masks_in_a_sentence(mask_bundle_file, mask_export_directory, tmp_path):
    (tmp_path / "data" / "sky").mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(tmp_path / "data" / "sky" / "a.png")
    for arguments, words in (
        (("eval", mask_bundle_file, tmp_path / "data"), "gives masks and has no top-1"),
        (("serve", mask_export_directory), "the service takes models that classify"),
        (("triton-repo", mask_export_directory, tmp_path / "triton"), "a Triton repository takes models"),
    ):
        result = run(*arguments)
        assert result.exit_code, result.output
        assert words in " ".join(result.output.split()), result.output
        assert "Traceback" not in result.output
