"""What does it cost the shipped model that the colour profile of a picture is not applied?

    python -m benchmarks.experiments.colour_profiles              a minute; writes results/colour_profiles.json
    python -m benchmarks.experiments.colour_profiles --images 2   only so many pictures; writes nothing

The validation pictures are sRGB. They are converted to the numbers that a file in another colour space has for the same
colours, and the network sees those numbers as they are. AP is measured as `dgcn eval` does; `loss` is how much lower it
is than of the pictures in sRGB, with the 95 % interval over draws of the pictures.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import machine, report
from benchmarks.decoder.scenes import data_dir
from dgcn.data.images import read_record
from dgcn.data.reader import read_records
from dgcn.evaluation.bootstrap import percentiles
from dgcn.evaluation.oks import KeypointEvaluation
from dgcn.predict.predictor import Predictor
from dgcn.skeleton import COCO

Floats = NDArray[np.float64]

D65 = (0.3127, 0.3290)  # x, y of white in all three


def srgb_curve(light: Floats) -> Floats:
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def srgb_light(values: Floats) -> Floats:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def adobe_curve(light: Floats) -> Floats:
    return light ** (256 / 563)


@dataclass(frozen=True)
class ColourSpace:
    """x, y of pure red, green and blue, and the curve from light to numbers, both in [0, 1]."""

    primaries: tuple[tuple[float, float], ...]
    curve: Callable[[Floats], Floats]

    def to_xyz(self) -> Floats:
        """[3, 3]: light of red, green and blue to CIE XYZ, where white has Y = 1."""
        red_green_blue = np.array([(x, y, 1 - x - y) for x, y in self.primaries]).T
        white = np.array([D65[0], D65[1], 1 - sum(D65)]) / D65[1]
        return red_green_blue * np.linalg.solve(red_green_blue, white)


SRGB = ColourSpace(((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)), srgb_curve)
SPACES = {
    "sRGB": SRGB,
    "Display P3": ColourSpace(((0.68, 0.32), (0.265, 0.69), (0.15, 0.06)), srgb_curve),
    "Adobe RGB": ColourSpace(((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)), adobe_curve),
}


def convert(image: NDArray[np.uint8], space: ColourSpace) -> NDArray[np.uint8]:
    """The numbers that `space` has for the colours of an sRGB picture."""
    light = srgb_light(image / 255) @ (np.linalg.inv(space.to_xyz()) @ SRGB.to_xyz()).T
    return np.rint(255 * space.curve(np.clip(light, 0, 1))).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, help="only so many")
    num_images = parser.parse_args().images

    origin = machine.origin(["python", "-m", __spec__.name, *sys.argv[1:]])
    folder = data_dir() / "coco512"
    records = read_records(folder / "images/val", folder / "annotations/person_keypoints_val.json", COCO)[:num_images]
    predictor = Predictor()
    rows: list[dict[str, Any]] = []
    base: KeypointEvaluation | None = None
    for name, space in SPACES.items():
        images = (convert(read_record(record), space) for record in records)
        found = zip(records, predictor.batch(images, force_complete=True), strict=True)
        results = [pose.to_coco(record.image_id, record.category_id) for record, poses in found for pose in poses]
        evaluation = KeypointEvaluation(records, results)
        base = base or evaluation
        ap = evaluation.metrics()["AP"]
        row = {
            "profile": name,
            "AP": round(ap, 4),
            "loss": round(base.metrics()["AP"] - ap, 4),
            "loss_interval": [round(bound, 4) for bound in percentiles(base.resampled() - evaluation.resampled())],
        }
        print(row, flush=True)
        rows.append({"group": "colour profiles that are not applied", "claims": [], **row})
    if num_images is None:
        report.save(report.RESULTS / "colour_profiles.json", origin, images=len(records), benchmarks=rows)


if __name__ == "__main__":
    main()
