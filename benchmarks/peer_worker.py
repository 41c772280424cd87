"""A decoder or an encoder in an interpreter of its own, for peer.py. It answers each JSON line with a JSON line.

    python peer_worker.py dgcn-decoder [--force-complete]           with dgcn installed
    python peer_worker.py openpifpaf-decoder [--force-complete]     with openpifpaf 0.13.11 and torch 1.13.1 installed
    python peer_worker.py openpifpaf-encoder                        the same

    {"load": FILE}    reads the input, a .npz file      {"result": what a call returns, as a list}
    {"calls": N}      makes N calls                     {"seconds": of one call}
    {"stages": N}     makes N calls of dgcn's decoder   {stage: median seconds}

Seconds are processor time of the thread that works: other processes do not count. Of OpenPifPaf's decoder it is the C++
part alone, without the Python objects that are made of its result.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from functools import partial
from time import thread_time
from typing import Any

import numpy as np


class DgcnDecoder:
    """Input: pif, paf, stride, skeleton."""

    def __init__(self, force_complete: bool) -> None:
        from dgcn_ext.decoder import DecoderConfig, PifPafDecoder

        self.build = partial(PifPafDecoder, 17, config=DecoderConfig(force_complete=force_complete))

    def load(self, scene: dict[str, np.ndarray]) -> None:
        self.decoder = self.build(scene["skeleton"].tolist())
        self.fields = scene["pif"], scene["paf"], int(scene["stride"])

    def __call__(self) -> np.ndarray:
        return self.decoder(*self.fields)

    def stages(self, calls: int) -> dict[str, float]:
        times = [self.decoder.stage_times(*self.fields) for _ in range(calls)]
        return {stage: float(np.median([one[stage] for one in times])) for stage in times[0]}


class OpenPifPafDecoder:
    """Input: pif, paf, stride, skeleton."""

    def __init__(self, force_complete: bool) -> None:
        import openpifpaf
        import torch

        torch.set_num_threads(1)
        parser = argparse.ArgumentParser()
        openpifpaf.decoder.cli(parser)
        openpifpaf.decoder.configure(parser.parse_args(["--force-complete-pose"] if force_complete else []))

    def load(self, scene: dict[str, np.ndarray]) -> None:
        import openpifpaf
        import torch

        names = [str(k) for k in range(17)]
        limbs = [(i + 1, j + 1) for i, j in scene["skeleton"].tolist()]
        cif = openpifpaf.headmeta.Cif("cif", "benchmark", names, [0.1] * 17)
        caf = openpifpaf.headmeta.Caf("caf", "benchmark", names, [0.1] * 17, limbs)
        for index, head in enumerate((cif, caf)):
            head.base_stride, head.upsample_stride, head.head_index = 8, 1, index
        self.decoder = openpifpaf.decoder.CifCaf([cif], [caf]).cpp_decoder
        self.pif, self.paf = torch.from_numpy(scene["pif"]), torch.from_numpy(scene["paf"])
        self.stride = int(scene["stride"])

    def __call__(self) -> np.ndarray:
        persons, _ = self.decoder.call(self.pif, self.stride, self.paf, self.stride)
        return persons.numpy()


class OpenPifPafEncoder:
    """Input: keypoints [P, K, 3] and size [px], skeleton, sigmas, upright_pose."""

    def __init__(self, force_complete: bool) -> None:
        import torch

        torch.set_num_threads(1)

    def load(self, scene: dict[str, np.ndarray]) -> None:
        import openpifpaf
        import torch

        upright_pose, size = scene["upright_pose"], int(scene["size"])
        limbs = [(i + 1, j + 1) for i, j in scene["skeleton"].tolist()]
        common = {
            "keypoints": [str(k) for k in range(len(upright_pose))],
            "sigmas": scene["sigmas"].tolist(),
            "pose": np.column_stack([upright_pose, np.full(len(upright_pose), 2.0)]),
        }
        cif = openpifpaf.headmeta.Cif("cif", "persons", draw_skeleton=limbs, **common)
        caf = openpifpaf.headmeta.Caf("caf", "persons", skeleton=limbs, **common)
        for meta in (cif, caf):
            meta.base_stride, meta.upsample_stride = 16, 2  # fields of stride 8
        self.encoders = openpifpaf.encoder.Cif(cif), openpifpaf.encoder.Caf(caf)
        self.image, self.meta = torch.zeros(3, size, size), {"valid_area": np.array([0.0, 0.0, size, size])}
        self.keypoints, self.box = scene["keypoints"], np.array([0.0, 0.0, size, size])

    def __call__(self) -> np.ndarray:
        for encode in self.encoders:
            persons = [
                {"keypoints": np.array(joints, np.float32), "bbox": self.box, "iscrowd": False}
                for joints in self.keypoints
            ]
            encode(self.image, persons, self.meta)
        return np.empty(0)


WORKERS = {
    "dgcn-decoder": DgcnDecoder,
    "openpifpaf-decoder": OpenPifPafDecoder,
    "openpifpaf-encoder": OpenPifPafEncoder,
}


def main() -> None:
    worker: Any = WORKERS[sys.argv[1]]("--force-complete" in sys.argv)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a decoder may write to stdout
    for line in sys.stdin:
        question = json.loads(line)
        if "load" in question:  # makes a new decoder: what OpenPifPaf's returns depends on what it decoded before
            with np.load(question["load"]) as file:
                worker.load(dict(file))
            answer = {"result": worker().tolist()}
        elif "stages" in question:
            answer = worker.stages(question["stages"])
        else:
            start = thread_time()
            for _ in range(question["calls"]):
                worker()
            answer = {"seconds": (thread_time() - start) / question["calls"]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
