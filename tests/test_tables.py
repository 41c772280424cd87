"""Poses as tables, arrays and the types of other libraries."""

from __future__ import annotations

import csv
import errno
import sys

import numpy as np
import pytest
from conftest import limited_files

from dgcn.conversions import to_pandas, to_supervision
from dgcn.predict.tables import TableWriter
from dgcn.records import Pose
from dgcn.skeleton import COCO

HEADER = ["source", "frame", "track_id", "person", "score", "keypoint", "x", "y", "confidence"]


def pose(x: float, score: float = 0.5, names: tuple[str, ...] | None = COCO.keypoints) -> Pose:
    """Whose nose is at (x, 2) and whose other keypoints were not found."""
    keypoints, scores = np.zeros((17, 2), np.float32), np.zeros(17, np.float32)
    keypoints[0], scores[0] = (x, 2), 0.75
    return Pose(keypoints, scores, score, names)


def test_csv(tmp_path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("of an earlier run")
    name = 'odd, "name"\n\udcff.png'  # a line break, and a byte that is no UTF-8
    with TableWriter(path, COCO) as table:
        table.add(name, None, None, [pose(1.005), pose(3)])
        table.add("nobody.png", None, None, [])
        table.add("a.mp4", 7, [4], [pose(5, score=1 / 3)])
        with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:  # while it is open
            header, *rows = csv.reader(file)
    assert header == HEADER
    assert len(rows) == 3 * 17
    assert rows[0] == [name, "", "", "0", "0.5", "nose", "1.0", "2.0", "0.75"]
    assert rows[1] == [name, "", "", "0", "0.5", "left_eye", "0.0", "0.0", "0.0"]
    assert [row[3] for row in rows] == ["0"] * 17 + ["1"] * 17 + ["0"] * 17
    assert rows[34] == ["a.mp4", "7", "4", "0", "0.333333", "nose", "5.0", "2.0", "0.75"]


def test_a_full_disk_has_whole_pictures(tmp_path) -> None:
    """The third picture fits in part."""
    path = tmp_path / "a.csv"
    with TableWriter(path, COCO) as table:
        table.add("a.png", None, None, [pose(1)])
        with limited_files(2 * path.stat().st_size):
            table.add("b.png", None, None, [pose(2)])
            before = path.read_bytes()
            with pytest.raises(OSError, match=str(path)) as error:
                table.add("c.png", None, None, [pose(3)])
        assert error.value.errno == errno.EFBIG
        assert path.read_bytes() == before
        table.add("d.png", None, None, [pose(4)])
    with open(path, newline="") as file:
        assert [row["source"] for row in csv.DictReader(file)] == ["a.png"] * 17 + ["b.png"] * 17 + ["d.png"] * 17


def test_to_numpy() -> None:
    array = pose(3).to_numpy()
    assert (array.shape, array.dtype) == ((17, 3), np.float32)
    assert array[0].tolist() == [3, 2, 0.75]
    assert not array[1:].any()


def test_to_pandas() -> None:
    pandas = pytest.importorskip("pandas", reason="needs pandas: pip install dgcn[pandas]", exc_type=ImportError)
    table = to_pandas([pose(1, 0.9), pose(2, 0.4)])
    assert table.columns.tolist() == HEADER[3:]
    assert len(table) == 34
    assert table.iloc[17].tolist() == [1, 0.4, "nose", 2, 2, 0.75]
    pandas.testing.assert_frame_equal(pose(2, 0.4).to_pandas().assign(person=1), table[17:].reset_index(drop=True))
    numbers = ["person", "score", "x", "y", "confidence"]
    nobody = to_pandas([])
    assert len(nobody) == 0
    assert nobody[numbers].dtypes.equals(table[numbers].dtypes)
    assert pose(1, names=None).to_pandas()["keypoint"].tolist() == list(range(17))


def test_to_supervision() -> None:
    supervision = pytest.importorskip(
        "supervision", reason="needs supervision: pip install dgcn[supervision]", exc_type=ImportError
    )
    points = to_supervision([pose(20, 0.9), pose(60, 0.4)])
    assert points.xy[:, 0].tolist() == [[20, 2], [60, 2]]
    np.testing.assert_allclose(points.detection_confidence, [0.9, 0.4])
    assert points.visible.sum() == 2
    drawn = supervision.VertexAnnotator(radius=1).annotate(np.zeros((80, 80, 3), np.uint8), points)
    assert set(np.flatnonzero(drawn.any(axis=(0, 2)))) == {19, 20, 21, 59, 60, 61}  # nothing where none was found
    assert points[0] == pose(20, 0.9).to_supervision()
    assert to_supervision([]).is_empty()


@pytest.mark.parametrize("name", ["pandas", "supervision"])
def test_what_is_not_installed(name, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf'to_{name} needs {name} .*: `pip install "dgcn\[{name}\]"`'):
        getattr(pose(1), f"to_{name}")()
