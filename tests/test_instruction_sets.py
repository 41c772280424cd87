"""The operators with the instruction sets of the CPU that this process does not use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SETS = ["portable", "avx2", "avx512"]
SUPPORTED = SETS[: {"AVX512": 3, "AVX2": 2}.get(torch.backends.cpu.get_cpu_capability(), 1)]
IN_USE = os.environ.get("DGCN_CPU_CAPABILITY", SUPPORTED[-1])


@pytest.mark.parametrize("capability", SETS)
def test_operators_equal_the_reference(capability: str) -> None:
    if capability not in SUPPORTED:
        pytest.skip(f"this CPU has no {capability}")
    if capability == IN_USE:
        pytest.skip("all other tests run with it")
    # Run from the tests' folder: in the root, `python -m` would put the uninstalled sources first on the path.
    command = [sys.executable, "-m", "pytest", "-q", "-x", "test_graph_conv.py", "test_relu_affinity.py"]
    of_kernels = "equals_the_reference and not matrix and not empty and not 133"
    command += ["-k", f"({of_kernels}) or test_layouts or (nan and cpu)"]
    environment = os.environ | {"DGCN_CPU_CAPABILITY": capability}
    result = subprocess.run(command, cwd=Path(__file__).parent, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
