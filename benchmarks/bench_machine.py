"""What does one core of this machine do at most?

The limits that the other benchmarks measure against, here on their own: float32 multiply-adds, and copies between
buffers of several sizes, from those that fit in L1 to those that fit in no cache. Bytes are those read and those
written.
"""

from benchmarks import machine
from benchmarks.harness import Compare

COPIES = {"16 KiB": 2**14, "256 KiB": 2**18, "1 MiB": 2**20, "8 MiB": 2**23, "512 MiB": 2**29}  # both buffers


def test_machine(compare: Compare, one_core: None) -> None:
    compare(
        "one core; bytes are those read and those written",
        {"multiply-adds": machine.multiply_add(2**24)}
        | {f"copy, {name}": machine.copy(size) for name, size in COPIES.items()},
        case="float32",
        direction="peak",
        dtype="float32",
        threads=1,
    )
