"""The Python blocks of ``docs/torch.md`` run, in their order and in one namespace."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def test_the_blocks_of_torch_md_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs" / "torch.md"
    text = page.read_text(encoding="utf-8")
    torch.manual_seed(0)
    namespace: dict[str, Any] = {}
    blocks = list(re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))
    assert blocks
    for block in blocks:
        line = text.count("\n", 0, block.start(1))
        # The empty lines before it make a traceback show the line of the page.
        exec(compile("\n" * line + block[1], str(page), "exec"), namespace)
