"""One decoder in an interpreter of its own, for bench_decoder.py: answers a JSON line with a JSON line.

    python benchmarks/decoder_worker.py dgcn [--force-complete]          with dgcn installed
    python benchmarks/decoder_worker.py openpifpaf [--force-complete]    with openpifpaf 0.13.11, torch 1.13.1 installed

Seconds are those of the one thread that decodes, on the CPU: what other processes do meanwhile does not count. Of
OpenPifPaf it is the C++ decoder alone, without the Python objects that are made of its result. Stages are dgcn's only.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from time import thread_time

import numpy as np

Decode = Callable[[np.ndarray, np.ndarray, int], np.ndarray]  # of dgcn a PifPafDecoder, which can do more
Build = Callable[[list[list[int]]], Decode]  # from a skeleton


def dgcn(force_complete: bool) -> Build:
    from dgcn_ext.decoder import DecoderConfig, PifPafDecoder

    return lambda skeleton: PifPafDecoder(17, skeleton, DecoderConfig(force_complete=force_complete))


def openpifpaf(force_complete: bool) -> Build:
    import openpifpaf
    import torch

    torch.set_num_threads(1)
    parser = argparse.ArgumentParser()
    openpifpaf.decoder.cli(parser)
    openpifpaf.decoder.configure(parser.parse_args(["--force-complete-pose"] if force_complete else []))
    names = [str(k) for k in range(17)]

    def build(skeleton: list[list[int]]) -> Decode:
        cif = openpifpaf.headmeta.Cif("cif", "benchmark", names, [0.1] * 17)
        caf = openpifpaf.headmeta.Caf("caf", "benchmark", names, [0.1] * 17, [(i + 1, j + 1) for i, j in skeleton])
        for index, head in enumerate((cif, caf)):
            head.base_stride, head.upsample_stride, head.head_index = 8, 1, index
        decoder = openpifpaf.decoder.CifCaf([cif], [caf]).cpp_decoder

        def decode(pif: np.ndarray, paf: np.ndarray, stride: int) -> np.ndarray:
            persons, _ = decoder.call(torch.from_numpy(pif), stride, torch.from_numpy(paf), stride)
            return persons.numpy()

        return decode

    return build


def main() -> None:
    build = {"dgcn": dgcn, "openpifpaf": openpifpaf}[sys.argv[1]]("--force-complete" in sys.argv)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a decoder may write to stdout
    for line in sys.stdin:
        question = json.loads(line)
        if "fields" in question:  # for a new decoder: what OpenPifPaf's finds depends on what it decoded before
            with np.load(question["fields"]) as scene:
                pif, paf, stride = scene["pif"], scene["paf"], int(scene["stride"])
                decode = build(scene["skeleton"].tolist())
            answer = {"persons": decode(pif, paf, stride).tolist()}
        elif "stages" in question:  # median seconds of so many calls
            times = [decode.stage_times(pif, paf, stride) for _ in range(question["stages"])]  # type: ignore[attr-defined]
            answer = {stage: float(np.median([one[stage] for one in times])) for stage in times[0]}
        else:
            start = thread_time()
            for _ in range(question["calls"]):
                decode(pif, paf, stride)
            answer = {"seconds": (thread_time() - start) / question["calls"]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
