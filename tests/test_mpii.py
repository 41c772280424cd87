"""MPII's annotations in their three forms."""

from __future__ import annotations

import json
from typing import Any

import cv2
import numpy as np
import pytest

from dgcn.data.mpii import read_mpii
from dgcn.data.reader import ReadOptions, read_keypoint_file, read_records
from dgcn.skeleton import COCO, MPII


def test_the_forms_of_mpii_agree(data_dir) -> None:
    """Five persons are in both files. The .h5 rounds coordinates down and enlarges the scale."""
    pytest.importorskip("h5py")
    folder = data_dir / "fixtures"
    of_h5 = {record.image_id: record for record in read_mpii(folder / "mpii/mpii_valid.h5").records}
    assert len(of_h5) == 2729
    assert sum(len(record.annotations) for record in of_h5.values()) == 2958
    for record in read_mpii(folder / "mmpose_tests/mpii/test_mpii.json").records:
        (person,) = record.annotations
        (twin, *_) = of_h5[record.image_id].annotations
        assert person.num_keypoints == twin.num_keypoints
        seen = person.keypoints[:, 2] > 0
        difference = person.keypoints[seen, :2] - twin.keypoints[seen, :2]
        assert (abs(difference) <= 1).all()
        assert person.scale == pytest.approx(twin.scale, rel=1e-6)
        assert person.box == pytest.approx(twin.box, rel=1e-4, abs=0.1)
        assert person.head_size is None
        assert twin.head_size is not None


def test_mpii_of_matlab(tmp_path) -> None:
    scipy_io = pytest.importorskip("scipy.io")

    def point(joint: int, visible: Any) -> dict[str, Any]:
        return {"id": joint, "x": 10.0 + joint, "y": 20.0 + joint, "is_visible": visible}

    rect = {
        **{"x1": 5.0, "y1": 5.0, "x2": 35.0, "y2": 45.0, "scale": 2.0, "objpos": {"x": 101.0, "y": 51.0}},
        "annopoints": {"point": [point(0, 1), point(6, 0), point(9, [])]},
    }
    pictures = [
        {"image": {"name": "a.jpg"}, "annorect": [rect, {"x1": 1.0, "y1": 1.0, "x2": 2.0, "y2": 2.0}]},
        {"image": {"name": "b.jpg"}, "annorect": []},
    ]
    path = tmp_path / "mpii.mat"
    scipy_io.savemat(path, {"RELEASE": {"annolist": pictures}})
    (record,) = read_mpii(path, tmp_path).records
    (person,) = record.annotations
    assert record.path == tmp_path / "a.jpg"
    assert person.keypoints[[0, 6, 9]].tolist() == [[9, 19, 2], [15, 25, 1], [18, 28, 2]]
    assert person.num_keypoints == 3
    assert person.head_size == pytest.approx(0.6 * 50)
    assert person.scale == 400
    assert person.box == (100 - 200, 50 - 200, 400, 400)


PERSON = {"image": "a.jpg", "joints": [[5, 5]] * 16, "joints_vis": [1] * 16, "center": [1, 1], "scale": 1.0}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", r"must list at least one person, got none"),
        ({"a": 1}, r"must be a list of MPII's persons, got dict"),
        ([PERSON, 3], r"person 1 must be an object with the name of its `image`, got 3"),
        ([PERSON | {"image": None}], r"person 0 must be an object with the name of its `image`"),
        ([PERSON | {"joints": [[1, 2]]}], r"person 0: joints must be numbers of shape \[16, 2\], got \[\[1, 2\]\]"),
        ([PERSON | {"joints_vis": "x"}], r"person 0: joints_vis must be numbers of shape \[16\], got 'x'"),
        ([PERSON | {"scale": 0}], r"person 0: scale must be positive and below .*, got 0\.0"),
        ([PERSON | {"center": [1, float("nan")]}], r"person 0: center must be within 16777216 px, got \[1\.0, nan\]"),
        ([PERSON | {"joints": [[1, float("inf")]] * 16}], r"person 0: joints must be within 16777216 px"),
        ([PERSON | {"head_size": "abc"}], r"person 0: head_size must be numbers of shape \[\], got 'abc'"),
        ([PERSON | {"scale": 10**400}], r"person 0: scale must be numbers of shape \[\], got 1000"),
    ],
)
def test_what_is_not_mpii_is_refused(tmp_path, content, message) -> None:
    path = tmp_path / "mpii.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=message) as error:
        read_keypoint_file(path, options=ReadOptions(format="mpii"))
    assert str(error.value).startswith(str(path))


def test_damaged_files_of_mpii_are_refused(tmp_path) -> None:
    for name, package in (("a.h5", "h5py"), ("a.mat", "scipy.io")):
        pytest.importorskip(package)
        path = tmp_path / name
        path.write_bytes(b"nothing of the kind")
        with pytest.raises(ValueError, match=rf"{name} is not an? .* file or is damaged"):
            read_keypoint_file(path)
        with pytest.raises(FileNotFoundError, match=f"missing_{name}"):
            read_keypoint_file(tmp_path / f"missing_{name}")
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["imgname"] = ["a.jpg"]
    with pytest.raises(ValueError, match=r"b\.h5 must have the entries .* of MPII, got no part"):
        read_keypoint_file(tmp_path / "b.h5")


def test_mpii_is_checked_against_a_skeleton(tmp_path) -> None:
    path = tmp_path / "mpii.json"
    path.write_text(json.dumps([PERSON]))
    cv2.imwrite(str(tmp_path / "a.jpg"), np.zeros((8, 8, 3), np.uint8))
    assert len(read_records(tmp_path, path, MPII)) == 1
    with pytest.raises(ValueError, match=r"must have the keypoints \['nose'.*, got \['right_ankle'"):
        read_records(tmp_path, path, COCO)
