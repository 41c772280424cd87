"""From a picture to the people in it: the one path that prediction and evaluation share."""

from __future__ import annotations

import itertools
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from dgcn_ext.decoder import DecoderConfig, PifPafDecoder

from .checkpoint import DEFAULT_CHECKPOINT, load_model
from .coco import CocoId, ImageRecord, read_coco
from .codec import PifPafCodec
from .images import read_image
from .metrics import evaluate_keypoints
from .model import DGCN
from .transforms import Preprocess, normalize_size, resize_pad

DEFAULT_LONG_EDGE = 513
"""Network input in pixels where the checkpoint does not say which one it was evaluated at."""

Source = str | os.PathLike[str] | np.ndarray
"""Path of a picture, or uint8 [H, W, 3] RGB."""


@dataclass(frozen=True, eq=False)
class Pose:
    """One person.

    keypoints: float32 [K, 2], (x, y) in pixels of the original picture; (0, 0) where not found.
    scores: float32 [K], confidence of each keypoint in [0, 1]; 0 where not found.
    score: confidence in the person, by which COCO ranks it: a mean of `scores` in which the best three count more.
    """

    keypoints: np.ndarray
    scores: np.ndarray
    score: float

    @property
    def box(self) -> tuple[float, float, float, float]:
        """(x, y, width, height) in pixels, around the keypoints that were found."""
        found = self.keypoints[self.scores > 0]
        (x, y), (right, bottom) = found.min(axis=0).tolist(), found.max(axis=0).tolist()
        return x, y, right - x, bottom - y

    def to_coco(self, image_id: CocoId = 0, category_id: CocoId = 1) -> dict[str, Any]:
        """A COCO keypoint result, JSON-serialisable; v is 2 for a keypoint that was found and 0 otherwise.

        `keypoint_scores` is an addition to the format, and so are the fields that make it a COCO annotation as well.
        """
        found = self.scores > 0
        keypoints = np.column_stack([self.keypoints, np.where(found, 2, 0)])
        box = self.box
        return {
            "image_id": image_id,
            "category_id": category_id,
            "keypoints": [round(value, 2) for value in keypoints.ravel().tolist()],
            "num_keypoints": int(found.sum()),
            "bbox": [round(value, 2) for value in box],
            "area": round(box[2] * box[3], 2),
            "iscrowd": 0,
            "score": round(self.score, 6),
            "keypoint_scores": [round(value, 4) for value in self.scores.tolist()],
        }


@dataclass
class Timings:
    """Time spent on the pictures of one call, in milliseconds, all pictures together.

    preprocess_ms: reading and scaling.
    network_ms: to the device, through the network, and back.
    decoder_ms: from the heads to persons.
    """

    num_images: int = 0
    preprocess_ms: float = 0.0
    network_ms: float = 0.0
    decoder_ms: float = 0.0


class Predictor:
    """Finds people with the model of a checkpoint.

    `predictor(picture)` returns the persons of one picture, the most certain first; `predictor.batch(pictures)`
    iterates over those of many. A picture gives the same result alone and in any batch.

    Attributes: `skeleton` of the keypoints, `metadata` of the checkpoint, `long_edge` in pixels, and the `timings` of
    the last call.
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike[str] | None = None,
        *,
        device: str | torch.device = "cpu",
        long_edge: int | None = None,
        batch_size: int = 1,
        config: DecoderConfig | None = None,
    ) -> None:
        """
        Args:
            checkpoint: a file of `dgcn.checkpoint.save_model`; default: the model that ships with dgcn.
            device: where the network runs.
            long_edge: pictures are scaled until their long edge has this many pixels, 16n+1; default: what the
                checkpoint was evaluated at.
            batch_size: pictures in one pass of the network, where they have the same shape.
            config: constants of the decoder; default: what the checkpoint was evaluated with.

        Raises:
            FileNotFoundError, ValueError: no such checkpoint or a damaged one, no such device, or a bad number.
        """
        device = check_device(device)
        model, metadata = load_model(DEFAULT_CHECKPOINT if checkpoint is None else checkpoint)
        if long_edge is None:
            long_edge = metadata.get("long_edge", DEFAULT_LONG_EDGE)
        if config is None:
            config = DecoderConfig(**metadata.get("decoder", {}))
        self._prepare(model, metadata, device, long_edge, batch_size, config)

    @classmethod
    def from_model(
        cls,
        model: DGCN,
        *,
        device: str | torch.device = "cpu",
        long_edge: int = DEFAULT_LONG_EDGE,
        batch_size: int = 1,
        config: DecoderConfig | None = None,
    ) -> Predictor:
        """The predictor of a model in memory, of which it takes a folded copy."""
        predictor = cls.__new__(cls)
        predictor._prepare(model, {}, check_device(device), long_edge, batch_size, config)
        return predictor

    def _prepare(
        self,
        model: DGCN,
        metadata: dict[str, Any],
        device: torch.device,
        long_edge: int,
        batch_size: int,
        config: DecoderConfig | None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.device = device
        self.long_edge = normalize_size(long_edge)
        self.batch_size = batch_size
        self.metadata = metadata
        self.skeleton = model.config.skeleton
        self.timings = Timings()
        self._model = model.fold().to(self.device).to(memory_format=torch.channels_last)
        self._codec = PifPafCodec(self.skeleton, model.stride)
        self._decoder = self._make_decoder(config or DecoderConfig())
        self._completing_decoder = self._make_decoder(replace(config or DecoderConfig(), force_complete=True))

    def _make_decoder(self, config: DecoderConfig) -> PifPafDecoder:
        return PifPafDecoder(self.skeleton.num_keypoints, self.skeleton.limbs, config)

    def __call__(self, source: Source) -> list[Pose]:
        """The persons in one picture, given as a path or as uint8 [H, W, 3] RGB; empty if there is nobody.

        Raises:
            OSError, ValueError: a file that is missing or not a picture, or an array of another type or shape.
        """
        self.timings = Timings()
        return self._predict([source], self._decoder)[0]

    def batch(self, sources: Iterable[Source]) -> Iterator[list[Pose]]:
        """The persons of every picture, in order; `sources` is read `batch_size` pictures at a time.

        Raises:
            OSError, ValueError: as for one picture, when its turn comes.
        """
        return self._batch(sources, self._decoder)

    def predict_dataset(
        self, images: str | Path, annotations: str | Path, *, force_complete: bool = True, progress: bool = False
    ) -> list[dict[str, Any]]:
        """COCO keypoint results on every picture of a COCO keypoint set.

        Args:
            images: folder of the pictures, read as `ImageRecord.read` says.
            annotations: the set's JSON, checked as for training, but only its list of pictures is used.
            force_complete: give every person every keypoint. OKS counts a missing keypoint as wrong, so a guess can
                only gain; PifPaf is evaluated in this way.
            progress: show a progress bar on stderr, if that is a terminal.

        Returns:
            Results with the image ids and the category id of the set.

        Raises:
            OSError, ValueError: a JSON or a picture that is missing or damaged.
        """
        records = read_coco(images, annotations, self.skeleton)
        return self.predict_records(records, force_complete=force_complete, progress=progress)

    def predict_records(
        self, records: Sequence[ImageRecord], *, force_complete: bool = True, progress: bool = False
    ) -> list[dict[str, Any]]:
        """`predict_dataset` of a set that `read_coco` has read.

        All files are looked at before the network runs, so that most of what is wrong with one costs no work."""
        for record in records:
            record.check()
        decoder = self._completing_decoder if force_complete else self._decoder
        predictions = self._batch((record.read() for record in records), decoder)
        bar = tqdm(predictions, total=len(records), unit="image", leave=False, disable=None if progress else True)
        return [
            pose.to_coco(record.image_id, record.category_id)
            for record, poses in zip(records, bar, strict=True)
            for pose in poses
        ]

    def evaluate(self, images: str | Path, annotations: str | Path) -> dict[str, float]:
        """The ten numbers of `evaluate_keypoints` on a COCO keypoint set; arguments as for `predict_dataset`."""
        records = read_coco(images, annotations, self.skeleton)
        return evaluate_keypoints(records, self.predict_records(records), sigmas=self.skeleton.sigmas)

    def _batch(self, sources: Iterable[Source], decoder: PifPafDecoder) -> Iterator[list[Pose]]:
        self.timings = Timings()
        remaining = iter(sources)
        while chunk := list(itertools.islice(remaining, self.batch_size)):
            yield from self._predict(chunk, decoder)

    def _predict(self, sources: Sequence[Source], decoder: PifPafDecoder) -> list[list[Pose]]:
        start = time.perf_counter()
        canvases, preprocesses = zip(
            *(resize_pad(_to_image(source), self.long_edge) for source in sources), strict=True
        )
        # Only canvases of one shape share a pass: more padding would change what the network sees.
        groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, canvas in enumerate(canvases):
            groups[canvas.shape].append(index)
        self.timings.num_images += len(sources)
        self.timings.preprocess_ms += _milliseconds_since(start)

        found: list[list[Pose]] = [[] for _ in sources]
        for members in groups.values():
            batch = np.stack([canvases[i] for i in members])
            for index, persons in zip(members, self._find(batch, decoder), strict=True):
                found[index] = self._to_poses(persons, preprocesses[index])
        return found

    def _find(self, canvases: np.ndarray, decoder: PifPafDecoder) -> list[np.ndarray]:
        """uint8 [B, H, W, 3] to the persons of each, float32 [P, K, 4] (confidence, x px, y px, scale px)."""
        start = time.perf_counter()
        with torch.inference_mode():
            images = torch.from_numpy(canvases).permute(0, 3, 1, 2).to(self.device)
            output = self._model(images)
            pif, paf = output.pif.cpu(), output.paf.cpu()  # waits for the device
        self.timings.network_ms += _milliseconds_since(start)

        start = time.perf_counter()
        persons = decoder.batch(self._codec.decode_fields(pif, paf), self._codec.stride)
        self.timings.decoder_ms += _milliseconds_since(start)
        return persons

    def _to_poses(self, persons: np.ndarray, preprocess: Preprocess) -> list[Pose]:
        """[P, K, 4] (confidence, x px, y px, scale px) of the network's input to poses in the original picture."""
        keypoints = preprocess.to_original(persons[:, :, 1:3]).astype(np.float32)
        person_scores = self._decoder.person_scores(persons).tolist()
        return [Pose(*each) for each in zip(keypoints, persons[:, :, 0], person_scores, strict=True)]


def check_device(device: str | torch.device) -> torch.device:
    """`device` as torch's, checked to exist here. Raises ValueError."""
    try:
        checked = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device must be 'cpu', 'cuda' or 'cuda:N', got '{device}'") from error
    if checked.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device '{device}' is not available: this torch finds no CUDA GPU")
    if checked.type == "cuda" and (checked.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device '{device}' is not available: there are {torch.cuda.device_count()} GPUs, from cuda:0")
    return checked


def _to_image(source: Source) -> np.ndarray:
    return source if isinstance(source, np.ndarray) else read_image(source, upright=True)


def _milliseconds_since(start: float) -> float:
    return 1000 * (time.perf_counter() - start)
