"""Training samples of a COCO set: what comes out, and that it repeats. Reading the file: test_coco.py."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch

from dgcn.codec import PifPafCodec
from dgcn.data.dataset import KeypointDataset, TargetBatch
from dgcn.data.images import read_image
from dgcn.data.transforms import TrainTransform
from dgcn.skeleton import COCO

SIZE = 129


def joints(*xyv):
    """COCO's flat list with the first joints given."""
    flat = [value for joint in xyv for value in joint]
    return flat + [0] * (51 - len(flat))


def content():
    """A COCO file of three pictures: two persons, a crowd and a person without keypoints; nobody; one person."""

    def annotation(number, image_id, keypoints, box, **other):
        return {
            "id": number,
            "image_id": image_id,
            "category_id": 1,
            "keypoints": keypoints,
            "bbox": box,
            "area": box[2] * box[3] / 2,
            "iscrowd": 0,
            **other,
        }

    many = joints(*[(20.5 + 3 * k, 30 + 2 * k, 1 + k % 2) for k in range(17)])
    return {
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO.keypoints)}],
        "images": [
            {"id": 7, "file_name": "a.png", "width": 120, "height": 80},
            {"id": 8, "file_name": "b.png", "width": 60, "height": 90},
            {"id": 9, "file_name": "c.png", "width": 64, "height": 64},
        ],
        "annotations": [
            annotation(1, 7, many, [20, 30, 50, 40]),
            annotation(2, 7, joints((90, 20, 2), (95, 18, 2), (85, 18, 2)), [80, 10, 20, 40]),
            annotation(3, 7, joints(), [0, 0, 30, 20], iscrowd=1),
            annotation(4, 7, joints(), [100, 60, 10, 10]),
            annotation(5, 9, many, [20, 30, 50, 40]),
        ],
    }


@pytest.fixture
def coco(tmp_path):
    """Write `content` with changes, return (folder of pictures, JSON)."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    for image in content()["images"]:
        pixels = rng.integers(0, 256, (image["height"], image["width"], 3), dtype=np.uint8)
        cv2.imwrite(str(folder / image["file_name"]), pixels)

    def write(document=None):
        path = tmp_path / "coco.json"
        path.write_text(json.dumps(content() if document is None else document))
        return folder, path

    return write


def dataset(paths, seed=0, node_strides=(16,)):
    transform = TrainTransform(size=SIZE, skeleton=COCO)
    return KeypointDataset(*paths, COCO, transform, PifPafCodec(COCO, 8), node_strides=node_strides, seed=seed)


def test_pictures_are_rgb_and_not_turned(tmp_path):
    image = np.zeros((20, 30, 3), np.uint8)
    image[..., 0] = 200
    cv2.imwrite(str(tmp_path / "red.png"), image[..., ::-1])
    np.testing.assert_array_equal(read_image(tmp_path / "red.png"), image)
    cv2.imwrite(str(tmp_path / "gray.png"), image[..., 0])
    assert read_image(tmp_path / "gray.png").shape == (20, 30, 3)

    # The same picture with an EXIF orientation of 6 (turn by 90 degrees), which COCO's coordinates know nothing of.
    _, jpeg = cv2.imencode(".jpg", image)
    tiff = b"MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00"
    exif = b"Exif\x00\x00" + tiff
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    turned = tmp_path / "turned.jpg"
    turned.write_bytes(jpeg.tobytes()[:2] + segment + jpeg.tobytes()[2:])
    assert cv2.imread(str(turned)).shape == (30, 20, 3)
    assert read_image(turned).shape == (20, 30, 3)


def test_corrupt_picture_is_named(tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"broken\.jpg is damaged or not a picture"):
        read_image(broken)


def test_sample(coco):
    data = dataset(coco(), node_strides=(16, 8))
    assert len(data) == 2  # the picture with nobody on it is left out
    item = data[0]
    assert item["image"].shape == (3, SIZE, SIZE)
    assert item["image"].dtype == torch.uint8
    assert item["image_id"] == 7
    assert len(item["annotations"]) == 4
    targets = data.collate([item])["targets"]
    assert targets.pif_confidence.shape == (1, 17, 17, 17)
    assert targets.pif_confidence.nansum() > 0
    assert set(targets.node_confidence) == {16, 8}
    assert targets.node_confidence[16].shape == (1, 17, 9, 9)
    torch.testing.assert_close(targets.node_confidence[8], targets.pif_confidence, rtol=0, atol=0, equal_nan=True)


def same(a, b):
    return torch.equal(a["image"], b["image"]) and all(
        np.array_equal(x.keypoints, y.keypoints) for x, y in zip(a["annotations"], b["annotations"], strict=True)
    )


def test_samples_depend_on_seed_epoch_and_index_alone(coco):
    paths = coco()
    data = dataset(paths)
    first, later = data.sample(1, 0), data.sample(1, 3)
    assert same(first, data[1])
    assert same(first, dataset(paths)[1])
    assert not same(first, later)
    assert not same(first, dataset(paths, seed=1)[1])
    assert same(later, data.sample(1, 3))


def test_batch(coco):
    data = dataset(coco())
    batch = data.collate([data[0], data[1], data[0]])
    assert batch["image"].shape == (3, 3, SIZE, SIZE)
    assert batch["image"].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch["image"][1], data[1]["image"])
    assert batch["image_id"] == [7, 9, 7]
    targets = batch["targets"]
    assert isinstance(targets, TargetBatch)
    assert targets.pif_offset.shape == (3, 17, 2, 17, 17)
    assert targets.paf_offset.shape == (3, 19, 4, 17, 17)
    assert targets.node_confidence[16].shape == (3, 17, 9, 9)
    assert targets.pif_scale.dtype == torch.float32
    alone = data.codec.encode(data[1]["annotations"], SIZE, SIZE, node_strides=(16,))
    np.testing.assert_array_equal(targets.paf_offset[1], alone.paf_offset)
    np.testing.assert_array_equal(targets.node_confidence[16][1], alone.node_confidence[16])
    part = targets[1:2]
    np.testing.assert_array_equal(part.paf_offset[0], alone.paf_offset)
    np.testing.assert_array_equal(part.node_confidence[16][0], alone.node_confidence[16])


def test_real_pictures(data_dir):
    root = data_dir / "coco320"
    data = dataset((root / "images" / "val", root / "annotations" / "person_keypoints_val.json"))
    assert len(data) == 250
    assert sum(len(record.persons) for record in data.records) == 683
    for index in range(20):
        targets = data.collate([data[index]])["targets"]
        assert (targets.pif_confidence == 1).any()
        assert not targets.pif_offset[:, :, 0][targets.pif_confidence == 1].isnan().any()
