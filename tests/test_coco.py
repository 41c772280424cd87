"""One reader: training, prediction and evaluation accept the same files, see the same persons, refuse alike."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from oracle import Oracle, box, picture, standing, with_orientation

from dgcn.codec import PifPafCodec
from dgcn.data.coco_format import AREA_OF_BOX, read_ground_truth
from dgcn.data.dataset import KeypointDataset
from dgcn.data.images import check_record, read_record
from dgcn.data.reader import read_records
from dgcn.data.transforms import TrainTransform
from dgcn.evaluation.evaluate import predict_records
from dgcn.evaluation.oks import evaluate_keypoints
from dgcn.predict.predictor import Predictor
from dgcn.records import ImageRecord
from dgcn.skeleton import COCO

SIZE = (96, 128)  # width, height
PERSON = standing(40, 30, 80)
HAND = [f"joint{k}" for k in range(21)]
NOTHING = [0] * 51
Change = Callable[[dict[str, Any]], object]


def content() -> dict[str, Any]:
    """A COCO file of two pictures: a person, a crowd and a person without keypoints; nobody."""
    entry = {"image_id": 7, "category_id": 1, "iscrowd": 0, "segmentation": [[1, 2, 3, 4, 5, 6]]}
    person = {"keypoints": PERSON.ravel().tolist(), "num_keypoints": 17, "bbox": list(box(PERSON)), "area": 1500.5}
    nobody = {"keypoints": NOTHING, "num_keypoints": 0, "area": 40}
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "width": SIZE[0], "height": SIZE[1]},
            {"id": 9, "file_name": "deep/b.png", "width": SIZE[0], "height": SIZE[1]},
        ],
        "annotations": [
            entry | person | {"id": 1},
            entry | nobody | {"id": 2, "bbox": [80, 100, 10, 20], "iscrowd": 1, "segmentation": {"counts": "x"}},
            entry | nobody | {"id": 3, "bbox": [60, 0, 5, 10]},
        ],
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO.keypoints)}],
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "deep").mkdir()
    for name, tone in (("a.png", 50), ("deep/b.png", 150)):
        assert cv2.imwrite(str(folder / name), picture(tone, *SIZE))
    return folder


class Doors:
    """The ways by which a file comes in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.network = Oracle({50: (SIZE, [PERSON]), 150: (SIZE, [])})
        self.predictor = Predictor(self.network, long_edge=129)

    def predict(self, path: Path) -> list[dict[str, Any]]:
        return predict_records(self.predictor, read_records(self.folder, path, COCO))

    def evaluate(self, path: Path) -> dict[str, float]:
        records = read_records(self.folder, path, COCO)
        return evaluate_keypoints(records, predict_records(self.predictor, records))

    def train(self, path: Path) -> KeypointDataset:
        transform = TrainTransform(size=65, skeleton=COCO)
        return KeypointDataset(self.folder, path, COCO, transform, PifPafCodec(COCO, 8))

    def all(self) -> list[Callable[[Path], object]]:
        return [
            self.train,
            self.predict,
            self.evaluate,
            lambda path: evaluate_keypoints(path, []),
            lambda path: evaluate_keypoints(json.loads(path.read_bytes()), []),
        ]


@pytest.fixture
def doors(folder) -> Doors:
    return Doors(folder)


def write(path: Path, change: Change = lambda document: None) -> Path:
    document = content()
    change(document)
    path.write_text(json.dumps(document))
    return path


def every(key: str, **values: Any) -> Change:
    """Set these fields of all entries of a list; what is ... goes."""

    def change(document: dict[str, Any]) -> None:
        for entry in document[key]:
            entry.update(values)
            for field in [field for field, value in entry.items() if value is ...]:
                del entry[field]

    return change


def on(index: int, **values: Any) -> Change:
    """Set these fields of one annotation; what is ... goes."""
    return lambda document: every("annotations", **values)({"annotations": [document["annotations"][index]]})


def joint(k: int, *xyv: Any) -> Change:
    """Replace a keypoint of the person."""
    return lambda document: document["annotations"][0]["keypoints"].__setitem__(slice(3 * k, 3 * k + 3), xyv)


def both(*changes: Change) -> Change:
    return lambda document: [change(document) for change in changes]


def more(key: str, **entry: Any) -> Change:
    return lambda document: document[key].append(entry)


def without(*keys: str) -> Change:
    return lambda document: [document.pop(key) for key in keys]


A_DOG = both(more("categories", id=2, name="dog"), more("annotations", id=9, image_id=7, category_id=2, bbox=None))
READABLE: dict[str, Change] = {
    "official": lambda document: document.update(info={}, licenses=[]),
    "category 3": both(every("annotations", category_id=3), every("categories", id=3)),
    "category 0": both(every("annotations", category_id=0), every("categories", id=0)),
    "category of a name": both(every("annotations", category_id="person"), every("categories", id="person")),
    "a category without keypoints": A_DOG,
    "a category with other keypoints": both(
        more("categories", id=2, name="hand", keypoints=HAND),
        more("annotations", id=9, image_id=7, category_id=2, keypoints=[1, 1, 2] * 21, bbox=[0, 0, 9, 9]),
    ),
    "only one category": every("annotations", category_id=None),
    "no categories": without("categories"),
    "no category at all": both(without("categories"), every("annotations", category_id=...)),
    "categories without names": both(A_DOG, every("categories", keypoints=...)),
    "no area": every("annotations", area=...),
    "an absolute path of another machine": lambda document: document["images"][0].update(file_name=r"C:\data\a.png"),
    "a path in another folder": lambda document: document["images"][0].update(file_name="upload/7/a.png"),
    "nobody's category first": lambda document: document["categories"].insert(0, {"id": 0, "name": "hands"}),
    "null": every("annotations", area=None, iscrowd=None, num_keypoints=None, segmentation=None),
    "no crowd flag": every("annotations", iscrowd=...),
    "crowd flags are booleans": both(every("annotations", iscrowd=False), on(1, iscrowd=True)),
    "no count": every("annotations", num_keypoints=...),
    "wrong count": both(every("annotations", num_keypoints=5), on(0, num_keypoints=0)),
    "no keypoints": both(on(1, keypoints=...), on(2, keypoints=None)),
    "empty keypoints": both(on(1, keypoints=[]), on(2, keypoints=[])),
    "nested keypoints": on(0, keypoints=PERSON.tolist()),
    "some nested": on(2, keypoints=[[0, 0, 0]] * 17),
    "numbers as strings": on(0, keypoints=[str(value) for value in PERSON.ravel()], area="1500.5"),
    "outside": joint(3, -300, 5000.5, 2),
    "not annotated, no numbers": both(joint(3, float("nan"), None, 0), joint(4, 17, 18, 0)),
    "ids are strings": both(
        every("images", id="b"),
        lambda document: document["images"][0].update(id="a"),
        every("annotations", image_id="a"),
    ),
    "ids are floats": both(every("annotations", image_id=7.0, category_id=1.0, id=1.5)),
    "id 0": both(every("annotations", image_id=0, id=0), lambda document: document["images"][0].update(id=0)),
    "no ids of annotations": every("annotations", id=...),
    "one id for all annotations": every("annotations", id=4),
    "no size": every("images", width=..., height=None),
    "no masks": every("annotations", segmentation=...),
    "a huge id": both(every("annotations", image_id=10**30), lambda document: document["images"][0].update(id=10**30)),
}


@pytest.mark.parametrize("change", READABLE.values(), ids=READABLE)
def test_what_can_be_read_is_read_alike(doors, tmp_path, change) -> None:
    """Every door opens; the person that training sees scores 1 in evaluation, and so does the one that is found."""
    path = write(tmp_path / "coco.json", change)
    for door in doors.all():
        door(path)
    document = json.loads(path.read_text())
    image_ids = [image["id"] for image in document["images"]]
    (record,) = doors.train(path).records
    assert record.image_id == image_ids[0]
    assert record.path == doors.folder / "a.png"
    person, crowd, nobody = record.annotations
    assert (person.is_ignored, crowd.is_ignored, nobody.is_ignored) == (False, True, True)
    assert (person.iscrowd, crowd.iscrowd) == (False, document["annotations"][1].get("iscrowd") in (1, True))
    assert person.box == box(PERSON)
    width, height = person.box[2:]
    assert person.area == (1500.5 if document["annotations"][0].get("area") else AREA_OF_BOX * width * height)

    given = {"image_id": record.image_id, "category_id": record.category_id, "score": 1.0}
    truth = given | {"keypoints": person.keypoints.ravel().tolist()}
    assert evaluate_keypoints(path, [truth])["AP"] == pytest.approx(1.0)
    (found,) = doors.predict(path)
    assert found["image_id"] == image_ids[0]
    assert found["category_id"] == document["annotations"][0].get("category_id", 1) or found["category_id"] == 1
    assert json.loads(json.dumps(found)) == found
    assert evaluate_keypoints(path, [found])["AP50"] == pytest.approx(1.0)


UNREADABLE: dict[str, tuple[Change, str]] = {
    "a results file": (without("images"), r"must be a COCO file.*'images' and 'annotations', got \['annot"),
    "images are no list": (lambda document: document.update(images={}), r"images must be a list, got {}"),
    "no images": (lambda document: document["images"].clear(), r"must list at least one image, got none"),
    "an image is null": (lambda document: document["images"].append(None), r"images\[2\] must be an object, got None"),
    "an annotation is a list": (
        lambda document: document["annotations"].insert(0, [1]),
        r"annotations\[0\] must be an",
    ),
    "a category is text": (lambda document: document["categories"].append("x"), r"categories\[1\] must be .* got 'x'"),
    "an image twice": (every("images", id=7), r"images must have different ids, got 7 twice"),
    "a category twice": (more("categories", id=1), r"categories must have different ids, got 1 twice"),
    "an image without id": (every("images", id=...), r"id of images\[0\] must be a whole number or a string, got None"),
    "an id that is a list": (every("images", id=[7]), r"id of images\[0\] must be .*, got 1 values \[7\]"),
    "an id that is a truth": (every("categories", id=True), r"id of categories\[0\] must be .* got True"),
    "an id that is half": (every("images", id=7.5), r"id of images\[0\] must be .* got 7\.5"),
    "an image that is not listed": (on(2, image_id=99), r"image_id of annotation 3 .*id of a listed image, got 99"),
    "an id of another type": (on(2, image_id="7"), r"image_id of annotation 3 on image '7' .*listed image, got '7'"),
    "an image id that is a list": (on(1, image_id=[]), r"image_id of annotation 2 .*, got 0 values \[\]"),
    "a category that is not listed": (on(0, category_id=0), r"category_id of annotation 1 .*listed category, got 0"),
    "which of two categories": (both(A_DOG, on(0, category_id=...)), r"category_id of annotation 1 .*, got None"),
    "no keypoints anywhere": (
        both(every("categories", keypoints=...), every("annotations", keypoints=...)),
        r"must have one category with the 17 keypoints.*, got none",
    ),
    "another skeleton": (
        every("categories", keypoints=HAND),
        r"one category with the 17 keypoints.*got {1: \['joint0'",
    ),
    "two categories": (
        more("categories", id=2, keypoints=list(COCO.keypoints)),
        r"must have one category .*got \['person', 2\]: choose one by `category`",
    ),
    "a width of text": (every("images", width="96"), r"width of image 7 must be a whole number of pixels, got '96'"),
    "a height of 0": (every("images", height=0), r"height of image 7 must be a whole number of pixels, got 0"),
    "too few numbers": (
        on(0, keypoints=[1, 2] * 17),
        r"keypoints of annotation 1 on image 7 must be 51 .*got 34 values",
    ),
    "no triples": (on(0, keypoints=[[0] * 17] * 3), r"keypoints of annotation 1 .*must be 51 numbers"),
    "keypoints of text": (on(2, keypoints="none"), r"keypoints of annotation 3 .*got 'none'"),
    "one keypoint is text": (joint(5, 3, "x", 2), r"keypoints of annotation 1 .*must be 51 numbers"),
    "an unending number": (joint(5, 10**400, 3, 2), r"keypoints of annotation 1 .*must be 51 numbers"),
    "NaN": (joint(5, float("nan"), 3, 2), r"keypoint 5 of annotation 1 .*got 3 values \[nan, 3\.0, 2\.0\]"),
    "infinity": (joint(5, 1, float("inf"), 2), r"keypoint 5 of annotation 1 .*x and y within 16777216 px"),
    "far beyond a picture": (joint(5, 1e9, 1, 2), r"keypoint 5 of annotation 1 .*x and y within 16777216 px"),
    "visibility 3": (
        joint(16, 1, 1, 3),
        r"keypoint 16 of annotation 1 .*v 0, 1 or 2, got 3 values \[1\.0, 1\.0, 3\.0\]",
    ),
    "visibility -1": (joint(0, 1, 1, -1), r"keypoint 0 of annotation 1"),
    "visibility 0.5": (joint(0, 1, 1, 0.5), r"keypoint 0 of annotation 1"),
    "visibility null": (joint(0, 1, 1, None), r"keypoint 0 of annotation 1"),
    "no box": (on(2, bbox=...), r"bbox of annotation 3 .*must be x, y, width >= 0 and height >= 0.*got None"),
    "a short box": (on(1, bbox=[1, 2]), r"bbox of annotation 2 .*got 2 values \[1, 2\]"),
    "a negative box": (on(1, bbox=[1, 2, -3, 4]), r"bbox of annotation 2 .*got 4 values \[1, 2, -3, 4\]"),
    "a nested box": (on(1, bbox=[[1, 2], [3, 4]]), r"bbox of annotation 2"),
    "a box with null": (on(1, bbox=[1, 2, None, 4]), r"bbox of annotation 2 .*\[1, 2, None, 4\]"),
    "an endless box": (on(1, bbox=[1, 2, float("inf"), 4]), r"bbox of annotation 2"),
    "a negative area": (on(0, area=-1), r"area of annotation 1 .*must be at least 0 and finite, got -1"),
    "an area that is NaN": (on(0, area=float("nan")), r"area of annotation 1 .*got nan"),
    "an area of text": (on(0, area="big"), r"area of annotation 1 .*got 'big'"),
    "an area of two": (on(0, area=[1, 2]), r"area of annotation 1 .*got 2 values"),
    "a crowd of text": (on(0, iscrowd="no"), r"iscrowd of annotation 1 .*must be 0 or 1, got 'no'"),
    "a crowd of two": (on(0, iscrowd=2), r"iscrowd of annotation 1 .*must be 0 or 1, got 2"),
}


def refusals(doors: Doors, path: Path, message: str) -> None:
    """Every door says `message` in one line that begins with the file, and the network has not run."""
    for door in doors.all():
        with pytest.raises(ValueError, match=message) as error:
            door(path)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 700
        assert str(error.value).startswith((str(path), "annotations"))
    assert doors.network.batch_sizes == []


@pytest.mark.parametrize(("change", "message"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_cannot_be_read_is_refused_alike(doors, tmp_path, change, message) -> None:
    refusals(doors, write(tmp_path / "coco.json", change), message)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32-be"])
def test_unicode_in_every_form(folder, tmp_path, encoding) -> None:
    document = json.dumps(content() | {"info": {"contributor": "Lučić 東京"}}, ensure_ascii=False)
    path = tmp_path / "coco.json"
    path.write_bytes(document.encode(encoding))
    assert [len(record.annotations) for record in read_records(folder, path, COCO)] == [3, 0]


@pytest.mark.parametrize("raw", [b"", b'{"images": [', b"\xff\xd8\xff\xe0 a picture", b"[" * 100_000])
def test_not_json(doors, tmp_path, raw) -> None:
    path = tmp_path / "coco.json"
    path.write_bytes(raw)
    for door in doors.all()[:4]:
        with pytest.raises(ValueError, match=r"coco\.json is not a JSON file: .") as error:
            door(path)
        assert "\n" not in str(error.value)


def test_a_results_file(doors, tmp_path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(content()["annotations"]))
    for door in doors.all()[:4]:
        with pytest.raises(ValueError, match=r"results\.json must be a COCO file, .*, got list$"):
            door(path)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (every("images", file_name=...), ValueError, r"file_name of image 7 must be the name of a file, got None"),
        (every("images", file_name=5), ValueError, r"file_name of image 7 must be the name of a file, got 5"),
        (every("images", file_name=""), ValueError, r"file_name of image 7 must be the name of a file, got ''"),
        (every("images", file_name="none.png"), FileNotFoundError, r"image 7 of .*coco\.json is missing: .*none\.png"),
        (every("images", file_name="deep"), FileNotFoundError, r"image 7 of .*coco\.json is missing: .*deep"),
        (every("images", file_name="a\0.png"), ValueError, r"file_name of image 7 must be the name of a file"),
    ],
)
def test_pictures_are_looked_for_first(doors, tmp_path, change, error, message) -> None:
    path = write(tmp_path / "coco.json", change)
    for door in doors.all()[:3]:
        with pytest.raises(error, match=message):
            door(path)
    assert doors.network.batch_sizes == []


def test_pictures_anywhere(folder, tmp_path) -> None:
    """Names may be absolute, or lead out of the folder."""

    def change(document: dict[str, Any]) -> None:
        document["images"][0]["file_name"] = str(folder / "a.png")
        document["images"][1]["file_name"] = f"../{folder.name}/deep/b.png"

    (tmp_path / "empty").mkdir()
    path = write(tmp_path / "coco.json", change)
    with pytest.raises(FileNotFoundError, match=r"image 9 of"):
        read_records(tmp_path / "empty", path, COCO)
    assert read_record(read_records(folder, path, COCO)[1]).shape == (128, 96, 3)


def test_missing_files_are_named(folder, tmp_path) -> None:
    path = write(tmp_path / "coco.json")
    for place in ("nowhere", "coco.json"):
        with pytest.raises(FileNotFoundError, match=rf"the image folder .*{place} does not exist"):
            read_records(tmp_path / place, path, COCO)
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        read_records(folder, tmp_path / "none.json", COCO)
    with pytest.raises(IsADirectoryError):
        read_records(folder, tmp_path, COCO)


def test_nobody_to_learn_from(doors, tmp_path) -> None:
    """A file of pictures alone can be predicted on and evaluated, but not trained on."""
    path = write(tmp_path / "coco.json", lambda document: document["annotations"].clear())
    assert len(doors.predict(path)) == 1
    assert set(doors.evaluate(path).values()) == {-1.0}
    with pytest.raises(ValueError, match=r"coco\.json has no person with keypoints"):
        doors.train(path)


def test_ground_truth_of_python(folder) -> None:
    """What Python code makes (tuples, numpy's arrays and numbers) reads like a file, and is left as it is."""
    document = content()
    for entry in document["annotations"]:
        entry |= {"keypoints": np.array(entry["keypoints"]), "bbox": tuple(entry["bbox"]), "image_id": np.int64(7)}
    document["annotations"] = tuple(document["annotations"])
    (record, _) = read_ground_truth(document, 17)
    np.testing.assert_array_equal(record.annotations[0].keypoints, PERSON)
    record.annotations[0].keypoints[:] = -1
    assert document["annotations"][0]["keypoints"].min() >= 0
    assert document["annotations"][0]["segmentation"]


def test_coordinates_are_not_rounded(tmp_path) -> None:
    path = write(tmp_path / "coco.json", joint(5, 1000.1, 7.7, 2))
    assert read_ground_truth(path, 17)[0].annotations[0].keypoints[5].tolist() == [1000.1, 7.7, 2]


def test_pictures_lie_as_their_annotations(tmp_path, caplog) -> None:
    """As stored, unless only the upright picture has the annotated size; anything else is named."""
    stored = np.zeros((16, 40, 3), np.uint8)
    stored[:, :20] = 200
    upright = np.rot90(stored, -1)  # orientation 6
    for name in ("a", "b"):
        assert cv2.imwrite(str(tmp_path / f"{name}.jpg"), stored)
        with_orientation(tmp_path / f"{name}.jpg", 6)

    def read(size: tuple[int, int] | None, name: str = "a", **values: Any) -> np.ndarray:
        record = ImageRecord(1, tmp_path / f"{name}.jpg", (), size=size, **values)
        check_record(record)
        return read_record(record)

    def same(image: np.ndarray, expected: np.ndarray) -> bool:
        return image.shape == expected.shape and np.abs(image.astype(int) - expected).mean() < 5

    assert same(read(None), stored)
    assert same(read((40, 16)), stored)
    assert not caplog.records
    assert same(read((16, 40)), upright)
    assert same(read((16, 40), "b"), upright)
    (message,) = caplog.records  # once for the folder
    assert message.levelno == logging.WARNING
    assert str(tmp_path) in message.getMessage()
    assert "turned as their EXIF orientation says" in message.getMessage()
    record = ImageRecord(1, tmp_path / "a.jpg", (), size=(80, 32))
    for look in (read_record, check_record):
        with pytest.raises(ValueError, match=r"a\.jpg must have the 80×32 pixels .*, got 40×16$"):
            look(record)

    with_orientation(tmp_path / "b.jpg", 3)  # half a turn, of which no size tells
    assert same(read((40, 16), "b"), stored)
    assert same(read((40, 16), "b", upright=True), stored[::-1, ::-1])


def test_upright_annotations_in_training_and_evaluation(tmp_path) -> None:
    """Where the annotations are upright and the pictures are stored on their side, both see the upright picture."""
    upright = picture(50, *SIZE)
    upright[:40] = 0
    turned = tmp_path / "a.jpg"
    assert cv2.imwrite(str(turned), np.rot90(upright))
    with_orientation(turned, 6)
    (tmp_path / "deep").mkdir()
    assert cv2.imwrite(str(tmp_path / "deep" / "b.png"), picture(150, *SIZE))
    path = write(tmp_path / "coco.json", lambda document: document["images"][0].update(file_name="a.jpg"))
    doors = Doors(tmp_path)
    assert doors.evaluate(path)["AP"] == pytest.approx(1.0)
    seen = []
    data = doors.train(path)
    data.transform = lambda image, annotations, rng: (seen.append(image), (image, annotations))[1]
    data[0]
    assert seen[0].shape == (128, 96, 3)
    assert seen[0][:32].mean() < 5
    assert seen[0][48:].mean() > 40
