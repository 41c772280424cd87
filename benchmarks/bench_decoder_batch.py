"""How much faster is a batch of images decoded on two threads than on one?

    python benchmarks/bench_decoder_batch.py      writes benchmarks/results/decoder_batch_cpu.json

Sixteen images with 5 or 20 persons each (decoder_scenes.py), stride 8, with two cores for the process whichever its
threads.
"""

from functools import partial

import decoder_scenes
import harness
import machine
import pytest
from harness import Claim, Variant
from pytest_benchmark.fixture import BenchmarkFixture

from dgcn_ext.decoder import PifPafDecoder

NUM_IMAGES = 16


@decoder_scenes.NEEDS_DATA
@pytest.mark.parametrize("num_persons", [5, 20])
def test_decoder_batch(benchmark: BenchmarkFixture, num_persons: int) -> None:
    benchmark.group = f"decoder, {NUM_IMAGES} images, stride 8"
    benchmark.extra_info.update(case=f"{num_persons} persons", direction="batch")
    decoder = PifPafDecoder(17, decoder_scenes.COCO_LIMBS)
    images = [decoder_scenes.scene(num_persons, seed=seed) for seed in range(NUM_IMAGES)]
    with machine.cores(2):
        harness.interleave(
            benchmark,
            {
                f"{threads} thread{'s' if threads > 1 else ''}": Variant(
                    partial(decoder.batch, images, decoder_scenes.STRIDE, threads), NUM_IMAGES
                )
                for threads in (1, 2)
            },
            baselines=["2 threads"],
            claims=[Claim("1 thread", "2 threads", 1.8, at_least=True)],
        )


if __name__ == "__main__":
    raise SystemExit(harness.main(__file__))
