"""What do bfloat16 and channels_last cost the graph convolution, against float32 in NCHW?

On one thread. x and grad_y have the dtype and the layout, the parameters are float32.
"""

import pytest
import torch

from benchmarks.graph_conv import formulations
from benchmarks.graph_conv.formulations import Formulation, Inputs, Shape
from benchmarks.harness import Claim, Compare, Variant

SHAPES = ((8, 17, 41, 41), (8, 17, 81, 81), (1, 17, 161, 161))
FORMATS = {
    "float32": (torch.float32, torch.contiguous_format),
    "bfloat16": (torch.bfloat16, torch.contiguous_format),
    "float32 channels_last": (torch.float32, torch.channels_last),
    "bfloat16 channels_last": (torch.bfloat16, torch.channels_last),
}
CLAIMS = (
    Claim("bfloat16", "float32", 1.0),
    Claim("float32 channels_last", "float32", 1.15),
    Claim("bfloat16 channels_last", "bfloat16", 1.15),
)


@pytest.mark.parametrize("direction", formulations.DIRECTIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=formulations.shape_id)
def test_graph_conv_formats(compare: Compare, one_core: None, shape: Shape, direction: str) -> None:
    dgcn = Formulation(formulations.dgcn)
    variants = {}
    for name, (dtype, memory_format) in FORMATS.items():
        inputs = Inputs.random(shape, direction, dtype=dtype, memory_format=memory_format)
        formulations.check({name: dgcn}, inputs)
        variants[name] = Variant(dgcn.bind(inputs))
    compare(
        f"graph_conv of dgcn, {direction}, 1 thread",
        variants,
        case=str(list(shape)),
        direction=direction,
        threads=1,
        baselines=["float32"],
        claims=CLAIMS,
    )
