"""Find the people in a photograph; say what was found, how long it took, and where it is drawn.

examples:
  dgcn demo
  dgcn demo --source my.jpg --output somewhere

Without --source it takes the public-domain picture that ships with dgcn (astronaut.md beside it says where it is from).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .common import add_model_arguments, check_outputs, load_predictor, make_parser, write_overlay

PICTURE = Path(__file__).parent.parent / "assets" / "astronaut.jpg"


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser("demo", __doc__)
    parser.add_argument("--source", type=Path, default=PICTURE, metavar="PICTURE", help="your own photograph")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("demo"), metavar="DIR", help="folder of the results (default: demo)"
    )
    add_model_arguments(parser)
    args = parser.parse_args(argv)

    from ..data.coco_writer import CocoWriter
    from ..data.images import read_image

    overlay, json_path = (args.output / f"{args.source.stem}.dgcn{suffix}" for suffix in (".jpg", ".json"))
    check_outputs((overlay, json_path), (args.source, args.checkpoint))
    predictor = load_predictor(args)
    image = read_image(args.source, upright=True)
    predictor(image)  # the first pass also allocates and picks algorithms
    poses = predictor(image)

    writer = CocoWriter(json_path, predictor.skeleton, predictor.category)
    writer.add(args.source.name, image, poses)
    writer.finish()
    write_overlay(overlay, image, poses, predictor.skeleton)

    height, width = image.shape[:2]
    num_keypoints = predictor.skeleton.num_keypoints
    print(f"{args.source.name}, {width}×{height} px: {len(poses)} {'person' if len(poses) == 1 else 'people'} found")
    for number, pose in enumerate(poses, start=1):
        x, y, w, h = (round(value) for value in pose.box)
        found = int((pose.scores > 0).sum())
        print(f"  {number}. score {pose.score:.2f}, {found} of {num_keypoints} keypoints, {w}×{h} px at ({x}, {y})")
    print(f"network {poses.timings.network_ms:.1f} ms at {predictor.long_edge} px ({predictor.hardware})")
    print(f"decoder {poses.timings.decoder_ms:.1f} ms")
    print(f"overlay {overlay}\nJSON    {json_path}")
    return 0
