"""What does a second thread bring to each of the four: graph convolution, non-local layer, encoder, decoder?

The process has two cores whether it computes on one thread or two, so what one thread leaves idle stays idle.
"""

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch

from benchmarks.decoder import scenes as decoder_scenes
from benchmarks.encoder.scenes import ENCODER, SIZE, STRIDE, arrays, pictures
from benchmarks.graph_conv import formulations
from benchmarks.graph_conv.formulations import Formulation, Inputs, Shape
from benchmarks.harness import Claim, Compare, Variant
from benchmarks.non_local import forms
from benchmarks.non_local.forms import CHANNELS, POSITIONS
from dgcn_ext.decoder import PifPafDecoder
from dgcn_ext.functional import relu_affinity

SMALL_SHAPE = (8, 17, 41, 41)  # too small for a claim
SHAPES = (SMALL_SHAPE, (8, 17, 81, 81), (1, 17, 161, 161))
DECODED_IMAGES = 16

pytestmark = pytest.mark.usefixtures("two_cores")


def faster(limit: float) -> list[Claim]:
    return [Claim("1 thread", "2 threads", limit, at_least=True)]


def torch_threads(call: Callable[[], object]) -> dict[str, Variant]:
    return {
        "1 thread": Variant(call, prepare=partial(torch.set_num_threads, 1)),
        "2 threads": Variant(call, prepare=partial(torch.set_num_threads, 2)),
    }


@pytest.mark.parametrize("direction", formulations.DIRECTIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=formulations.shape_id)
def test_graph_conv_threads(compare: Compare, shape: Shape, direction: str) -> None:
    compare(
        f"graph_conv of dgcn, {direction}, float32",
        torch_threads(Formulation(formulations.dgcn).bind(Inputs.random(shape, direction))),
        case=str(list(shape)),
        direction=direction,
        dtype="float32",
        baselines=["2 threads"],
        claims=faster(1.7) if shape != SMALL_SHAPE else [],
    )


@pytest.mark.parametrize("direction", forms.DIRECTIONS)
@pytest.mark.parametrize("images", [1, 8])
def test_relu_affinity_threads(compare: Compare, images: int, direction: str) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, images, POSITIONS)
    g, grad_y = torch.randn(2, images, CHANNELS, POSITIONS)
    backward = direction == "forward+backward"
    compare(
        f"relu_affinity, {direction}, float32",
        torch_threads(forms.bind(relu_affinity, [a, b, g], grad_y if backward else None)),
        case=str([images, CHANNELS, POSITIONS]),
        direction=direction,
        dtype="float32",
        baselines=["2 threads"],
        claims=faster(1.6) if backward else [],
    )


@pytest.mark.parametrize("num_persons", [5, 20])
@pytest.mark.parametrize("images", [8, 32])
def test_encoder_threads(compare: Compare, images: int, num_persons: int) -> None:
    """The memory may be the limit: most of the work is to fill 4.3 MB for each picture, and eight do not fit the cache.

    So "memset" sets as many bytes to one value, a picture at a time.
    """
    batch = partial(ENCODER.batch, pictures(images, num_persons), SIZE, SIZE, STRIDE)
    out = batch()
    num_bytes = sum(array.nbytes for array in arrays(out)) // images
    memory = np.ones(images * num_bytes, np.uint8)
    starts = [memory.ctypes.data + i * num_bytes for i in range(images)]

    def fill(start: int) -> None:
        ctypes.memset(start, 255, num_bytes)

    with ThreadPoolExecutor(2) as pool:
        compare(
            f"encoder, batches, {SIZE} px, stride {STRIDE}",
            {
                "1 thread": Variant(partial(batch, threads=1, out=out)),
                "2 threads": Variant(partial(batch, threads=2, out=out)),
                "memset, 1 thread": Variant(lambda: [fill(start) for start in starts]),
                "memset, 2 threads": Variant(lambda: list(pool.map(fill, starts))),
            },
            case=f"{images} x {num_persons} persons",
            direction="encode a batch",
            baselines=["2 threads", "memset, 2 threads"],
            claims=faster(1.6),
        )


@decoder_scenes.NEEDS_DATA
@pytest.mark.parametrize("num_persons", [5, 20])
def test_decoder_batch(compare: Compare, num_persons: int) -> None:
    decoder = PifPafDecoder(17, decoder_scenes.COCO_LIMBS)
    images = [decoder_scenes.scene(num_persons, seed=seed) for seed in range(DECODED_IMAGES)]
    decode = partial(decoder.batch, images, decoder_scenes.STRIDE)
    compare(
        f"decoder, {DECODED_IMAGES} images, stride 8",
        {
            "1 thread": Variant(partial(decode, 1), times=DECODED_IMAGES),
            "2 threads": Variant(partial(decode, 2), times=DECODED_IMAGES),
        },
        case=f"{num_persons} persons",
        direction="batch",
        baselines=["2 threads"],
        claims=faster(1.8),
    )
