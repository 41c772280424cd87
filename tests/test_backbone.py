"""Backbones: shapes, strides, and the start from weights whose batch norms are folded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import conv2d, pad, relu6
from torch.nn.utils import prune

from dgcn.cli.demo import PICTURE
from dgcn.data.images import read_image
from dgcn.data.transforms import resize_pad
from dgcn.model.backbones import build_backbone
from dgcn.model.backbones.base import read_trunk
from dgcn.model.backbones.mobilenet import MobileNetV1
from dgcn.model.backbones.movenet import MoveNet, SamePadConv
from dgcn.model.config import MOBILENET, MOVENET
from dgcn.model.network import build_model
from dgcn.skeleton import COCO


def random_trunk(path: Path) -> Path:
    """A folded trunk with random weights of a sensible size."""
    rng = np.random.default_rng(0)
    model, arrays = MobileNetV1(), {}
    convs = [("stem", model.stem)]
    for number, block in enumerate(model.blocks, start=1):
        convs += [(f"blocks.{number}.dw", block.dw), (f"blocks.{number}.pw", block.pw)]
    for name, conv in convs:
        shape = tuple(conv.weight.shape)
        arrays[f"{name}.weight"] = rng.normal(0, 1.5 / np.prod(shape[1:]) ** 0.5, shape).astype(np.float32)
        arrays[f"{name}.bias"] = rng.normal(0, 0.2, shape[0]).astype(np.float32)
    np.savez(path, **arrays)
    return path


def folded_forward(path: Path, x: torch.Tensor) -> dict[int, torch.Tensor]:
    """The folded network, written out from the file's description."""
    arrays = {name: torch.from_numpy(value) for name, value in np.load(path).items()}
    x = relu6(conv2d(x, arrays["stem.weight"], arrays["stem.bias"], stride=2, padding=1))
    features = {}
    for number, stride in enumerate((1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 1, 1), start=1):
        dw, pw = f"blocks.{number}.dw", f"blocks.{number}.pw"
        groups = x.shape[1]
        x = relu6(conv2d(x, arrays[f"{dw}.weight"], arrays[f"{dw}.bias"], stride=stride, padding=1, groups=groups))
        x = relu6(conv2d(x, arrays[f"{pw}.weight"], arrays[f"{pw}.bias"]))
        if number in (3, 5, 13):
            features[{3: 4, 5: 8, 13: 16}[number]] = x
    return features


def test_mobilenet_starts_as_the_folded_trunk_in_both_modes(tmp_path):
    path = random_trunk(tmp_path / "trunk.npz")
    x = torch.rand(4, 3, 65, 97) * 2 - 1
    model = MobileNetV1()
    model.load_trunk(path, x)
    wanted = folded_forward(path, x)
    for features in (model.eval()(x), model.train()(x)):
        assert features.keys() == wanted.keys()
        for stride in wanted:
            torch.testing.assert_close(features[stride], wanted[stride], atol=2e-3, rtol=1e-3)


def test_mobilenet_folds_to_the_same_output():
    torch.manual_seed(0)
    model = MobileNetV1()
    model.train()(torch.rand(4, 3, 65, 65))  # statistics unlike the initial ones
    prune.l1_unstructured(model.blocks[3].pw, "weight", 0.5)
    model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    x = torch.rand(1, 3, 49, 65)
    wanted = model.eval()(x)
    model.fold()
    assert not any("BatchNorm" in type(module).__name__ for module in model.modules())
    for stride, features in model(x).items():
        torch.testing.assert_close(features, wanted[stride], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("change", ["missing", "shape"])
def test_a_trunk_that_does_not_fit_is_named(tmp_path, change):
    arrays = dict(np.load(random_trunk(tmp_path / "trunk.npz")))
    if change == "missing":
        del arrays["blocks.7.pw.bias"]
    else:
        arrays["blocks.7.pw.bias"] = arrays["blocks.7.pw.bias"][:-1]
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=r"blocks\.7\.pw\.bias must have the shape \(384,\)"):
        MobileNetV1().load_trunk(tmp_path / "bad.npz", torch.zeros(1, 3, 33, 33))


@pytest.mark.parametrize("name", [MOBILENET, MOVENET, "resnet18", "densenet121", "convnext_atto"])
def test_maps_have_the_strides_they_claim(name):
    backbone = build_backbone(name).eval()
    with torch.no_grad():
        features = backbone(torch.zeros(1, 3, 65, 97))
    assert features.keys() == backbone.channels.keys()
    assert 16 in features
    for stride, values in features.items():
        assert values.shape == (1, backbone.channels[stride], -(-65 // stride), -(-97 // stride))


def test_movenet_pads_as_tensorflow_does():
    """Even sizes as in training, at the right and at the bottom; the cells of an odd size see the same pixels."""
    conv = SamePadConv(3, 4)
    image = torch.randn(1, 3, 32, 32)
    cells = conv(image)
    torch.testing.assert_close(cells, conv2d(pad(image, (0, 1, 0, 1)), conv.weight, conv.bias, stride=2))
    odd = conv(image[..., :31, :31])
    assert odd.shape[-2:] == (16, 16)
    torch.testing.assert_close(odd[..., :15, :15], cells[..., :15, :15])


def test_movenet_starts_from_a_trunk(tmp_path):
    """The maps are those of the file's layers, with mean 0 and variance 1 over the images of the start."""
    trained = MoveNet((4, 8, 16))
    arrays = {name: value.numpy() for name, value in trained.state_dict().items() if not name.startswith("norms.")}
    np.savez(tmp_path / "trunk.npz", **arrays, **{"heads.center.bias": np.zeros(1)})
    x = torch.rand(2, 3, 97, 65) * 2 - 1
    model = MoveNet((4, 8, 16))
    model.load_trunk(tmp_path / "trunk.npz", x)
    with torch.no_grad():
        maps, joined = model.eval()(x), trained.join(x)
    for stride, values in maps.items():
        mean, variance = joined[stride].mean((0, 2, 3), keepdim=True), joined[stride].var((0, 2, 3), keepdim=True)
        torch.testing.assert_close(values, (joined[stride] - mean) / (variance + 1e-5).sqrt(), atol=1e-4, rtol=1e-4)
    del arrays["fpn.smooth8.pw.bias"]
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=r"bad\.npz: fpn\.smooth8\.pw\.bias must have the shape \(24,\), got nothing"):
        model.load_trunk(tmp_path / "bad.npz", x)


def test_movenet_sees_joints(data_dir):
    """The trunk is read as it was trained: its own head's heat maps are highest on the astronaut's eyes and ears."""
    path = data_dir / "weights" / "movenet_multipose_lightning.npz"
    canvas, preprocess = resize_pad(read_image(PICTURE, upright=True), 321)
    x = (torch.from_numpy(canvas).permute(2, 0, 1)[None] - 127.5) / 127.5
    model, head = MoveNet((4,)), read_trunk(path)
    model.load_trunk(path, x)
    weights = {name: head[f"heads.kpt_heatmap.{name}"] for name in ("dw.weight", "pw.weight", "pw.bias", "out.weight")}
    with torch.no_grad():
        finest = model.join(x)[4][:, :24]
        hidden = conv2d(conv2d(finest, weights["dw.weight"], padding=1, groups=24), weights["pw.weight"])
        heat = conv2d((hidden + weights["pw.bias"][:, None, None]).relu(), weights["out.weight"])[0]
    joints = {"left_eye": (243, 101), "right_eye": (199, 97), "left_ear": (268, 114), "right_ear": (173, 109)}
    for name, expected in joints.items():
        row, column = divmod(int(heat[COCO.keypoints.index(name)].argmax()), heat.shape[2])
        assert np.abs(preprocess.to_original(np.array([4 * column, 4 * row])) - expected).max() < 8


def test_resnet_has_lost_its_max_pool():
    backbone = build_backbone("resnet50")
    assert backbone.channels == {4: 512, 8: 1024, 16: 2048}
    assert not any(isinstance(module, torch.nn.MaxPool2d) for module in backbone.modules())


def test_every_cell_sees_the_pixel_it_is_centred_on():
    """Symmetric padding: the gradient of cell (i, j) at stride 16 is centred on pixel (16 i, 16 j)."""
    backbone = MobileNetV1().eval().double()
    x = torch.randn(1, 3, 257, 257, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(backbone(x)[16][0, :, 8, 8].sum(), x)
    rows = gradient.abs().sum(dim=(0, 1, 3)).nonzero().flatten()
    assert (rows.min() + rows.max()) / 2 == 128


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet5000", "'movenet_multipose' or the name of a timm model, got 'resnet5000'"),
        ("vit_tiny_patch16_224", "stride|any size"),
        ("swin_tiny_patch4_window7_224", "any size"),
    ],
)
def test_unusable_backbones_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        build_backbone(name)


@pytest.mark.parametrize(
    ("name", "levels"),
    [
        ("densenet121", ("F16",)),
        ("mobilenetv3_small_100", ()),
        ("movenet_multipose", ("F16",)),
        ("resnet18", ("F4", "F16")),
    ],
)
def test_every_parameter_gets_a_gradient(name, levels) -> None:
    """Of a stage that nothing reads there would be none, and training on several GPUs would fail."""
    model = build_model(name, levels, lift_channels=8).train()
    output = model(255 * torch.rand(2, 3, 65, 65))
    (output.pif.sum() + output.paf.sum() + sum(logits.sum() for _, logits in output.node_logits)).backward()
    assert [parameter for parameter, value in model.named_parameters() if value.grad is None] == []


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_network_can_be_built_where_no_gradients_are_taken(mode) -> None:
    expected = build_model("densenet121", ()).state_dict().keys()
    with mode():
        model = build_model("densenet121", ())
        assert model.state_dict().keys() == expected
        assert model.eval()(torch.zeros(1, 3, 65, 65)).pif.shape[-1] == 9
