"""`dgcn check` reports what is wrong with an installation, whatever it is, and goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def check_with(folder: Path) -> dict[str, str]:
    """Run the command with `folder` ahead of every other package; its lines by the first word of their subject."""
    search_path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    result = subprocess.run(
        [sys.executable, "-m", "dgcn", "check"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": search_path},
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stdout + result.stderr
    return {line.split()[1]: line for line in result.stdout.splitlines()}


def test_a_torch_that_does_not_load(tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise OSError('libcudart.so.13: cannot open\\nsecond line')\n")
    lines = check_with(tmp_path)
    assert lines["torch"].endswith("OSError: libcudart.so.13: cannot open")
    assert lines["operators"].startswith("failed")
    assert lines["decoder"].startswith("ok")  # which needs no torch


def test_two_builds_of_opencv(tmp_path):
    for name in ("opencv-python", "opencv-contrib-python"):
        folder = tmp_path / f"{name.replace('-', '_')}-4.9.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 4.9.0\n")
        (folder / "top_level.txt").write_text("cv2\n")
    (tmp_path / "torch.py").write_text("raise ImportError('not needed here')\n")
    line = check_with(tmp_path)["opencv"]
    assert line.startswith("failed")
    assert "pip uninstall -y opencv-contrib-python opencv-python" in line
