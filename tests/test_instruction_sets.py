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
# In a process of its own, because a process chooses the set once; without pytest, which takes long to start.
SCRIPT = """
import torch
from graph_conv_cases import GraphConvContract
from op_contract import DTYPES
from relu_affinity_cases import ReluAffinityContract

cpu = torch.device("cpu")
for contract in (GraphConvContract(), ReluAffinityContract()):
    for dtype in DTYPES:
        for name in contract.samples(dtype, cpu):
            contract.test_equals_the_reference(cpu, dtype, name)
    for layout in contract.layouts:
        contract.test_layouts(cpu, layout)
"""


@pytest.mark.parametrize("capability", SETS)
def test_operators_equal_the_reference(capability: str) -> None:
    if capability not in SUPPORTED:
        pytest.skip(f"this CPU has no {capability}")
    if capability == IN_USE:
        pytest.skip("all other tests run with it")
    environment = os.environ | {"DGCN_CPU_CAPABILITY": capability}
    command = [sys.executable, "-c", SCRIPT]
    result = subprocess.run(command, cwd=Path(__file__).parent, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
