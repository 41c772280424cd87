"""How many instructions do the CUDA kernels issue for a pixel? Counted in their machine code; no GPU is needed.

    python -m benchmarks.graph_conv.instructions             a table; writes results/graph_conv_instructions.json
    python -m benchmarks.graph_conv.instructions --check     fails where a count is above its limit; writes nothing

The code is that of K = 17, in NCHW unless said otherwise, for sm_90 in dgcn_ext/_C.abi3.so. cuobjdump disassembles it,
which comes with the CUDA toolkit and with torch's triton. A count is in warp instructions a pixel: what a warp issues
for 32 pixels, ÷ 32.

Counted is the arithmetic, from a tile in shared memory to its result there. The kernels for few nodes unroll all loops
over nodes, so that is straight-line code: a block of instructions without a branch for the sums, one for the results,
and in backward a few that move rows and multiply, and the body of the loop that adds up dM. These blocks are found by
the multiplications, loads and stores that they must have. The start of a tile and its copies come on top: a profiler
counted 3 to 4 more in bfloat16, 8 to 10 in float32.

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
FORWARD_PIXELS, BACKWARD_PIXELS = {2: 4, 4: 2}, 2  # of a thread, by the bytes of a feature
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

        def blocks(kernel: str, channels_last: bool, mangled: str = mangled) -> list[Block]:
            start = f"{kernel}_kernelI{mangled}Li{NODES}ELb0ELb{int(channels_last)}E"
            return next(blocks for name, blocks in kernels.items() if start in name)

        pixels = FORWARD_PIXELS[size]
        own = NODES * pixels
        for suffix, channels_last in (("", False), (", channels_last", True)):
            forward = blocks("few_nodes_forward", channels_last)
            sums = len(shortest(forward, FFMA=NODES * own))
            without_gate, with_gate = (sums + len(shortest(forward, STS=own, FSETP=gates)) for gates in (0, own))
            bytes_moved = 2 * features
            yield count(f"forward{suffix}", without_gate / pixels, bytes_moved, 13 if size == 4 else 13.5)
            yield count(f"forward with gate{suffix}", with_gate / pixels, bytes_moved + GATE_BYTES, 15)
            backward = blocks("few_nodes_backward", channels_last)
            moved = [b for b in backward if number_of("STS", b) >= 16 and number_of("LDS", b) >= 7]  # to rows, grad_x
            if size == 4:  # a thread adds four pixels to a part of dM
                outer = len(shortest(backward, FFMA=4 * 5 * 9, FADD=20)) / 4 * PARTS
            else:  # a warp adds 16 pixels
                outer = len(shortest(backward, HMMA=8)) / 16 * 32
            instructions = sum(map(len, moved)) / BACKWARD_PIXELS + outer
            yield count(f"backward{suffix}", instructions, 3 * features + GATE_BYTES, 31 if size == 4 else 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail where a count is above its limit; write nothing")
    arguments = parser.parse_args()
    origin = machine.origin(["python", "-m", "benchmarks.graph_conv.instructions"])
    results = list(counts(Path(dgcn_ext.__file__).with_name("_C.abi3.so")))
    print(f"{'warp instructions a pixel, K = 17':43} {'issued':>6} {'slots':>8} {'share':>8}")
    for result in results:
        print(result.line())
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
