"""Results in the form in which evaluation servers take them."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import atomic_write


def submission_name(annotations: Path) -> str:
    """How COCO's server wants the results on a set to be called, from the name of the set's annotation file.

    `image_info_test-dev2017.json` gives `person_keypoints_test-dev2017_dgcn_results.json`."""
    data_set = annotations.stem.removeprefix("image_info_").removeprefix("person_keypoints_")
    return f"person_keypoints_{data_set}_dgcn_results.json"


def write_submission(path: str | os.PathLike[str], name: str, results: Sequence[Mapping[str, Any]]) -> None:
    """Write a zip that holds one JSON, atomically: of every result image_id, category_id, keypoints and score.

    Args:
        path: the zip.
        name: of the JSON in it.
        results: COCO keypoint results.

    Raises:
        OSError: no room, no permission, ...; it names `path`.
    """
    entries = [
        {
            "image_id": result["image_id"],
            "category_id": result["category_id"],
            "keypoints": [int(value) if value == int(value) else value for value in result["keypoints"]],
            "score": result["score"],
        }
        for result in results
    ]
    text = json.dumps(entries, separators=(",", ":"), allow_nan=False)
    with atomic_write(path) as file, zipfile.ZipFile(file, "w") as archive:
        # A ZipInfo has a fixed date, so that the same results give the same file.
        archive.writestr(zipfile.ZipInfo(name), text, compress_type=zipfile.ZIP_DEFLATED)
