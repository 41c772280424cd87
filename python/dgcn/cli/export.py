"""Write a model as a file for other runtimes: ONNX, or a program of torch.export.

examples:
  dgcn export -o model.onnx                                    the model that ships with dgcn, for squares of 577 px
  dgcn export -o model.onnx --dynamic --check photos           for pictures of any size, and compared on those
  dgcn export --checkpoint runs/a/best.safetensors --format torch -o model.pt2 --size 385 513

Input `images`: uint8 [B, 3, H, W] RGB, not normalised. Outputs: `pif` and `paf`, the fields that dgcn's decoder takes,
also the one in C++. Sizes are 16n+1 pixels. Unless --dynamic is given, the file takes one picture of one size.
Keypoints, limbs, stride, long edge and the constants of the decoder are in the file, as JSON.

--check runs the model and the file on the pictures of a folder. The exit status is 1 if the persons differ, or if a
picture cannot be read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .common import (
    add_checkpoint_argument,
    allow_large_pictures,
    check_outputs,
    describe,
    input_size,
    make_parser,
    warn,
)
from .sources import Source, list_sources

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from ..model.network import DGCN
    from ..predict.predictor import Predictor

    Fields = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # canvases [B, H, W, 3] to the decoder's fields

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
TOLERANCE = 0.1  # largest distance of a keypoint of the file from the model's, in px of the network's input


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser("export", __doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="ends in .onnx or .pt2")
    parser.add_argument("--format", choices=SUFFIXES, default="onnx", help="of the file (default: onnx)")
    add_checkpoint_argument(parser)
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument(
        "--size",
        type=input_size,
        nargs=2,
        metavar=("H", "W"),
        help="of the one picture that the file takes (default: a square of the checkpoint's long edge)",
    )
    sizes.add_argument("--dynamic", action="store_true", help="the file takes any number of pictures of any one size")
    parser.add_argument("--opset", type=int, metavar="N", help="version of ONNX's operators (default: 18, the lowest)")
    parser.add_argument("--check", type=Path, metavar="DIR", help="pictures on which to compare file and model")
    args = parser.parse_args(argv)

    if args.output.suffix != SUFFIXES[args.format]:
        raise ValueError(f"--output must end in {SUFFIXES[args.format]} with --format {args.format}, got {args.output}")
    if args.checkpoint is not None and args.checkpoint.suffix != ".safetensors":
        raise ValueError(f"--checkpoint must be a .safetensors file, got {args.checkpoint}")
    if args.opset is not None and args.format != "onnx":
        raise ValueError(f"--opset must be given with --format onnx, got --format {args.format}")
    check_outputs([args.output], [args.checkpoint])
    pictures = list_sources([str(args.check)], warn=partial(warn, "export")) if args.check else []

    from ..model.checkpoint import DEFAULT_CHECKPOINT, load_model
    from ..model.export import DEFAULT_OPSET, export_onnx, export_torch
    from ..predict.predictor import Predictor
    from ..predict.torch_network import TorchNetwork

    checkpoint = args.checkpoint or DEFAULT_CHECKPOINT
    model, metadata = load_model(checkpoint)
    predictor = Predictor(TorchNetwork(model, "cpu", metadata=metadata, path=checkpoint))
    size = None if args.dynamic else tuple(args.size or (predictor.long_edge, predictor.long_edge))
    if args.format == "onnx":
        opset = DEFAULT_OPSET if args.opset is None else args.opset
        export_onnx(args.output, model, metadata, size, opset=opset)
    else:
        export_torch(args.output, model, metadata, size)
    takes = "pictures of any one size" if size is None else f"a picture of {size[0]} × {size[1]} px"
    print(f"{args.output}: takes {takes}")
    return compare(pictures, predictor, model, args.output, size) if pictures else 0


def compare(
    pictures: Sequence[Source], predictor: Predictor, model: DGCN, path: Path, size: tuple[int, int] | None
) -> int:
    """Print how the persons that `model` finds differ from those of the file at `path`; returns the exit status.

    Both get the same canvases: those of `predictor` where `size` is None, else of that size."""
    from ..data.transforms import fit_pad, resize_pad
    from ..model.fields import FieldsModel
    from ..progress import Progress

    networks = on_numpy(FieldsModel(model.fold()).eval()), load(path)
    allow_large_pictures()
    largest, num_persons, num_read, differing = 0.0, 0, 0, []
    with Progress("check", len(pictures), unit="image") as progress:
        for picture in pictures:
            try:
                image = picture.read()
            except (OSError, ValueError) as error:
                warn("export", describe(error))
                continue
            canvas, _ = resize_pad(image, predictor.long_edge) if size is None else fit_pad(image, *size)
            fields = [network(canvas[None]) for network in networks]
            expected, found = (predictor.decoder(pif[0], paf[0], model.stride) for pif, paf in fields)
            apart = distance(expected, found)
            if apart > TOLERANCE:
                differing.append(f"{picture.path}: {len(expected)} persons with the model, {len(found)} with the file")
            largest, num_persons, num_read = max(largest, apart), num_persons + len(expected), num_read + 1
            progress.step()
    print(f"{num_persons} persons in {num_read} pictures, their keypoints at most {largest:.4f} px apart")
    for line in differing:
        print(line)
    return 1 if differing or num_read < len(pictures) else 0


def load(path: Path) -> Fields:
    """The network in a file that this command wrote."""
    if path.suffix == SUFFIXES["onnx"]:
        from ..predict.onnx_network import OnnxNetwork

        return OnnxNetwork(path)
    import torch

    return on_numpy(torch.export.load(path).module())


def on_numpy(module: nn.Module) -> Fields:
    """`module` as a function of canvases."""
    import torch

    @torch.inference_mode()
    def run(canvases: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pif, paf = module(torch.from_numpy(canvases).permute(0, 3, 1, 2))
        return pif.numpy(), paf.numpy()

    return run


def distance(persons: np.ndarray, others: np.ndarray) -> float:
    """How far apart the keypoints of the same persons are at most, in px; infinity if they are not the same.

    Args:
        persons: [P, K, 4] (confidence, x px, y px, scale px), as the decoder returns them.
        others: the same, in any order.
    """
    import numpy as np

    if len(persons) != len(others):
        return math.inf
    if len(persons) == 0:
        return 0.0
    is_found, others_found = persons[:, None, :, 0] > 0, others[None, :, :, 0] > 0  # [P, 1, K], [1, P, K]
    apart = np.linalg.norm(persons[:, None, :, 1:3] - others[None, :, :, 1:3], axis=-1).max(axis=-1)
    apart[(is_found != others_found).any(axis=-1)] = math.inf
    if len(set(apart.argmin(axis=1).tolist())) < len(persons):  # two have the same nearest one
        return math.inf
    return float(apart.min(axis=1).max())
