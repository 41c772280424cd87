"""From pictures to poses: coordinates, batches, files of every kind, errors."""

from __future__ import annotations

import dataclasses
import itertools
import json
import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from oracle import Oracle, coco_set, picture, standing, with_orientation
from PIL import Image

from dgcn.data.reader import read_records
from dgcn.evaluation.evaluate import predict_records
from dgcn.evaluation.oks import evaluate_keypoints
from dgcn.model.network import build_model
from dgcn.predict import torch_network
from dgcn.predict.predictor import DEFAULT_LONG_EDGE, Predictor
from dgcn.records import Pose
from dgcn.skeleton import COCO
from dgcn_ext.decoder import DecoderConfig

PICTURES = {
    20: ((640, 480), [standing(200, 80, 300)]),
    60: ((640, 480), [standing(150, 60, 350), standing(450, 100, 280)]),
    100: ((300, 500), [standing(150, 60, 380)]),
    140: ((640, 480), []),
    180: ((900, 500), [standing(150, 80, 350), standing(400, 90, 330), standing(700, 100, 300)]),
}
TOLERANCE = 2.0  # px of the picture; the fields are exact, the decoder blends neighbouring cells


def pictures() -> list[np.ndarray]:
    return [picture(tone, *size) for tone, (size, _) in PICTURES.items()]


def same_people(poses: list[Pose], expected: list[np.ndarray]) -> bool:
    """Whether each expected person [17, 3] is matched by a pose within TOLERANCE, and nobody else was found."""
    return len(poses) == len(expected) and all(
        any(np.abs(pose.keypoints - keypoints[:, :2]).max() < TOLERANCE for pose in poses) for keypoints in expected
    )


@pytest.fixture
def predictor() -> Predictor:
    return Predictor(Oracle(PICTURES), long_edge=385)


@pytest.mark.parametrize("long_edge", [321, 513])
def test_poses_are_in_pixels_of_the_picture(long_edge) -> None:
    predictor = Predictor(Oracle(PICTURES), long_edge=long_edge)
    for image, (_, expected) in zip(pictures(), PICTURES.values(), strict=True):
        assert same_people(predictor(image), expected)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_a_batch_changes_nothing(predictor, batch_size) -> None:
    alone = [predictor(image) for image in pictures()]
    oracle = Oracle(PICTURES)
    together = list(Predictor(oracle, long_edge=385, batch_size=batch_size).batch(iter(pictures())))
    assert len(together) == len(alone)
    for one, other in zip(alone, together, strict=True):
        assert [pose.to_coco() for pose in one] == [pose.to_coco() for pose in other]
    assert sum(oracle.batch_sizes) == len(PICTURES)
    assert max(oracle.batch_sizes) == {1: 1, 2: 2, 3: 2, 8: 3}[batch_size]  # three have the same shape


def test_batch_is_lazy(predictor) -> None:
    read = []

    def sources():
        for index, image in enumerate(pictures()):
            read.append(index)
            yield image

    poses = predictor.batch(itertools.chain(sources(), (pictures()[0] for _ in itertools.count())))
    assert read == []
    next(poses)
    assert 0 in read
    poses.close()  # while batches of an endless source are on their way
    assert list(predictor.batch([])) == []
    assert predictor.fields([]) == []


def test_pose(predictor) -> None:
    (pose,) = predictor(pictures()[0])
    assert pose.keypoint_names == COCO.keypoints
    x, y, width, height = pose.box
    assert (x, y) == pytest.approx(pose.keypoints.min(axis=0))
    assert (x + width, y + height) == pytest.approx(pose.keypoints.max(axis=0))
    weights = np.array([3, 3, 3] + [1] * 14) / 23
    assert pose.score == pytest.approx(float(weights @ np.sort(pose.scores)[::-1]), abs=1e-6)


def test_a_pose_without_keypoints_has_an_empty_box() -> None:
    pose = Pose(np.zeros((17, 2), np.float32), np.zeros(17, np.float32), 0.0)
    assert pose.box == (0, 0, 0, 0)
    assert pose.to_coco()["num_keypoints"] == 0


def test_to_coco_with_missing_keypoints() -> None:
    keypoints, scores = np.zeros((17, 2), np.float32), np.zeros(17, np.float32)
    keypoints[[3, 8]] = [[10.123, 20.0], [4.0, 50.456]]
    scores[[3, 8]] = [0.5, 0.25]
    annotation = Pose(keypoints, scores, 0.1234567).to_coco(image_id=7)
    assert json.loads(json.dumps(annotation)) == annotation
    assert annotation["keypoints"][9:12] == [10.12, 20.0, 2]
    assert annotation["keypoints"][:9] == [0] * 9
    assert annotation["bbox"] == [4.0, 20.0, 6.12, 30.46]
    assert (annotation["image_id"], annotation["category_id"], annotation["num_keypoints"]) == (7, 1, 2)
    assert annotation["score"] == pytest.approx(0.123457)


def test_the_highest_score_comes_first(predictor, monkeypatch) -> None:
    """The decoder orders persons by the mean of all confidences, the score counts the best three more."""
    steady, peaked = np.ones((2, 17, 4), np.float32)
    steady[:, 0], peaked[:, 0] = 0.5, [0.9] * 8 + [0.0] * 9
    found, scores = [np.stack([steady, peaked, steady])], predictor._decoder.person_scores
    decoder = SimpleNamespace(batch=lambda fields, stride: found, person_scores=scores)
    monkeypatch.setattr(predictor, "_decoder", decoder)
    poses = predictor(pictures()[0])
    assert [pose.scores[0] for pose in poses] == pytest.approx([0.9, 0.5, 0.5])
    assert [pose.score for pose in poses] == pytest.approx([12.6 / 23, 0.5, 0.5])


def test_forms_of_a_picture(predictor, tmp_path) -> None:
    """A path, the content of the file, a picture of Pillow's and an array give the same; an EXIF turn is followed."""
    image = pictures()[0]
    expected = [pose.to_coco() for pose in predictor(image)]
    path = tmp_path / "picture.png"
    Image.fromarray(image).save(path)
    content = path.read_bytes()
    pillow = Image.open(path)
    sources = [path, str(path), content, bytearray(content), memoryview(content), pillow, pillow.convert("P")]
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(image).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    sources += [tmp_path / "turned.png", Image.open(tmp_path / "turned.png")]
    for poses in predictor.batch(sources):
        assert [pose.to_coco() for pose in poses] == expected


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork")
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs os.fork")
def test_a_forked_process_predicts(monkeypatch) -> None:
    """Two threads of torch have worked in the parent: they are not there any more in the child."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        predictor = Predictor(build_model("mobilenetv1_075", lift_channels=8), long_edge=97)
        image = pictures()[0]
        expected = len(predictor(image))
        context = multiprocessing.get_context("fork")
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=lambda: sender.send(len(predictor(image))))
        child.start()
        try:
            assert receiver.poll(120)  # a child that hangs does so forever
            assert receiver.recv() == expected
        finally:
            child.kill()
            child.join()
    finally:
        torch.set_num_threads(threads)


THREADS = """
import os
import torch
from dgcn.predict.predictor import Predictor

torch.set_num_threads(4)
before = len(os.listdir("/proc/self/task"))
Predictor()
print(len(os.listdir("/proc/self/task")) - before, torch.get_num_threads())
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="needs Linux")
def test_threads_are_left_to_the_one_that_runs_the_network() -> None:
    """More threads than cores, in all teams of OpenMP together, would make each of them slow."""
    assert subprocess.check_output([sys.executable, "-c", THREADS], text=True).split() == ["0", "4"]


def test_timings_come_with_each_picture(predictor) -> None:
    for prediction in [predictor(pictures()[0]), *predictor.batch(pictures())]:
        assert min(dataclasses.astuple(prediction.timings)) > 0


def test_a_source_that_never_goes_on_holds_nobody_up(predictor) -> None:
    never = threading.Event()

    def source():
        yield pictures()[0]
        never.wait()
        yield pictures()[1]

    predictions = predictor.batch(source())
    assert same_people(next(predictions), PICTURES[20][1])
    predictions.close()
    never.set()


def test_nothing_is_read_ahead_if_so_asked(predictor) -> None:
    read = []
    predictions = predictor.batch((read.append(n) or image for n, image in enumerate(pictures())), on_the_way=1)
    for n in range(3):
        next(predictions)
        assert read == list(range(n + 1))
    with pytest.raises(ValueError, match="on_the_way must be at least 1, got 0"):
        predictor.batch([], on_the_way=0)


def test_stages_work_at_the_same_time() -> None:
    """The second picture is read and in the network before the caller has asked for it, and errors keep their turn."""
    oracle = Oracle(PICTURES)
    second_is_read, second_is_run = threading.Event(), threading.Event()
    oracle.register_forward_hook(lambda *_: second_is_run.set() if len(oracle.batch_sizes) == 2 else None)

    def sources():
        yield pictures()[0]
        second_is_read.set()
        yield pictures()[1]
        raise OSError("the disk is gone")

    predictions = Predictor(oracle, long_edge=385).batch(sources())
    assert same_people(next(predictions), PICTURES[20][1])
    assert second_is_read.wait()
    assert second_is_run.wait()
    assert same_people(next(predictions), PICTURES[60][1])
    with pytest.raises(OSError, match="the disk is gone"):
        next(predictions)
    assert list(predictions) == []


def test_decoder_config(predictor) -> None:
    nobody = Predictor(Oracle(PICTURES), long_edge=385, config=DecoderConfig(seed_threshold=1.0))
    assert predictor(pictures()[0])
    assert not nobody(pictures()[0])


@pytest.mark.parametrize(
    ("metadata", "asked", "expected"),
    [({"long_edge": 257}, None, 257), ({"long_edge": 257}, 97, 97), ({}, None, DEFAULT_LONG_EDGE)],
)
def test_checkpoint_decides_the_long_edge(monkeypatch, metadata, asked, expected) -> None:
    monkeypatch.setattr(torch_network, "load_model", lambda path: (Oracle(PICTURES), metadata))
    predictor = Predictor("model.safetensors", long_edge=asked)
    assert (predictor.long_edge, predictor.metadata) == (expected, metadata)


def test_checkpoint_decides_the_decoder(monkeypatch) -> None:
    deaf = {"long_edge": 385, "decoder": {"seed_threshold": 1.0}}
    monkeypatch.setattr(torch_network, "load_model", lambda path: (Oracle(PICTURES), deaf))
    assert Predictor()(pictures()[0]) == []
    assert len(Predictor(config=DecoderConfig())(pictures()[0])) == 1


def test_real_network_leaves_the_model_alone() -> None:
    model = build_model("mobilenetv1_075", lift_channels=8).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    predictor = Predictor(model, long_edge=97, batch_size=2)
    rng = np.random.default_rng(0)
    found = list(predictor.batch(rng.integers(0, 256, (3, 60, 80, 3), dtype=np.uint8)))
    assert len(found) == 3
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def write(path: Path, image: np.ndarray) -> Path:
    assert cv2.imwrite(str(path), image)
    return path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, r"batch_size must be at least 1, got 0"),
        ({"long_edge": 640}, r"long_edge must be a multiple of 16 plus 1 .*, got 640"),
        ({"long_edge": 8193}, r"long_edge must be at most 8192.*, got 8193"),
        ({"device": "meta"}, r"device must be 'cpu', 'cuda' or 'cuda:N', got 'meta'"),
        ({"device": None}, r"device must be 'cpu', 'cuda' or 'cuda:N', got 'None'"),
        ({"device": "tpu9"}, r"device must be 'cpu', 'cuda' or 'cuda:N', got 'tpu9'"),
        ({"device": "cuda:99"}, r"device 'cuda:99' is not available"),
    ],
)
def test_bad_arguments(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        Predictor(Oracle(PICTURES), **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": "2"}, r"batch_size must be an integer, got '2'"),
        ({"long_edge": 513.0}, r"long_edge must be an integer, got 513\.0"),
        ({"config": {"seed_threshold": 1.0}}, r"config must be a DecoderConfig, got dict"),
        ({"flip_test": "no"}, r"flip_test must be True or False, got"),
    ],
)
def test_arguments_of_other_types(arguments, message) -> None:
    with pytest.raises(TypeError, match=message):
        Predictor(Oracle(PICTURES), **arguments)


def test_a_model_of_another_type() -> None:
    with pytest.raises(TypeError, match="model must be a DGCN or the path of a checkpoint, got 3"):
        Predictor(3)
    with pytest.raises(TypeError, match="model must be a DGCN or the path of a checkpoint, got Linear"):
        Predictor(torch.nn.Linear(1, 1))
    with pytest.raises(TypeError, match="path must be that of a checkpoint, got a Oracle"):
        Predictor.from_checkpoint(Oracle(PICTURES))


def test_a_flip_test_of_a_skeleton_that_is_not_its_own_mirror_image() -> None:
    model = Oracle(PICTURES)
    model.config.skeleton = dataclasses.replace(COCO, limbs=COCO.limbs[:-1])
    Predictor(model)
    message = r"flip_test needs a skeleton that is its own mirror image: .* right_ear-right_shoulder"
    with pytest.raises(ValueError, match=message):
        Predictor(model, flip_test=True)


@pytest.mark.parametrize(
    "metadata", [{"long_edge": "513"}, {"long_edge": 512}, {"decoder": {"unknown": 1}}, {"decoder": {"max_seeds": "1"}}]
)
def test_metadata_that_cannot_be_used(monkeypatch, metadata) -> None:
    monkeypatch.setattr(torch_network, "load_model", lambda path: (Oracle(PICTURES), metadata))
    message = r"model\.safetensors has metadata that this version of dgcn cannot use: .+"
    with pytest.raises(ValueError, match=message):
        Predictor("model.safetensors")
    with pytest.raises(ValueError, match=message):
        Predictor(torch_network.TorchNetwork.from_checkpoint("model.safetensors", "cpu"))


@pytest.mark.parametrize("source", [None, 7, ["a.jpg"], torch.zeros(5, 5, 3, dtype=torch.uint8)])
def test_what_is_no_picture(predictor, source) -> None:
    with pytest.raises(TypeError, match=rf"a picture must be a path, .*, got {type(source).__name__}"):
        predictor(source)


@pytest.mark.parametrize(
    "sources", ["a.jpg", Path("a.jpg"), b"a", Image.new("RGB", (9, 9)), np.zeros((9, 9, 3), np.uint8), None]
)
def test_a_batch_of_one_that_is_no_list(predictor, sources) -> None:
    with pytest.raises(TypeError, match=rf"sources must be several pictures, .*, got {type(sources).__name__}"):
        predictor.batch(sources)


@pytest.mark.parametrize("image", [np.zeros((5, 5), np.uint8), np.zeros((5, 5, 3)), np.zeros((0, 5, 3), np.uint8)])
def test_bad_arrays(predictor, image) -> None:
    with pytest.raises(ValueError, match=r"image must be non-empty uint8 \[H, W, 3\]"):
        predictor(image)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (2000, 3)])
def test_extreme_shapes(size) -> None:
    assert Predictor(Oracle({9: (size, [])}), long_edge=257)(picture(9, *size)) == []


def test_evaluation_of_a_dataset(tmp_path, predictor) -> None:
    """A network that sees everything has AP 1, also where a picture's EXIF says that it lies on its side."""
    names = [write(tmp_path / f"{tone}.jpg", picture(tone, *size)).name for tone, (size, _) in PICTURES.items()]
    with_orientation(tmp_path / names[0], 6)
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps(coco_set(names, list(PICTURES.values()))))
    records = read_records(tmp_path, truth, COCO)
    results = predict_records(predictor, records)
    assert len(results) == sum(len(persons) for _, persons in PICTURES.values())
    assert evaluate_keypoints(truth, results)["AP"] == pytest.approx(1.0)
    assert evaluate_keypoints(records, results)["AP"] == pytest.approx(1.0)
    (tmp_path / names[2]).unlink()
    with pytest.raises(FileNotFoundError, match=r"100\.jpg"):
        predict_records(predictor, records)
