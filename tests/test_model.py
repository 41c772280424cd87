"""The network: parameter counts of Table 4, shapes, graphs, folding, configuration."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import ROOT

from dgcn.codec import Output
from dgcn.graph import coco_distances, hand_crafted_adjacency, soft_adjacency
from dgcn.model.config import ModelConfig
from dgcn.model.network import build_from_config, build_model
from dgcn.skeleton import COCO, Skeleton


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "backbone", "levels", "parameters", "table_4"),
    [
        ("ResNet-50, baseline", "resnet50", (), 25_294_760, "96"),
        ("one head (F16)", "resnet50", ("F16",), 26_697_072, "102"),
        ("two heads (F16, F8)", "resnet50", ("F16", "F8"), 31_738_680, "121"),
        ("three heads (F16, F8, F4)", "resnet50", ("F16", "F8", "F4"), 33_348_864, "127"),
        ("ResNet-101, baseline", "resnet101", (), 44_286_888, "169"),
        ("one head", "resnet101", ("F16",), 45_689_200, "174"),
        ("ResNet-152, baseline", "resnet152", (), 59_930_536, "229"),
        ("one head", "resnet152", ("F16",), 61_332_848, "234"),
        ("ResNeXt-50, baseline", "resnext50_32x4d", (), 24_766_632, ""),
        ("one head", "resnext50_32x4d", ("F16",), 26_168_944, ""),
        ("DenseNet-121, baseline", "densenet121", (), 5_161_192, ""),
        ("one head", "densenet121", ("F16",), 6_000_304, ""),
    ],
)
def test_parameters_are_consistent_with_table_4(name, backbone, levels, parameters, table_4):
    with torch.device("meta"):
        assert count(build_model(backbone, levels)) == parameters
    mebibytes = parameters * 4 / 2**20
    assert table_4 in (f"{mebibytes:.0f}", "")
    page = (ROOT / "docs" / "reproduction.md").read_text(encoding="utf-8")
    assert f"| {name} | {parameters:,} | {mebibytes:.1f} | {table_4} |".replace("|  |", "| |") in page


@pytest.mark.parametrize("levels", [(), ("F16",), ("F8", "F16"), ("F4", "F16"), ("F16", "F8", "F4")])
def test_output_shapes_at_sizes_of_16n_plus_1(levels):
    model = build_model("mobilenetv1_075", levels).eval()
    with torch.no_grad():
        output = model(torch.zeros(2, 3, 65, 97, dtype=torch.uint8))
    assert output.pif.shape == (2, 17, 5, 9, 13)
    assert output.paf.shape == (2, 19, 7, 9, 13)
    strides = sorted(int(level[1:]) for level in levels)
    assert [stride for stride, _ in output.node_logits] == 2 * strides
    for stride, logits in output.node_logits:
        assert logits.shape == (2, 17, 64 // stride + 1, 96 // stride + 1)


def test_every_parameter_gets_a_gradient():
    torch.manual_seed(0)
    model = build_model("mobilenetv1_075", ("F4", "F8", "F16")).train()
    output = model(torch.rand(2, 3, 65, 65) * 255)
    total = output.pif.square().sum() + output.paf.square().sum()
    total = total + sum(logits.square().sum() for _, logits in output.node_logits)
    total.backward()
    # BN's γ = 0 at the end of the non-local layer shields what lies before it in the first step.
    shielded = ("theta", "phi", "non_local.g.", "affinity", "non_local.out.0.")
    missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert [name for name in missing if not any(part in name for part in shielded)] == []


def test_confidences_start_at_the_prior_of_a_cell():
    """Of features of zeros the heads, and every DGCM, say what their biases say."""
    model = build_model("mobilenetv1_075", lift_channels=8)
    output = Output(model.pif_head(torch.zeros(1, 384, 3, 3)), model.paf_head(torch.zeros(1, 384, 3, 3)), [])
    for logits in (output.pif_confidence, output.paf_confidence, model.paf_stream.dgcms["16"].kmap.bias):
        assert torch.equal(logits, torch.full_like(logits, -4.6))
    assert output.pif_offset.abs().max() < 0.1


def test_graphs_reach_the_modules():
    soft = soft_adjacency(coco_distances(), 0.5)
    wanted = {
        "dynamic": soft,
        "soft": soft,
        "hand": hand_crafted_adjacency(COCO),
        "identity": torch.eye(17),
        "ones": torch.ones(17, 17),
    }
    for graph, adjacency in wanted.items():
        model = build_model("mobilenetv1_075", graph=graph)
        for stream in (model.pif_stream, model.paf_stream):
            torch.testing.assert_close(stream.dgcms["16"].graph_conv.adjacency, adjacency)
            assert stream.dgcms["16"].graph_conv.dynamic == (graph == "dynamic")


def test_only_a_dynamic_graph_in_training_is_random():
    torch.manual_seed(0)
    images = torch.rand(2, 3, 65, 65) * 255
    for graph, random in (("dynamic", True), ("soft", False)):
        model = build_model("mobilenetv1_075", graph=graph).train()
        for stream in (model.pif_stream, model.paf_stream):
            # W_d starts as a multiple of I, under which every draw gives the same S (an absent edge has logit 0).
            torch.nn.init.normal_(stream.dgcms["16"].graph_conv.edge_weight)
        outputs = []
        for _ in range(2):
            torch.manual_seed(len(outputs))
            outputs.append(model(images).pif)
        assert torch.equal(*outputs) != random
        torch.manual_seed(0)
        assert torch.equal(model(images).pif, outputs[0])


@pytest.mark.parametrize("levels", [(), ("F8", "F16")])
def test_fold_keeps_the_outputs_and_the_original(levels):
    torch.manual_seed(0)
    model = build_model("mobilenetv1_075", levels).train()
    images = torch.rand(4, 3, 65, 65) * 255
    model(images)
    model.eval()
    folded = model.fold()
    with torch.no_grad():
        wanted, got = model(images), folded(images)
    torch.testing.assert_close(got.pif, wanted.pif, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(got.paf, wanted.paf, atol=1e-3, rtol=1e-3)
    assert count(model) > count(folded)
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(parameter.requires_grad for parameter in folded.parameters())


def test_a_start_on_the_meta_device_restores_the_normalisation():
    with torch.device("meta"):
        model = build_model("mobilenetv1_075")
    model.to_empty(device="cpu")
    expected = build_model("mobilenetv1_075")
    model.load_state_dict(expected.state_dict())
    images = torch.rand(1, 3, 33, 33) * 255
    torch.testing.assert_close(model.eval()(images).pif, expected.eval()(images).pif)


def test_fused_and_plain_modules_share_a_state_dict_and_agree():
    torch.manual_seed(0)
    fused = build_model("mobilenetv1_075").train()
    plain = build_model("mobilenetv1_075", fused=False).train()
    plain.load_state_dict(fused.state_dict())
    images = torch.rand(2, 3, 65, 65) * 255
    torch.manual_seed(1)
    wanted = plain(images)
    torch.manual_seed(1)
    got = fused(images)
    torch.testing.assert_close(got.pif, wanted.pif, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(got.paf, wanted.paf, atol=1e-4, rtol=1e-4)


def test_configuration_survives_json():
    options = {"non_local": False, "propagation": "eq4"}
    config = ModelConfig(backbone="mobilenetv1_075", levels=(8, 16), graph="hand", gamma=1.5, **options)
    restored = ModelConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert restored == config
    model = build_from_config(restored)
    model.load_state_dict(build_model("mobilenetv1_075", ("F8", "F16"), "hand", **options).state_dict())


def test_the_first_row_of_table_1_is_a_convolution_alone():
    """GCN-A_I: Eq. 4 with A = I, in which Ã = I, so that K² parameters a module fewer are left."""
    torch.manual_seed(0)
    model = build_model("mobilenetv1_075", graph="identity", propagation="eq4").eval()
    assert count(build_model("mobilenetv1_075", graph="identity")) - count(model) == 2 * 17**2
    layer = model.pif_stream.dgcms["16"].graph_conv
    nodes = torch.randn(1, 17, 3, 3)
    torch.testing.assert_close(
        layer(nodes), torch.nn.functional.conv2d(nodes, layer.weight[:, :, None, None], layer.bias).relu()
    )


def test_a_skeleton_of_ones_own():
    toy = Skeleton(
        name="toy",
        keypoints=("head", "tail", "fin"),
        limbs=((0, 1), (1, 2)),
        sigmas=(0.1, 0.1, 0.1),
        flip=(0, 1, 2),
        upright_pose=torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0]]).numpy(),
    )
    with pytest.raises(ValueError, match=r"distances .* must be given for the skeleton 'toy'"):
        build_model("mobilenetv1_075", skeleton=toy)
    model = build_model("mobilenetv1_075", skeleton=toy, distances=1.0 - torch.eye(3).numpy()).eval()
    output = model(torch.zeros(1, 3, 33, 33))
    assert output.pif.shape == (1, 3, 5, 5, 5)
    assert output.paf.shape == (1, 2, 7, 5, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"graph": "random"}, "graph must be one of"),
        ({"levels": ("F32",)}, "levels must be distinct strides among 4, 8 and 16"),
        ({"levels": ("F8",)}, "levels must include 16"),
        ({"levels": ("F16", "F16")}, "levels must be distinct"),
        ({"levels": ("high",)}, "levels must be names among"),
        ({"levels": 16}, "levels must be names among 'F4', 'F8' and 'F16', got 16"),
        ({"semantics": "other"}, "semantics must be"),
        ({"pretrained": True}, "pretrained must be False"),
        ({"lift_channels": 0}, "lift_channels must be at least 2"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_model("mobilenetv1_075", **arguments)


def test_unknown_configuration_entries_are_refused():
    values = ModelConfig().to_dict() | {"colour": "red"}
    with pytest.raises(ValueError, match=r"unknown entries \['colour'\]"):
        ModelConfig.from_dict(values)


@pytest.mark.parametrize("shape", [(1, 3, 64, 65), (1, 3, 65, 1), (1, 1, 65, 65), (3, 65, 65)])
def test_images_of_the_wrong_shape_are_refused(shape):
    with pytest.raises(ValueError, match="images must be"):
        build_model("mobilenetv1_075")(torch.zeros(shape))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"gamma": float("nan")}, "gamma must be finite, got nan"),
        ({"gamma": -0.5}, r"gamma must be at least 0, got -0\.5"),
        ({"lift_channels": 1}, "lift_channels must be at least 2, got 1"),
        ({"lift_channels": 0, "non_local": False}, "lift_channels must be at least 1, got 0"),
        ({"non_local": "no"}, "non_local must be True or False, got 'no'"),
        ({"propagation": "eq4"}, "propagation must be 'eq8' with the graph 'dynamic', got 'eq4'"),
        ({"semantics": "soft"}, r"semantics must be one of \('literal', 'mask'\), got 'soft'"),
        ({"eval_graph": "mask"}, r"eval_graph must be one of \('ones', 'soft'\), got 'mask'"),
        ({"levels": [16]}, r"levels must be a tuple of strides, got \[16\]"),
        ({"skeleton": "coco"}, "skeleton must be a Skeleton, got 'coco'"),
    ],
)
def test_bad_configurations_are_named(values, message) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        ModelConfig(**values)
