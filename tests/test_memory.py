"""Memory that is freed stays with the process, and pages are not asked for anew."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import resource
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from dgcn import cli, memory

def count_faults():
    blocks = [np.ones(1 << 18) for _ in range(64)]
    del blocks
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    for _ in range(5):
        blocks = [np.ones(1 << 18) for _ in range(64)]
        del blocks
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before

{start}
with ThreadPoolExecutor(1) as thread:
    print(count_faults(), thread.submit(count_faults).result())
"""


def is_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, ValueError):
        return False


def count_faults(start: str) -> list[int]:
    """Page faults of 5 × 64 blocks of 2 MiB, in the first thread and in another one."""
    program = PROGRAM.format(start=start)
    return [int(count) for count in subprocess.check_output([sys.executable, "-c", program], text=True).split()[-2:]]


@pytest.mark.skipif(not is_glibc(), reason="needs glibc")
def test_freed_memory_is_used_again() -> None:
    pages = 5 * 64 * (2 << 20) // os.sysconf("SC_PAGESIZE")
    assert max(count_faults("")) > pages / 2  # else there is nothing to gain any more
    assert max(count_faults("memory.keep_freed_memory()")) < pages / 100
    assert max(count_faults("cli.main([])")) < pages / 100
