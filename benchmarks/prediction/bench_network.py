"""How long does the network of the shipped model take on a CPU, and which ways of running it find the same persons?

One picture of 385 × 577 px. In torch: as it was trained (batch norms and graphs as layers of their own), folded, and
folded in channels_last (what `Predictor` runs), this also by torch.compile and in bfloat16. Exported: by ONNX Runtime,
with as many threads. `differing` says in how many of 30 pictures the persons are not those of `Predictor`: another
number, or a joint more than 0.1 px away.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks.harness import Compare, Variant
from benchmarks.prediction.pictures import NEEDS_PICTURES, PICTURES
from dgcn.model.checkpoint import DEFAULT_CHECKPOINT, load_model
from dgcn.model.export import export_onnx
from dgcn.predict.onnx_network import OnnxNetwork
from dgcn.predict.predictor import Predictor

SIZE = (385, 577)
DEFAULT = "folded, channels_last"

Network = Callable[[NDArray[np.uint8]], tuple[NDArray[Any], NDArray[Any]]]


def on_torch(module: Callable[..., Any], memory_format: torch.memory_format) -> Network:
    @torch.inference_mode()
    def run(canvases: NDArray[np.uint8]) -> tuple[NDArray[Any], NDArray[Any]]:
        images = torch.from_numpy(canvases).permute(0, 3, 1, 2).contiguous(memory_format=memory_format)
        pif, paf = module(images)[:2]
        return pif.float().numpy(), paf.float().numpy()

    return run


def networks(folder: Path, threads: int) -> dict[str, Network]:
    model, metadata = load_model(DEFAULT_CHECKPOINT)
    folded = model.fold().eval()
    channels_last = model.fold().eval().to(memory_format=torch.channels_last)
    path = folder / f"{threads}.onnx"
    export_onnx(path, model, metadata)

    def in_bfloat16(images: torch.Tensor) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return channels_last(images)

    return {
        "as trained, NCHW": on_torch(model.eval(), torch.contiguous_format),
        "folded, NCHW": on_torch(folded, torch.contiguous_format),
        DEFAULT: on_torch(channels_last, torch.channels_last),
        f"{DEFAULT}, torch.compile": on_torch(torch.compile(channels_last), torch.channels_last),
        f"{DEFAULT}, bfloat16": on_torch(in_bfloat16, torch.channels_last),
        "ONNX Runtime": OnnxNetwork(path, threads=threads),
    }


def count_differing(network: Network, predictor: Predictor, count: int) -> int:
    """Of so many pictures, in how many `network` finds other persons than `predictor`."""
    differing = 0
    for path in PICTURES[:count]:
        expected = predictor(path)
        (canvas,) = predictor._scale([path])
        pif, paf = network(canvas.pixels[None])
        persons = predictor.decoder(pif[0], paf[0], predictor.stride)
        found = canvas.preprocess.to_original(persons[:, :, 1:3])
        keypoints = np.array([pose.keypoints for pose in expected]).reshape(-1, *found.shape[1:])
        if len(found) != len(keypoints):
            differing += 1
            continue
        scores = predictor.decoder.person_scores(persons)
        order = np.argsort(-scores, kind="stable")
        differing += bool((np.abs(found[order] - keypoints) > 0.1).any())
    return differing


@NEEDS_PICTURES
@pytest.mark.parametrize("cores", ["two_cores", "one_core"])
def test_network(compare: Compare, smoke: bool, tmp_path: Path, request: pytest.FixtureRequest, cores: str) -> None:
    request.getfixturevalue(cores)
    threads = torch.get_num_threads()
    ways = networks(tmp_path, threads)
    canvases = np.random.default_rng(0).integers(0, 256, (1, *SIZE, 3), dtype=np.uint8)
    predictor = Predictor()
    differing = {name: count_differing(network, predictor, 1 if smoke else 30) for name, network in ways.items()}
    compare(
        "the network of the shipped model, a picture of 385 × 577 px",
        {name: Variant(lambda network=network: network(canvases)) for name, network in ways.items()},
        case=f"{threads} threads",
        direction="network",
        threads=threads,
        differing=differing,
        baselines=[DEFAULT],
        seconds=30.0,
    )
