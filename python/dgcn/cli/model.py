"""Print the layers of a network: output, parameters, and multiply-accumulates (MACs) at an input size.

examples:
  dgcn model                                      the network of the paper
  dgcn model --backbone resnet101 --levels F8 F16 --size 641 481
  dgcn model --checkpoint runs/a/best.safetensors --json-output model.json

The network is that of training, in which batch norms and graphs are layers of their own; `dgcn predict` folds them into
the convolutions. MACs are those of convolutions, graph convolutions and non-local layers, for one picture.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .common import check_outputs, input_size, make_parser
from .flags import add_flags, replace_given

if TYPE_CHECKING:
    from ..model.network import DGCN

MIB = 2**20


def main(argv: Sequence[str] | None = None) -> int:
    parser, flags = build_parser()
    args = parser.parse_args(argv)

    from dataclasses import asdict

    from ..files import write_json
    from ..model.summary import summarise

    check_outputs([args.json_output], [args.checkpoint])
    height, width = args.size
    layers = summarise(build(args, flags), height, width)
    parameters, macs = sum(layer.parameters for layer in layers), sum(layer.macs for layer in layers)
    rows = [("layer", "", "output", "parameters", "MMACs")]
    for layer in layers:
        output = "unused" if layer.output is None else " × ".join(map(str, layer.output[1:]))
        rows.append((layer.name, layer.kind, output, f"{layer.parameters:,}", f"{layer.macs / 1e6:,.1f}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, kind, *numbers in rows:
        aligned = (f"{number:>{wide}}" for number, wide in zip(numbers, widths[2:], strict=True))
        print(f"{name:<{widths[0]}}  {kind:<{widths[1]}}", *aligned, sep="  ")
    size = f"{height} × {width} px"
    print(f"{parameters:,} parameters, {parameters * 4 / MIB:.2f} MiB of float32, {macs / 1e9:.2f} GMACs at {size}")
    if args.json_output:
        document = {
            "size": [height, width],
            "parameters": parameters,
            "mebibytes": parameters * 4 / MIB,
            "macs": macs,
            "layers": [asdict(layer) for layer in layers],
        }
        write_json(args.json_output, document)
    return 0


def build_parser() -> tuple[argparse.ArgumentParser, list[str]]:
    """The parser, and the names of those of its arguments that describe a network."""
    from ..model.config import ModelConfig
    from .train import level

    parser = make_parser("model", __doc__)
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="model, a .safetensors file, without the flags")
    parser.add_argument(
        "--size",
        type=input_size,
        nargs=2,
        default=(641, 641),
        metavar=("H", "W"),
        help="of the input, 16n+1 pixels each (default: 641 641)",
    )
    parser.add_argument("--json-output", type=Path, metavar="FILE", help="also write everything as JSON")
    group = parser.add_argument_group("network, with COCO's keypoints")
    add_flags(group, ModelConfig, skip=("skeleton",), parse={"levels": level})
    return parser, [action.dest for action in group._group_actions]


def build(args: argparse.Namespace, flags: Sequence[str]) -> DGCN:
    """The network of the checkpoint or of the flags, on the meta device. Raises ValueError where both are given."""
    import torch

    from ..model.checkpoint import load_model
    from ..model.config import ModelConfig
    from ..model.network import build_from_config

    given = {name: value for name, value in vars(args).items() if name in flags}
    if args.checkpoint is not None:
        if given:
            raise ValueError(f"--{next(iter(given)).replace('_', '-')} must be given without --checkpoint")
        return load_model(args.checkpoint)[0]
    if "levels" in given:
        given["levels"] = tuple(given["levels"])
    config = replace_given(ModelConfig(), given)
    with torch.device("meta"):
        return build_from_config(config)
