"""The pages that need ONNX Runtime: their commands run, then their Python blocks, in their order and one namespace."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from test_readme import WITH_ONNX, commands

from dgcn.cli import main
from dgcn.cli.demo import PICTURE

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.mark.parametrize("page", WITH_ONNX)
def test_page(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pictures").mkdir()
    shutil.copy(PICTURE, "pictures")
    for _, *arguments in commands(page):
        assert main(arguments) == 0
    path = ROOT / page
    text = path.read_text(encoding="utf-8")
    torch.manual_seed(0)
    namespace: dict[str, Any] = {}
    blocks = list(re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))
    assert blocks
    for block in blocks:
        line = text.count("\n", 0, block.start(1))
        # The empty lines before it make a traceback show the line of the page.
        exec(compile("\n" * line + block[1], str(path), "exec"), namespace)
