"""The notebook in examples/ runs, and is stored without outputs."""

from __future__ import annotations

import pytest
from conftest import ROOT

nbformat = pytest.importorskip("nbformat", reason="needs nbclient and ipykernel")
nbclient = pytest.importorskip("nbclient", reason="needs nbclient and ipykernel")
pytest.importorskip("ipykernel", reason="needs nbclient and ipykernel")


def test_quickstart(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    notebook = nbformat.read(ROOT / "examples" / "quickstart.ipynb", as_version=4)
    codes = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in codes)
    nbclient.NotebookClient(notebook, resources={"metadata": {"path": str(tmp_path)}}).execute()
    found, overlay, shapes, persons = (cell.outputs[-1] for cell in codes)
    assert found.text.startswith("score ")
    assert "image/png" in overlay.data
    assert shapes.data["text/plain"] == "(torch.Size([1, 256, 41, 41]), torch.Size([1, 17, 41, 41]))"
    assert persons.data["text/plain"].count("[") == 1 + 1 + 2  # one person of two keypoints
