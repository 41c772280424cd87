"""Compare the persons that `find_persons` finds with those that Python finds, in the picture that comes with dgcn.

    python compare.py build/find_persons model.onnx

The model is the shipped one, exported for squares.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import dgcn
from dgcn.predict.onnx_network import OnnxNetwork


def compare(picture: Path, tolerance: float) -> None:
    """Raise AssertionError unless both find the same keypoints, at most `tolerance` px apart."""
    output = subprocess.run([program, model, picture], check=True, capture_output=True, text=True).stdout
    persons = sorted(json.loads(output)["persons"], key=lambda person: -person["score"])
    poses = predictor(picture)
    assert len(persons) == len(poses) > 0, f"{picture}: C++ finds {len(persons)} persons, Python {len(poses)}"
    for person, pose in zip(persons, poses, strict=True):
        names = [name for name, score in zip(dgcn.COCO.keypoints, pose.scores, strict=True) if score > 0]
        assert sorted(person["keypoints"]) == sorted(names), f"C++ finds {sorted(person['keypoints'])}, Python {names}"
        found = np.array([person["keypoints"][name][:2] for name in names])
        apart = np.linalg.norm(found - pose.keypoints[pose.scores > 0], axis=1).max()
        print(f"{len(names)} keypoints, at most {apart:.4f} px apart; scores {person['score']:.4f}, {pose.score:.4f}")
        assert apart < tolerance


program, model = sys.argv[1:]
size = OnnxNetwork(model).size
assert size is not None, f"{model} must be of one size"
edge = size[0]
predictor = dgcn.Predictor(long_edge=edge)
whole = Path(dgcn.__file__).parent / "assets" / "astronaut.jpg"
with tempfile.TemporaryDirectory() as folder:
    part = Path(folder) / "part.png"
    Image.open(whole).crop((0, 0, edge, edge)).save(part)
    compare(part, tolerance=0.01)  # nothing is scaled
compare(whole, tolerance=2)  # OpenCV before version 5 interpolates at multiples of 1/32 px
