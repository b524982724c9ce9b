import pytest
from paths import RESULTS

from tokfilter.benchmarks.documents import document_from_file
from tokfilter.commands.tables import print_comparison


@pytest.fixture(scope="module")
def document():
    return document_from_file(RESULTS / "gpu-onnx-fp16.json", "tokfilter/bench")


@pytest.mark.parametrize(
    ("width", "headings"),
    [
        (80, "batch tokens median cv speed-up ratio efficiency J/image"),
        (140, "batch tokens median p90 p95 p99 cv images/s speed-up ratio efficiency J/image"),
    ],
)
def test_no_cell_is_cut_off(document, width, headings, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    print_comparison(document)
    _, names, *lines = capsys.readouterr().out.splitlines()
    assert names.split() == headings.split()
    row = document["rows"][-1]
    last = lines[len(document["rows"]) - 1]
    assert f"{row['mac_ratio']:.2f}×" in last and f"gpu0 {row['power']['joules_per_image']['gpu0']:.3f}" in last
    assert "…" not in "".join(lines[: len(document["rows"])])
