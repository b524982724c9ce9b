"""Examples of the documentation run as they stand: docs/api.md and examples/quickstart.ipynb."""

import re

import nbformat
import pytest
import torch
from nbclient import NotebookClient
from paths import ROOT

import tokfilter

PAGE = (ROOT / "docs" / "api.md").read_text()
NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"


@pytest.fixture
def one_thread():
    """Threads of small models wait for each other, for minutes on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_the_examples_of_the_page_run_in_order(tmp_path, monkeypatch, capsys, one_thread):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    blocks = list(re.finditer(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE))
    assert len(blocks) == 12
    for block in blocks:
        line = PAGE.count("\n", 0, block.start()) + 1
        exec(compile("\n" * line + block[1], "docs/api.md", "exec"), namespace)
    assert {"model.pt", "out", "kept.png"} <= {path.name for path in tmp_path.iterdir()}
    printed = capsys.readouterr().out
    assert "UnsupportedModelError: expected a model patched by tokfilter" in printed
    assert printed.count("BudgetError: keep must be") == 2


def test_the_page_names_everything_public():
    for name in set(dir(tokfilter)) - {"__version__"}:
        assert f"`{name}`" in PAGE, name


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the notebook's own client
def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of the kernel: threads of small models wait for each other
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    figures = [out for cell in notebook.cells for out in cell.get("outputs", []) if "image/png" in out.get("data", {})]
    assert len(figures) == 1
    assert (tmp_path / "out" / "manifest.json").is_file()
