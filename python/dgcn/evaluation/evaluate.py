"""What a predictor finds on a data set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..data.images import check_record, read_record
from ..predict.predictor import Prediction, Predictor
from ..progress import Progress
from ..records import ImageRecord


def predict_records(
    predictor: Predictor, records: Sequence[ImageRecord], *, force_complete: bool = True, progress: bool = False
) -> list[dict[str, Any]]:
    """COCO keypoint results on every picture of a data set, with its ids of images and category.

    Arguments and errors are those of `predict_each`."""
    predictions = predict_each(predictor, records, force_complete=force_complete, progress=progress)
    return [pose.to_coco(record.image_id, record.category_id) for record, poses in predictions for pose in poses]


def predict_each(
    predictor: Predictor, records: Sequence[ImageRecord], *, force_complete: bool = True, progress: bool = False
) -> Iterator[tuple[ImageRecord, Prediction]]:
    """The persons in every picture of a data set.

    The header of every file is read before the network runs, so that most bad files are found before the work.

    Args:
        predictor: what finds the persons.
        records: the pictures; their annotations are not used.
        force_complete: give every person every keypoint. OKS counts a missing keypoint as wrong, so a guess can only
            gain; PifPaf is evaluated in this way.
        progress: show a progress bar on stderr; where that is no terminal, log a line now and then.

    Raises:
        OSError, ValueError: a picture that is missing, damaged, or of another size than is annotated.
    """
    for record in records:
        check_record(record)
    predictions = predictor.batch((read_record(record) for record in records), force_complete=force_complete)
    with Progress("evaluation", len(records), unit="image", shown=progress) as steps:
        for record, prediction in zip(records, predictions, strict=True):
            yield record, prediction
            steps.step()
