"""OpenPifPaf's encoders, waiting to be timed: bench_encoder.py starts this with a Python that has openpifpaf installed.

    python benchmarks/openpifpaf_encoder.py < SCENE       (Python 3.10; `pip install openpifpaf==0.13.11`)

The first line of standard input is a JSON object: skeleton, sigmas, upright_pose, keypoints [P, K, 3], size px. Every
further line is a number, has the persons encoded so often, and is answered by the seconds that once took on the CPU.
"""

import json
import sys
from time import thread_time

import numpy as np
import openpifpaf
import torch


def main() -> None:
    torch.set_num_threads(1)
    scene = json.loads(sys.stdin.readline())
    size = scene["size"]
    upright_pose = np.array(scene["upright_pose"])
    common = {
        "keypoints": [str(k) for k in range(len(upright_pose))],
        "sigmas": scene["sigmas"],
        "pose": np.column_stack([upright_pose, np.full(len(upright_pose), 2.0)]),
        "draw_skeleton": [(i + 1, j + 1) for i, j in scene["skeleton"]],
    }
    cif = openpifpaf.headmeta.Cif("cif", "persons", **common)
    caf = openpifpaf.headmeta.Caf("caf", "persons", skeleton=common.pop("draw_skeleton"), **common)
    for meta in (cif, caf):
        meta.base_stride, meta.upsample_stride = 16, 2  # fields of stride 8
    encoders = openpifpaf.encoder.Cif(cif), openpifpaf.encoder.Caf(caf)
    image, meta = torch.zeros(3, size, size), {"valid_area": np.array([0.0, 0.0, size, size])}
    box = np.array([0.0, 0.0, size, size])
    for line in sys.stdin:
        start = thread_time()
        for _ in range(int(line)):
            for encode in encoders:
                persons = [
                    {"keypoints": np.array(joints, np.float32), "bbox": box, "iscrowd": False}
                    for joints in scene["keypoints"]
                ]
                encode(image, persons, meta)
        print((thread_time() - start) / int(line), flush=True)


if __name__ == "__main__":
    main()
