"""Persons to encode: COCO's 17 keypoints and 19 limbs, in a picture of 641 × 641 px."""

import numpy as np

from dgcn.skeleton import COCO
from dgcn_ext.encoder import PifPafEncoder, Targets

SIZE, STRIDE = 641, 8  # px
ENCODER = PifPafEncoder(COCO.num_keypoints, COCO.limbs, COCO.sigmas, COCO.upright_pose)


def scene(num_persons: int, seed: int = 0) -> np.ndarray:
    """Keypoints [P, 17, 3], all visible, of persons of 80 to 400 px, most of whom are inside the picture."""
    rng = np.random.default_rng(seed)
    heights = rng.uniform(80, 400, (num_persons, 1, 1))
    xy = COCO.upright_pose * heights / 175 + rng.uniform(20, 600, (num_persons, 1, 2))
    return np.concatenate([xy, np.full((num_persons, 17, 1), 2)], axis=-1)


def pictures(count: int, num_persons: int) -> list[tuple[np.ndarray, tuple[()]]]:
    """A batch as PifPafEncoder.batch takes it: keypoints and no boxes of crowds."""
    return [(scene(num_persons, seed), ()) for seed in range(count)]


def arrays(targets: Targets) -> list[np.ndarray]:
    """The arrays of the fields, without the node confidences."""
    return [array for name, array in vars(targets).items() if name != "node_confidence"]
