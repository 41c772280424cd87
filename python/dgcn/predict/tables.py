"""Poses of pictures or of a video as a CSV file."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..conversions import COLUMNS, table_rows
from ..files import AppendedFile
from ..records import Pose
from ..skeleton import Skeleton


class TableWriter:
    """Writes poses as CSV in the long form: source,frame,track_id,person,score,keypoint,x,y,confidence.

    Every keypoint of every person has a row; x and y are pixels, and x, y and confidence of one that was not found are
    0. A picture without persons has no row. The rows of a picture are in the file when `add` returns, and where they
    do not fit on the disk, none of them is.

    Attributes:
        path: of the CSV.
    """

    def __init__(self, path: str | os.PathLike[str], skeleton: Skeleton) -> None:
        """
        Args:
            path: of the CSV; what it held is replaced with the first picture.
            skeleton: of the poses.
        """
        self._keypoints = skeleton.keypoints
        self.path = Path(path)
        self._file: AppendedFile | None = None

    def start(self) -> AppendedFile:
        """Replace what the CSV held by the column names, as the first picture does. Raises OSError."""
        if self._file is None:
            self._file = AppendedFile(self.path)
            self._file.append(_csv_text([("source", "frame", "track_id", *COLUMNS)]))
        return self._file

    def add(
        self, source: str, frame: int | None, track_ids: Sequence[int | None] | None, poses: Sequence[Pose]
    ) -> None:
        """Add the poses of a picture.

        Args:
            source: name of the picture, or of the video.
            frame: number of the frame of a video, from 0; None for a picture.
            track_ids: one for each pose; None where persons are not tracked.
            poses: numbered from 0 in the column `person`.

        Raises:
            OSError: no room, ...; it names the CSV.
        """
        rows: list[Sequence[object]] = []
        for person, score, keypoint, x, y, confidence in table_rows(poses, self._keypoints):
            track_id = None if track_ids is None else track_ids[person]
            numbers = (round(x, 2), round(y, 2), round(confidence, 4))
            rows.append((source, frame, track_id, person, round(score, 6), keypoint, *numbers))
        self.start().append(_csv_text(rows))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _csv_text(rows: Iterable[Iterable[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
