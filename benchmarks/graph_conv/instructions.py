"""How many instructions do the CUDA kernels issue for a pixel? Counted in their machine code; no GPU is needed.

    python -m benchmarks.graph_conv.instructions             a table; writes results/graph_conv_instructions.json
    python -m benchmarks.graph_conv.instructions --check     fails where a count is above its limit; writes nothing

The code is that of K = 17, in NCHW unless said otherwise, for sm_90 in dgcn_ext/_C.abi3.so. cuobjdump disassembles it,
which comes with the CUDA toolkit and with torch's triton. A count is in warp instructions a pixel: what a warp issues
for 32 pixels, ÷ 32.

The kernels for few nodes unroll all loops over nodes, so a full tile is straight-line code: a block of instructions
without a branch for the sums, one for the stores, and in backward one that loads x and the body of the loop that adds
up dM. These blocks are found by the multiplications, loads and stores that they must have. What a tile takes before its
first pixel (about 60 instructions of each thread) is not counted.

`slots` is what an H200 can issue while memory delivers the pixel: four a cycle, at 4.3 TB/s ÷ 132 SMs ÷ 1.98 GHz = 16.5
bytes a cycle. A kernel that needs fewer can be as fast as the memory.
"""

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import dgcn_ext
from benchmarks import machine, report

NODES = 17
BYTES_PER_CYCLE = 4.3e12 / 132 / 1.98e9  # of an SM
SLOTS_PER_CYCLE = 4
GATE_BYTES = 4
TYPES = {"float32": ("f", 4), "bfloat16": ("13__nv_bfloat16", 2)}  # as in mangled names; bytes of a feature
FORWARD_PIXELS, BACKWARD_PIXELS = 4, 2  # of a thread
PARTS = 8  # of dM in float32: threads that read the same pixels
BRANCH = re.compile(r"\b(?:BRA|EXIT|RET|BSYNC)\b")

Block = list[str]


@dataclass(frozen=True)
class Count:
    kernel: str
    dtype: str
    instructions: float  # of a warp, for a pixel
    slots: float
    limit: float  # what --check allows

    def line(self) -> str:
        share = 100 * self.instructions / self.slots
        return f"{self.kernel:32} {self.dtype:10} {self.instructions:6.1f} {self.slots:8.1f} {share:6.0f} %"


def disassembler() -> str | None:
    """cuobjdump of the PATH, else that of triton."""
    triton = find_spec("triton")
    folders = [Path(folder) / "backends/nvidia/bin" for folder in (triton and triton.submodule_search_locations) or ()]
    return shutil.which("cuobjdump") or shutil.which("cuobjdump", path=":".join(map(str, folders)))


def disassemble(library: Path) -> Iterator[tuple[str, list[Block]]]:
    """The kernels for few nodes with K = 17: mangled name, and its code in blocks without a branch."""
    program = disassembler()
    if program is None:
        sys.exit("cuobjdump is neither on the PATH nor in triton: nothing can be counted")
    listing = subprocess.run([program, "-arch", "sm_90", "-sass", library], check=True, capture_output=True, text=True)
    for code in listing.stdout.split("Function : ")[1:]:
        name = code.split(maxsplit=1)[0]
        if "few_nodes" in name and f"Li{NODES}ELb0E" in name:
            yield name, blocks_of(re.findall(r"^\s+/\*([0-9a-f]+)\*/\s+(.*?);", code, re.MULTILINE))


def blocks_of(code: list[tuple[str, str]]) -> list[Block]:
    targets = {int(target, 16) for _, text in code for target in re.findall(r"\bBRA\b.*?0x([0-9a-f]+)", text)}
    blocks: list[Block] = [[]]
    for address, text in code:
        if int(address, 16) in targets:
            blocks.append([])
        blocks[-1].append(text)
        if BRANCH.search(text):
            blocks.append([])
    return blocks


def number_of(opcode: str, block: Block) -> int:
    return sum(re.match(rf"(?:@!?U?P\d+ )?{opcode}\b", text) is not None for text in block)


def shortest(blocks: list[Block], **at_least: int) -> Block:
    """The shortest block with so many of each opcode."""
    return min((b for b in blocks if all(number_of(op, b) >= count for op, count in at_least.items())), key=len)


def counts(library: Path) -> Iterator[Count]:
    kernels = dict(disassemble(library))
    if not kernels:
        sys.exit(f"{library} has no CUDA kernels: build it where there is an nvcc (DGCN_CUDA=1)")
    for dtype, (mangled, size) in TYPES.items():
        features = NODES * size

        def count(kernel: str, instructions: float, size: float, limit: float, dtype: str = dtype) -> Count:
            return Count(kernel, dtype, instructions / 32, SLOTS_PER_CYCLE * size / BYTES_PER_CYCLE, limit)

        forward, tile_forward, backward = (
            next(blocks for name, blocks in kernels.items() if f"{kernel}_kernelI{mangled}Li" in name)
            for kernel in ("few_nodes_forward", "few_nodes_tile_forward", "few_nodes_backward")
        )
        sums = len(shortest(forward, FFMA=NODES**2 * FORWARD_PIXELS))
        stores = NODES * FORWARD_PIXELS
        without_gate = len(shortest(forward, STG=stores)) + sums
        with_gate = len(shortest(forward, STG=stores + FORWARD_PIXELS)) + sums
        yield count("forward", without_gate / FORWARD_PIXELS, 2 * features, 13 if size == 4 else 14.5)
        yield count(
            "forward that keeps the gate",
            with_gate / FORWARD_PIXELS,
            2 * features + GATE_BYTES,
            15 if size == 4 else 16,
        )
        own = len(shortest(tile_forward, FFMA=NODES**2 * FORWARD_PIXELS)) + len(shortest(tile_forward, STS=stores))
        yield count("forward, channels_last*", own / FORWARD_PIXELS, 2 * features, 13 if size == 4 else 14.5)

        features_of_thread = NODES * BACKWARD_PIXELS
        loads = {"LDGSTS": features_of_thread} if size == 4 else {"LDG": features_of_thread, "STS": features_of_thread}
        pixels = len(shortest(backward, FFMA=NODES * features_of_thread)) + len(shortest(backward, **loads))
        if size == 4:  # a thread adds four pixels to a part of dM
            outer = len(shortest(backward, FFMA=4 * 5 * 9)) / 4 * PARTS
        else:  # a warp adds 16 pixels
            outer = len(shortest(backward, HMMA=8)) / 16 * 32
        yield count("backward", pixels / BACKWARD_PIXELS + outer, 3 * features + GATE_BYTES, 30 if size == 4 else 18)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail where a count is above its limit; write nothing")
    arguments = parser.parse_args()
    origin = machine.origin(["python", "-m", "benchmarks.graph_conv.instructions"])
    results = list(counts(Path(dgcn_ext.__file__).with_name("_C.abi3.so")))
    print(f"{'warp instructions a pixel, K = 17':43} {'issued':>6} {'slots':>8} {'share':>8}")
    for result in results:
        print(result.line())
    print("* without the copies of the tile between device and shared memory: a loop of 16 bytes at a time")
    if arguments.check:
        above = [
            f"{r.kernel}, {r.dtype}: {r.instructions:.1f}, at most {r.limit}"
            for r in results
            if r.instructions > r.limit
        ]
        sys.exit("\n".join(above) or None)
    report.save(report.RESULTS / "graph_conv_instructions.json", origin, kernels=[asdict(r) for r in results])


if __name__ == "__main__":
    main()
