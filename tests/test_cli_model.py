"""`dgcn model`: its numbers are those of the network, and what cannot be is named."""

from __future__ import annotations

import json

import pytest
from cli_cases import run

from dgcn.model.checkpoint import DEFAULT_CHECKPOINT, load_model


def test_numbers_of_the_paper_s_network(tmp_path, capsys) -> None:
    path = tmp_path / "model.json"
    assert run("model", "--levels", "F8", "F16", "--size", 641, 481, "--json-output", path) == 0
    document = json.loads(path.read_text())
    layers = {layer["name"]: layer for layer in document["layers"]}
    assert document["parameters"] == sum(layer["parameters"] for layer in layers.values()) == 31_738_680
    f16, f8 = 41 * 31, 81 * 61  # cells
    assert layers["backbone.body.conv1"]["macs"] == 3 * 64 * 7 * 7 * 321 * 241
    assert layers["pif_stream.dgcms.8.kmap"]["macs"] == 256 * 17 * f8
    assert layers["paf_stream.dgcms.16.graph_conv"]["macs"] == 17 * 17 * f16
    non_local = 4 * 256 * 128 + 2 * 128 + 3 * 128  # θ, φ, g, out; w_θ and w_φ; the sums over sorted keys
    units = 2 * 128 * 257  # the weights w_θ and w_φ, read by a convolution of unit vectors
    assert layers["pif_stream.dgcms.16.non_local"]["macs"] == non_local * f16 + units
    assert layers["paf_head"]["output"] == [1, 19, 7, 81, 61]
    assert document["macs"] == sum(layer["macs"] for layer in layers.values())
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("31,738,680 parameters, 121.07 MiB of float32, ")
    assert last.endswith(" GMACs at 641 × 481 px")


def test_a_checkpoint(capsys) -> None:
    assert run("model", "--checkpoint", DEFAULT_CHECKPOINT, "--size", 33, 33) == 0
    model, _ = load_model(DEFAULT_CHECKPOINT)
    output = capsys.readouterr().out
    assert f"\n{sum(parameter.numel() for parameter in model.parameters()):,} parameters" in output
    assert "\nbackbone.fpn.smooth16 " in output  # of a module whose forward is not called
    assert "unused" not in output


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--checkpoint", "a.safetensors", "--gamma", 1], "--gamma must be given without --checkpoint"),
        (["--levels", "F8"], "levels must include 16"),
        (["--backbone", "resnet5"], "backbone must be"),
    ],
)
def test_mistakes(flags, message, capsys) -> None:
    assert run("model", *flags) == 2
    assert message in capsys.readouterr().err
