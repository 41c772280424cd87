"""What a predictor finds on a data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..data.images import check_record, read_record
from ..predict.predictor import Predictor
from ..progress import Progress
from ..records import ImageRecord


def predict_records(
    predictor: Predictor, records: Sequence[ImageRecord], *, force_complete: bool = True, progress: bool = False
) -> list[dict[str, Any]]:
    """COCO keypoint results on every picture of a data set, with its ids of images and category.

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
    results = []
    with Progress("evaluation", len(records), unit="image", shown=progress) as steps:
        for record, poses in zip(records, predictions, strict=True):
            results += [pose.to_coco(record.image_id, record.category_id) for pose in poses]
            steps.step()
    return results
