"""Every annotation file of training and evaluation is read here, whatever its format."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ..checks import check_types
from ..progress import Progress
from ..records import CocoId, ImageRecord, KeypointFile, Rule
from ..skeleton import Skeleton, same_names
from .coco_format import read_coco
from .images import check_record, read_record
from .mpii import is_mpii, read_mpii

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How annotation files are read."""

    format: Literal["auto", "coco", "crowdpose", "mpii"] = "auto"
    """The format is told from the content; crowdpose is coco with a crowdIndex for each image."""
    category: CocoId | None = None
    """Id or name of the category whose keypoints are meant, where a file has several."""
    keypoints: tuple[str, ...] | None = None
    """Names of the keypoints, in place of those in the file."""
    skip_unreadable: bool = False
    """Leave out pictures that are missing or damaged, and say which, in place of an error."""

    def __post_init__(self) -> None:
        check_types(self)


def read_keypoint_file(
    annotations: Path,
    images: Path | None = None,
    options: ReadOptions | None = None,
    *,
    skeleton: Skeleton | None = None,
    needs_annotations: bool = True,
) -> KeypointFile:
    """The content of an annotation file.

    Args:
        annotations: a COCO or CrowdPose JSON, or MPII's persons as .h5, .json or .mat.
        images: the folder of the pictures; without it the paths of the records are empty.
        options: how to read it.
        skeleton: whose keypoints it must have; default: any.
        needs_annotations: whether the file must have annotations; a test set has none.

    Raises:
        OSError: no such file or folder.
        ValueError: content that does not fit; the message names the file and the field.
    """
    options = options or ReadOptions()
    if images is not None and not images.is_dir():
        raise FileNotFoundError(f"the image folder {images} does not exist")
    is_of_mpii = options.format == "mpii" or (options.format == "auto" and is_mpii(annotations))
    renamed = options.keypoints
    if is_of_mpii:
        found = read_mpii(annotations, images)
    else:
        found = read_coco(
            annotations,
            images=images,
            keypoints=None if skeleton is None or renamed is not None else skeleton.keypoints,
            num_keypoints=None if renamed is None else len(renamed),
            category=options.category,
            needs_annotations=needs_annotations,
        )
    if renamed is not None:
        found = rename_keypoints(found, renamed, annotations)
    names = found.category.keypoints
    if skeleton is not None and names is not None and not same_names(names, skeleton.keypoints):
        raise ValueError(f"{annotations} must have the keypoints {list(skeleton.keypoints)}, got {list(names)}")
    return found


def rename_keypoints(file: KeypointFile, names: tuple[str, ...], annotations: Path) -> KeypointFile:
    """`file` with other names of its keypoints. Raises ValueError where these are its own names in another order."""
    own = file.category.keypoints
    if own is not None and own != names and sorted(own) == sorted(names):
        raise ValueError(f"keypoints must be in the order of {annotations}, {list(own)}, got {list(names)}")
    rules = file.rules
    if own is not None and own != names:
        rules = (*rules, Rule("keypoints", ", ".join(names), f"given, in place of {', '.join(own)}"))
    return replace(file, category=replace(file.category, keypoints=names), rules=rules)


def read_records(
    images: Path,
    annotations: Path,
    skeleton: Skeleton,
    options: ReadOptions | None = None,
    *,
    needs_annotations: bool = True,
    needs_pictures: bool = True,
) -> list[ImageRecord]:
    """The records of `read_keypoint_file`, whose pictures exist and have headers that can be read.

    With `options.skip_unreadable` every picture is read once, and those that cannot be are left out with a warning.
    Without `needs_pictures` no other is looked at.

    Raises:
        OSError, ValueError: as `read_keypoint_file`, or a picture is missing or no picture.
    """
    options = options or ReadOptions()
    file = read_keypoint_file(annotations, images, options, skeleton=skeleton, needs_annotations=needs_annotations)
    for rule in file.rules:
        log.info(str(rule))
    if options.skip_unreadable:
        return select_readable(file.records, annotations)
    for record in file.records if needs_pictures else ():
        require_picture(record, annotations)
        check_record(record)
    return file.records


def require_picture(record: ImageRecord, annotations: Path) -> None:
    """Raise FileNotFoundError unless there is a file for the picture of a record of `annotations`."""
    if not record.path.is_file():
        raise FileNotFoundError(f"image {record.image_id} of {annotations} is missing: {record.path}")


def select_readable(records: Sequence[ImageRecord], annotations: Path) -> list[ImageRecord]:
    """The records of `annotations` whose pictures can be read; a warning for each of the others.

    Raises ValueError where none is left."""
    readable = []
    for record, error in zip(records, read_errors(records, annotations), strict=True):
        if error is None:
            readable.append(record)
        else:
            log.warning(f"left out: {error}")
    if not readable:
        raise ValueError(f"{annotations} must have at least one picture that can be read, got none of {len(records)}")
    return readable


def read_errors(records: Sequence[ImageRecord], annotations: Path) -> Iterator[OSError | ValueError | None]:
    """For each record of `annotations` the error that reading its whole picture raises, if it does."""

    def read(record: ImageRecord) -> OSError | ValueError | None:
        try:
            require_picture(record, annotations)
            read_record(record)
        except (OSError, ValueError) as error:
            return error
        return None

    with ThreadPoolExecutor(os.cpu_count()) as threads, Progress("pictures", len(records), unit="image") as progress:
        for error in threads.map(read, records):
            progress.step()
            yield error
