"""MoveNet MultiPose and PoseNet on ONNX Runtime: from a picture to persons, as their packages for JavaScript do it.

$PEER_MODELS names the folder of their ONNX files, which convert_peers.py makes.
"""

import os
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from dgcn.data.transforms import resize_pad
from dgcn.records import Pose

FOLDER = Path(os.environ.get("PEER_MODELS", ""))
FILES = {name: FOLDER / f"{name}.onnx" for name in ("movenet-multipose", "posenet")}

Floats = NDArray[np.float32]
Point = tuple[float, float]  # row, column


def session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class MoveNet:
    """Its graph ends with the six persons that it is surest of. None of them is left out here."""

    def __init__(self, long_edge: int, threads: int) -> None:
        self.long_edge = long_edge
        self.session = session(FILES["movenet-multipose"], threads)

    def __call__(self, image: NDArray[np.uint8]) -> list[Pose]:
        scale = self.long_edge / max(image.shape[:2])
        height, width = (round(edge * scale) for edge in image.shape[:2])
        canvas = np.zeros((-(-height // 32) * 32, -(-width // 32) * 32, 3), np.int32)
        canvas[:height, :width] = cv2.resize(image, (width, height))
        (found,) = self.session.run(["output_0"], {"input": canvas[None]})
        keypoints = found[0, :, :51].reshape(-1, 17, 3)  # y, x, confidence; coordinates in sizes of the canvas
        xy = keypoints[:, :, 1::-1] * (np.array(canvas.shape[1::-1]) / scale)
        return [Pose(*person) for person in zip(xy, keypoints[:, :, 2], found[0, :, 55].tolist(), strict=True)]


class PoseNet:
    """MobileNetV1-0.75 at stride 16, decoded as its paper (PersonLab, Papandreou et al. 2018) and tfjs-models do."""

    STRIDE = 16
    HEADS = tuple(
        f"MobilenetV1/{head}_2/BiasAdd:0" for head in ("heatmap", "offset", "displacement_fwd", "displacement_bwd")
    )

    def __init__(self, long_edge: int, threads: int) -> None:
        self.long_edge = long_edge
        self.session = session(FILES["posenet"], threads)

    def __call__(self, image: NDArray[np.uint8]) -> list[Pose]:
        canvas, preprocess = resize_pad(image, self.long_edge)
        outputs = self.session.run(self.HEADS, {"image:0": canvas[None] / np.float32(127.5) - 1})
        logits, *vectors = (output[0] for output in outputs)
        # y and x apart: [h, w, 2, joints or limbs].
        offsets, forward, backward = (each.reshape(*each.shape[:2], 2, -1) for each in vectors)
        persons = Decoding(1 / (1 + np.exp(-logits)), offsets, forward, backward).persons()
        return [Pose(preprocess.to_original(yx[:, ::-1]), scores, score) for yx, scores, score in persons]


class Decoding:
    """Persons grow from the peaks of the heat maps along a tree of limbs, the strongest peak first.

    Args:
        heat: [h, w, 17].
        offsets: [h, w, 2, 17] px, from a cell to the joint near it.
        forward, backward: [h, w, 2, 16] px, along each limb from parent to child, and from child to parent.
    """

    THRESHOLD = 0.5  # of a peak
    RADIUS = 20.0  # px: a joint as near as this to the same joint of an earlier person is that person's
    LIMBS = (
        *((0, 1), (1, 3), (0, 2), (2, 4), (0, 5), (5, 7), (7, 9), (5, 11)),
        *((11, 13), (13, 15), (0, 6), (6, 8), (8, 10), (6, 12), (12, 14), (14, 16)),
    )  # parent, child

    def __init__(self, heat: Floats, offsets: Floats, forward: Floats, backward: Floats) -> None:
        self.heat, self.offsets = heat, offsets
        self.walk = [(child, parent, backward[..., limb]) for limb, (parent, child) in enumerate(self.LIMBS)][::-1]
        self.walk += [(parent, child, forward[..., limb]) for limb, (parent, child) in enumerate(self.LIMBS)]

    def persons(self) -> list[tuple[Floats, Floats, float]]:
        """Of each person the joints [17, 2] (y, x px), their confidences [17], and the person's."""
        peaks = (self.heat >= self.THRESHOLD) & (self.heat == cv2.dilate(self.heat, np.ones((3, 3), np.uint8)))
        rows, columns, joints = np.nonzero(peaks)
        persons: list[tuple[Floats, Floats, float]] = []
        for peak in np.argsort(-self.heat[peaks], kind="stable"):
            row, column, joint = int(rows[peak]), int(columns[peak]), int(joints[peak])
            root = self.place(row, column, joint)
            if any(np.hypot(*(points[joint] - root)) <= self.RADIUS for points, _, _ in persons):
                continue
            grown = {joint: (root, float(self.heat[row, column, joint]))}
            for source, target, displacements in self.walk:
                if source in grown and target not in grown:
                    grown[target] = self.follow(grown[source][0], displacements, target)
            points = np.array([grown[joint][0] for joint in range(17)], np.float32)
            scores = np.array([grown[joint][1] for joint in range(17)], np.float32)
            is_new = np.ones(17, bool)
            for others, _, _ in persons:
                is_new &= np.linalg.norm(points - others, axis=1) > self.RADIUS
            persons.append((points, scores, float(scores[is_new].sum() / 17)))
        return persons

    def follow(self, start: Point, displacements: Floats, joint: int) -> tuple[Point, float]:
        """Where a limb that begins at `start` puts `joint`, moved twice to where the cell there says, and its score."""
        cell = self.cell(*start)
        dy, dx = displacements[cell].tolist()
        point = start[0] + dy, start[1] + dx
        for _ in range(2):
            point = self.place(*self.cell(*point), joint)
        return point, float(self.heat[(*self.cell(*point), joint)])

    def cell(self, y: float, x: float) -> tuple[int, int]:
        height, width = self.heat.shape[:2]
        row, column = round(y / PoseNet.STRIDE), round(x / PoseNet.STRIDE)
        return min(max(row, 0), height - 1), min(max(column, 0), width - 1)

    def place(self, row: int, column: int, joint: int) -> Point:
        dy, dx = self.offsets[row, column, :, joint].tolist()
        return PoseNet.STRIDE * row + dy, PoseNet.STRIDE * column + dx
