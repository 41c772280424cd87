"""`dgcn export`: the file finds what the model finds, in ONNX Runtime and as a program, and describes itself."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_cases import run
from conftest import ROOT
from PIL import Image
from torch import nn

import dgcn
from dgcn.cli.export import distance
from dgcn.data.images import read_image
from dgcn.data.transforms import fit_pad
from dgcn.model import checkpoint as checkpoint_module
from dgcn.model.checkpoint import DEFAULT_CHECKPOINT, load_model, save_model
from dgcn.model.fields import FieldsModel
from dgcn.model.network import DGCN, build_model
from dgcn_ext.decoder import DecoderConfig, PifPafDecoder

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

from dgcn.predict.onnx_network import OnnxNetwork  # noqa: E402

ASTRONAUT = Path(dgcn.__file__).parent / "assets" / "astronaut.jpg"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    picture = Image.open(ASTRONAUT)
    picture.save(folder / "square.png")
    picture.crop((40, 0, 340, 512)).save(folder / "upright.png")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A pyramid of two levels whose non-local layers are not the identity, on a backbone that rounds sizes."""
    torch.manual_seed(0)
    model = build_model("mobilenetv3_small_050", ("F8", "F16"), lift_channels=8)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    path = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
    save_model(path, model, {"long_edge": 97, "decoder": {"refine_rounds": 1}, "note": "Zürich"})
    return path


@pytest.fixture(scope="module")
def shipped(tmp_path_factory, pictures) -> Path:
    """The shipped model for pictures of one size, which are none of the test's."""
    path = tmp_path_factory.mktemp("export") / "shipped.onnx"
    assert run("export", "-o", path, "--size", 385, 321, "--check", pictures) == 0
    return path


def test_shipped_model(shipped, pictures, tmp_path, capsys) -> None:
    """Both files find the same persons, here and, by the check, in the fixture."""
    assert run("export", "-o", tmp_path / "model.onnx", "--dynamic", "--check", pictures) == 0
    assert "2 persons in 2 pictures, their keypoints at most 0.0" in capsys.readouterr().out
    assert OnnxNetwork(shipped).size == (385, 321)
    assert OnnxNetwork(tmp_path / "model.onnx").size is None


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_pictures_of_any_size(checkpoint, tmp_path, suffix) -> None:
    path = tmp_path / f"model{suffix}"
    file_format = {".onnx": "onnx", ".pt2": "torch"}[suffix]
    assert run("export", "--checkpoint", checkpoint, "-o", path, "--format", file_format, "--dynamic") == 0
    network = OnnxNetwork(path) if suffix == ".onnx" else run_program(path)
    model = FieldsModel(load_model(checkpoint)[0].fold())
    for shape in ((1, 17, 17, 3), (3, 33, 97, 3), (1, 577, 49, 3)):
        canvases = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        pif, paf = (torch.from_numpy(fields) for fields in network(canvases.numpy()))
        expected_pif, expected_paf = model(canvases.permute(0, 3, 1, 2))
        torch.testing.assert_close(pif, expected_pif, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(paf[:, :, :6], expected_paf[:, :, :6], rtol=1e-4, atol=1e-4)
        # An end half way between two cells may take the scale of either.
        assert torch.isclose(paf[:, :, 6:], expected_paf[:, :, 6:], rtol=1e-4, atol=1e-4).float().mean() > 0.99


def run_program(path: Path):
    program = torch.export.load(path).module()
    return lambda canvases: [fields.numpy() for fields in program(torch.from_numpy(canvases).permute(0, 3, 1, 2))]


def test_the_file_describes_itself(checkpoint, tmp_path, monkeypatch) -> None:
    """And tells nothing of the machine that wrote it. The command loads the checkpoint once."""
    path = tmp_path / "model.onnx"
    read, loaded = checkpoint_module._read_safetensors, []
    monkeypatch.setattr(checkpoint_module, "_read_safetensors", lambda path: loaded.append(path) or read(path))
    assert run("export", "--checkpoint", checkpoint, "-o", path, "--opset", 20) == 0
    assert loaded == [checkpoint]
    model, metadata = load_model(checkpoint)
    network = OnnxNetwork(path, threads=1)
    assert (network.skeleton, network.stride, network.metadata) == (model.config.skeleton, DGCN.stride, metadata)
    assert network.size == (97, 97)
    assert [(opset.domain, opset.version) for opset in onnx.load(path).opset_import] == [("", 20)]
    assert str(ROOT).encode() not in path.read_bytes()
    pif, _ = network(np.stack([np.full((97, 97, 3), tone, np.uint8) for tone in (0, 255)]))  # one at a time
    assert len(pif) == 2
    assert not np.array_equal(*pif)
    with pytest.raises(ValueError, match=r"must have the \(97, 97\) pixels of the exported model, got \(97, 81\)"):
        network(np.zeros((1, 97, 81, 3), np.uint8))


def test_a_picture_that_cannot_be_read_is_left_out_of_the_check(checkpoint, tmp_path, capsys) -> None:
    Image.open(ASTRONAUT).save(tmp_path / "a.png")
    (tmp_path / "b.png").touch()
    assert run("export", "--checkpoint", checkpoint, "-o", tmp_path / "model.onnx", "--check", tmp_path) == 1
    output = capsys.readouterr()
    assert "b.png is empty" in output.err
    assert "persons in 1 pictures, their keypoints at most" in output.out


def test_without_torch(shipped, tmp_path) -> None:
    canvas, _ = fit_pad(read_image(ASTRONAUT), 385, 321)
    np.save(tmp_path / "canvas.npy", canvas)
    script = """
import sys
sys.modules["torch"] = None
import numpy as np
from dgcn.predict.onnx_network import OnnxNetwork
from dgcn_ext.decoder import DecoderConfig, PifPafDecoder

model, folder = sys.argv[1:]
network = OnnxNetwork(model)
decoder = PifPafDecoder(17, network.skeleton.limbs, DecoderConfig(**network.metadata["decoder"]))
pif, paf = network(np.load(f"{folder}/canvas.npy")[None])
np.save(f"{folder}/persons.npy", decoder(pif[0], paf[0], network.stride))
from dgcn import Predictor
try:
    Predictor()
except ImportError as error:
    assert "the model that ships with dgcn needs torch" in str(error), error
else:
    raise AssertionError("it must ask for torch")
"""
    subprocess.run([sys.executable, "-c", script, shipped, tmp_path], check=True)
    model, metadata = load_model(DEFAULT_CHECKPOINT)
    with torch.inference_mode():
        pif, paf = FieldsModel(model.fold())(torch.from_numpy(canvas).permute(2, 0, 1)[None])
    decoder = PifPafDecoder(17, model.config.skeleton.limbs, DecoderConfig(**metadata["decoder"]))
    expected = decoder(pif[0].numpy(), paf[0].numpy(), model.stride)
    assert len(expected) == 1
    assert distance(expected, np.load(tmp_path / "persons.npy")) < 0.01


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "model.pt2"], "--output must end in .onnx with --format onnx, got model.pt2"),
        (["-o", "model.pt2", "--format", "torch", "--opset", 18], "--opset must be given with --format onnx"),
        (["-o", "model.onnx", "--opset", 17], r"opset must be 18 to \d+, got 17"),
        (["-o", "model.onnx", "--check", "nowhere"], "no such picture or folder: nowhere"),
        (["-o", "model.onnx", "--checkpoint", "nothing.safetensors"], "no checkpoint at nothing.safetensors"),
    ],
)
def test_bad_requests(arguments, message, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("export", *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(f"dgcn export: error: {message}", line)
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_not_exports(tmp_path, monkeypatch) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(FileNotFoundError):
        OnnxNetwork(path)
    path.write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"model\.onnx is not an ONNX model, or is damaged"):
        OnnxNetwork(path)
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Neg", ["x"], ["y"])], "other", [value], [output])
    onnx.save(onnx.helper.make_model(graph, ir_version=9, opset_imports=[onnx.helper.make_opsetid("", 18)]), path)
    with pytest.raises(ValueError, match=r'model\.onnx was not written by dgcn: its header has no entry "dgcn"'):
        OnnxNetwork(path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r'model\.onnx needs onnxruntime .*: `pip install "dgcn\[onnx\]"`'):
        OnnxNetwork(path)


def test_distance() -> None:
    """Of the same persons in any order; infinite where one has another keypoint, or is missing."""
    persons = np.random.default_rng(0).random((3, 17, 4), np.float32) + 1
    persons[:, 5] = 0
    moved = persons[[2, 0, 1]]
    moved[1, 4, 1] += 0.25
    assert distance(persons, moved) == pytest.approx(0.25)
    moved[1, 5] = 1
    assert distance(persons, moved) == distance(persons, moved[:2]) == np.inf
    assert distance(persons[:0], persons[:0]) == 0
