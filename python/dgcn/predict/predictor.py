"""From a picture to the people in it: the one path that prediction and evaluation share."""

from __future__ import annotations

import itertools
import math
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dgcn_ext.arguments import INT_MAX, check_integer
from dgcn_ext.decoder import DecoderConfig, PifPafDecoder

from ..codec import PifPafCodec
from ..data.coco_format import CocoId, ImageRecord, read_coco
from ..data.images import EncodedImage, read_image
from ..data.transforms import Preprocess, resize_pad
from ..evaluation.oks import evaluate_keypoints
from ..model.checkpoint import DEFAULT_CHECKPOINT, load_model
from ..model.network import DGCN
from ..progress import Progress
from ..sizes import normalize_size

DEFAULT_LONG_EDGE = 513
"""Network input in pixels where the checkpoint does not say which one it was evaluated at."""

Source = EncodedImage | np.ndarray
"""Path of a picture, the content of such a file, a picture of Pillow's, or uint8 [H, W, 3] RGB."""

_IMPORTED_BY = os.getpid()


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
        """(x, y, width, height) in pixels, around the keypoints that were found; zeros where none was."""
        found = self.keypoints[self.scores > 0]
        if not len(found):
            return 0.0, 0.0, 0.0, 0.0
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

    `predictor(picture)` returns the persons of one picture, the one of the highest score first;
    `predictor.batch(pictures)` iterates over those of many. A picture gives the same result alone and in any batch.

    A picture is a path (str or os.PathLike), the content of such a file (bytes), a picture of Pillow's, or a uint8
    array [H, W, 3] whose channels are RGB. All but the array are turned upright as their EXIF orientation says.

    On a CPU a predictor also works in a process that is forked from the one that built it. Torch has one thread there.

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
            checkpoint: a file of `dgcn.model.checkpoint.save_model`; default: the model that ships with dgcn.
            device: where the network runs.
            long_edge: pictures are scaled until their long edge has this many pixels, 16n+1; default: what the
                checkpoint was evaluated at.
            batch_size: pictures in one pass of the network, where they have the same shape.
            config: constants of the decoder; default: what the checkpoint was evaluated with.

        Raises:
            FileNotFoundError, ValueError: no such checkpoint or a damaged one, no such device, or a bad number.
            TypeError: an argument of another type.
        """
        _use_one_thread_if_forked()
        device = check_device(device)
        path = DEFAULT_CHECKPOINT if checkpoint is None else checkpoint
        if not isinstance(path, str | os.PathLike):
            raise TypeError(f"checkpoint must be the path of a file, got {path!r}")
        model, metadata = load_model(path)
        try:
            default_long_edge = _check_long_edge(metadata.get("long_edge", DEFAULT_LONG_EDGE))
            default_config = DecoderConfig(**metadata.get("decoder", {}))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} has metadata that this version of dgcn cannot use: {error}") from error
        if long_edge is None:
            long_edge = default_long_edge
        self._prepare(model, metadata, device, long_edge, batch_size, default_config if config is None else config)

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
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a DGCN, got {type(model).__name__}")
        _use_one_thread_if_forked()
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
        self.batch_size = check_integer("batch_size", batch_size, -INT_MAX, INT_MAX)
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.skeleton = model.config.skeleton
        self._decoder = self._make_decoder(DecoderConfig() if config is None else config)
        self._completing_decoder = self._make_decoder(replace(self._decoder.config, force_complete=True))
        self.long_edge = _check_long_edge(long_edge)
        largest = math.isqrt(self._decoder.config.max_map_pixels)
        if self.long_edge > largest:
            raise ValueError(f"long_edge must be at most {largest}, the decoder's largest square, got {long_edge}")
        self.device = device
        self.metadata = metadata
        self.timings = Timings()
        self._model = model.fold().to(self.device).to(memory_format=torch.channels_last)
        self._codec = PifPafCodec(self.skeleton, model.stride)

    def _make_decoder(self, config: DecoderConfig) -> PifPafDecoder:
        return PifPafDecoder(self.skeleton.num_keypoints, self.skeleton.limbs, config)

    def __call__(self, source: Source) -> list[Pose]:
        """The persons in one picture; empty if there is nobody.

        Raises:
            OSError, ValueError: a file that is missing or not a picture, or an array of another type or shape.
            TypeError: not a picture in any of the forms that are accepted.
            MemoryError: too little memory for `batch_size` pictures of this size.
        """
        self.timings = Timings()
        return self._predict([source], self._decoder)[0]

    def batch(self, sources: Iterable[Source]) -> Iterator[list[Pose]]:
        """The persons of every picture, in order; `sources` is read `batch_size` pictures at a time.

        Raises:
            TypeError: `sources` is one picture, or nothing to iterate over.
            OSError, ValueError, TypeError, MemoryError: as for one picture, when its turn comes.
        """
        if isinstance(sources, EncodedImage) or not isinstance(sources, Iterable):
            raise TypeError(f"sources must be several pictures, as a list or an iterator, got {type(sources).__name__}")
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
            progress: show a progress bar on stderr; where that is no terminal, log a line now and then.

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
        results = []
        with Progress("evaluation", len(records), unit="image", shown=progress) as steps:
            for record, poses in zip(records, predictions, strict=True):
                results += [pose.to_coco(record.image_id, record.category_id) for pose in poses]
                steps.step()
        return results

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
        _use_one_thread_if_forked()
        start = time.perf_counter()
        try:
            with torch.inference_mode():
                images = torch.from_numpy(canvases).permute(0, 3, 1, 2).to(self.device)
                output = self._model(images)
                pif, paf = output.pif.cpu(), output.paf.cpu()  # waits for the device
        except RuntimeError as error:  # of a CPU's memory torch knows no OutOfMemoryError
            if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
                raise
            count, height, width = canvases.shape[:3]
            raise MemoryError(
                f"{self.device} has too little memory for a batch of {count} at {width} x {height} px:"
                " make batch_size or long_edge smaller"
            ) from error
        self.timings.network_ms += _milliseconds_since(start)

        start = time.perf_counter()
        persons = decoder.batch(self._codec.decode_fields(pif, paf), self._codec.stride)
        self.timings.decoder_ms += _milliseconds_since(start)
        return persons

    def _to_poses(self, persons: np.ndarray, preprocess: Preprocess) -> list[Pose]:
        """[P, K, 4] (confidence, x px, y px, scale px) of the network's input to poses in the original picture, those
        of the highest scores first."""
        keypoints = preprocess.to_original(persons[:, :, 1:3]).astype(np.float32)
        person_scores = self._decoder.person_scores(persons).tolist()
        poses = [Pose(*each) for each in zip(keypoints, persons[:, :, 0], person_scores, strict=True)]
        return sorted(poses, key=lambda pose: pose.score, reverse=True)


def check_device(device: str | torch.device) -> torch.device:
    """`device` as torch's, checked to exist here and to work. Raises ValueError."""
    try:
        checked: torch.device | None = torch.device(device)
    except (RuntimeError, TypeError):
        checked = None
    if checked is None or checked.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be 'cpu', 'cuda' or 'cuda:N', got '{device}'")
    if checked.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device '{device}' is not available: this torch finds no CUDA GPU; 'cpu' works")
    if checked.type == "cuda" and (checked.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device '{device}' is not available: there are {torch.cuda.device_count()} GPUs, from cuda:0")
    try:
        torch.zeros(1, device=checked).add_(1)
    except RuntimeError as error:  # no kernels for this GPU, no memory left on it, or a fork of a process that used it
        raise ValueError(f"device '{device}' cannot be used: {str(error).splitlines()[0]}") from error
    return checked


def _use_one_thread_if_forked() -> None:
    """In a process that was forked since this module was imported, keep torch from using more than one thread.

    The threads that torch has started before a fork are missing after it, and torch would wait for them forever."""
    if os.getpid() != _IMPORTED_BY:
        torch.set_num_threads(1)


def _check_long_edge(long_edge: int) -> int:
    return normalize_size(check_integer("long_edge", long_edge, -INT_MAX, INT_MAX))


def _to_image(source: Source) -> np.ndarray:
    if isinstance(source, np.ndarray):
        return source
    if not isinstance(source, EncodedImage):
        raise TypeError(
            "a picture must be a path, the bytes of a file, a picture of Pillow's or a uint8 array [H, W, 3] (RGB),"
            f" got {type(source).__name__}"
        )
    return read_image(source, upright=True)


def _milliseconds_since(start: float) -> float:
    return 1000 * (time.perf_counter() - start)
