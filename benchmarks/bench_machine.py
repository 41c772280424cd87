"""What does one core of this machine do at most?

    python benchmarks/bench_machine.py                 writes benchmarks/results/machine_cpu.json

The limits by which the other benchmarks measure themselves, here on their own: float32 multiply-adds, and copies
between buffers of several sizes, from those that fit in L1 to those that fit in no cache.
"""

import harness
import machine
from pytest_benchmark.fixture import BenchmarkFixture

COPIES = {"16 KiB": 2**14, "256 KiB": 2**18, "1 MiB": 2**20, "8 MiB": 2**23, "512 MiB": 2**29}  # of both buffers


def test_machine(benchmark: BenchmarkFixture) -> None:
    benchmark.group = "one core; bytes are those read and those written"
    benchmark.extra_info.update(case="float32", dtype="float32", threads=1)
    with machine.cores(1):
        variants = {"multiply-adds": machine.multiply_add(2**24)}
        variants |= {f"copy, {name}": machine.copy(size) for name, size in COPIES.items()}
        harness.interleave(benchmark, variants, baselines=[])


if __name__ == "__main__":
    raise SystemExit(harness.main(__file__))
