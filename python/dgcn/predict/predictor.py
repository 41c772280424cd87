"""From a picture to the people in it: the one way that prediction and evaluation share."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from dataclasses import astuple, dataclass, replace
from itertools import islice
from operator import add
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

import numpy as np

from dgcn_ext.arguments import INT_MAX, check_at_least, check_flag, check_integer
from dgcn_ext.decoder import DecoderConfig, PifPafDecoder

from ..data.images import EncodedImage, read_image
from ..data.transforms import Preprocess, fit_pad, resize_pad
from ..records import Category, Pose
from ..sizes import check_size
from .network import Network, load_network

if TYPE_CHECKING:
    import torch

    from ..model.network import DGCN
    from .video import VideoFrame, VideoSource

DEFAULT_LONG_EDGE = 513
"""Network input in pixels where the checkpoint does not say which one it was evaluated at."""

Source = EncodedImage | np.ndarray
"""Path of a picture, the content of such a file, a picture of Pillow's, or uint8 [H, W, 3] RGB."""


@dataclass
class Timings:
    """Time spent on one picture, in milliseconds; of what a batch does at once, its share.

    read_ms: opening and decoding the file.
    scale_ms: to the size of the network's input.
    network_ms: to the device, through the network, and back.
    decoder_ms: from the heads to persons.
    """

    read_ms: float = 0.0
    scale_ms: float = 0.0
    network_ms: float = 0.0
    decoder_ms: float = 0.0

    def __add__(self, other: Timings) -> Timings:
        return Timings(*map(add, astuple(self), astuple(other)))


class Prediction(list[Pose]):
    """The persons in a picture, the one of the highest score first, and the `timings` of finding them."""

    def __init__(self, poses: Iterable[Pose], timings: Timings) -> None:
        super().__init__(poses)
        self.timings = timings


@dataclass(frozen=True)
class PictureFields:
    """The decoder's input for one picture, and how its coordinates are brought back to the picture.

    pif: [K, 5, h, w].
    paf: [M, 7, h, w] of heads or [M, 8, h, w] of fields, see `PifPafDecoder`.
    preprocess: of the picture.
    timings: so far.
    """

    pif: np.ndarray
    paf: np.ndarray
    preprocess: Preprocess
    timings: Timings


@dataclass(frozen=True)
class _Canvas:
    """A picture as the network takes it, uint8 [H, W, 3]."""

    pixels: np.ndarray
    preprocess: Preprocess
    timings: Timings


class _Reading:
    """Calls `read` in a thread, once for each `submit`. A source may keep it waiting for ever: nobody waits for it."""

    def __init__(self, read: Callable[[], list[_Canvas]]) -> None:
        self._read = read
        self._requests: SimpleQueue[Future[list[_Canvas]] | None] = SimpleQueue()
        self._submitted: list[Future[list[_Canvas]]] = []
        Thread(target=self._work, daemon=True).start()

    def submit(self) -> Future[list[_Canvas]]:
        self._submitted = [future for future in self._submitted if not future.done()]
        self._submitted.append(Future())
        self._requests.put(self._submitted[-1])
        return self._submitted[-1]

    def stop(self) -> None:
        """Whoever waits for a result gets CancelledError, and the thread ends once `read` returns."""
        for future in self._submitted:
            future.cancel()
        self._requests.put(None)

    def _work(self) -> None:
        while future := self._requests.get():
            if future.cancelled():
                continue
            with contextlib.suppress(InvalidStateError):  # cancelled meanwhile
                try:
                    canvases = self._read()
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(canvases)


class Predictor:
    """Finds people with the model of a checkpoint.

    `predictor(picture)` returns the persons of one picture, the one of the highest score first;
    `predictor.batch(pictures)` iterates over those of many. What is found in a picture does not depend on its batch.

    A picture is a path (str or os.PathLike), the content of such a file (bytes), a picture of Pillow's, or a uint8
    array [H, W, 3] whose channels are RGB. All but the array are turned upright as their EXIF orientation says.

    On a CPU a predictor also works in a process that is forked from the one that built it. Torch has one thread there.

    Attributes: `network`, which another predictor can share, `skeleton` of the keypoints, `category` of what is found,
    `metadata` of the checkpoint, `long_edge` in pixels, `device`, and `hardware`, the device in words. `decoder` is
    that of the method `decode`, and `stride` the pixels of a field cell.
    """

    def __init__(
        self,
        model: DGCN | Network | str | os.PathLike[str] | None = None,
        *,
        device: str | torch.device = "cpu",
        long_edge: int | None = None,
        batch_size: int = 1,
        config: DecoderConfig | None = None,
        flip_test: bool = False,
    ) -> None:
        """
        Args:
            model: a DGCN, which stays as it is; the path of a checkpoint; the path of an .onnx file that `dgcn export`
                wrote, which needs onnxruntime and no torch; or any other `Network`. Default: the model that ships with
                dgcn.
            device: where the network runs; "cpu" for an .onnx file or another `Network`.
            long_edge: pictures are scaled until their long edge has this many pixels, 16n+1; default: what the
                checkpoint was evaluated at, 513 for a model.
            batch_size: pictures in one pass of the network, where they have the same shape.
            config: constants of the decoder; default: what the checkpoint was evaluated with.
            flip_test: average the fields of every picture with those of its mirror image: better, at twice the time.

        Raises:
            FileNotFoundError, ValueError: no such checkpoint or a damaged one, no such device, or a bad number.
            TypeError: an argument of another type.
            ImportError: an .onnx file without onnxruntime.
        """
        self.batch_size = check_at_least("batch_size", batch_size, 1)
        if long_edge is not None:
            _check_long_edge(long_edge)
        check_flag("flip_test", flip_test)
        self.network = _make_network(model, device, flip_test)
        self.device = str(device)
        self.hardware = self.network.hardware
        self.skeleton = self.network.skeleton
        self.stride = self.network.stride
        self.metadata = self.network.metadata
        name = getattr(self.network, "path", None) or f"the {type(model or self.network).__name__}"
        default_long_edge, default_config, self.category = _read_defaults(name, self.metadata)
        self.long_edge = default_long_edge if long_edge is None else long_edge
        if size := self.network.size:
            if long_edge not in (None, max(size)):
                raise ValueError(f"long_edge must be {max(size)}, as {name} has a fixed size, got {long_edge}")
            self.long_edge = max(size)
        self._decoder = self._make_decoder(default_config if config is None else config)
        self._completing_decoder = self._make_decoder(replace(self._decoder.config, force_complete=True))
        largest = math.isqrt(self._decoder.config.max_map_pixels)
        if self.long_edge > largest:
            raise ValueError(f"long_edge must be at most {largest}, the decoder's largest square, got {self.long_edge}")

    @classmethod
    def from_checkpoint(cls, path: str | os.PathLike[str] | None = None, **options: Any) -> Predictor:
        """`Predictor(path, **options)`, for code that is to say that it loads a file."""
        if path is not None and not isinstance(path, str | os.PathLike):
            raise TypeError(f"path must be that of a checkpoint, got a {type(path).__name__}")
        return cls(path, **options)

    @property
    def decoder(self) -> PifPafDecoder:
        return self._decoder

    @property
    def config(self) -> DecoderConfig:
        """Constants of the decoder."""
        return self._decoder.config

    def _make_decoder(self, config: DecoderConfig) -> PifPafDecoder:
        return PifPafDecoder(self.skeleton.num_keypoints, self.skeleton.limbs, config)

    def __call__(self, source: Source) -> Prediction:
        """The persons in one picture; empty if there is nobody.

        Raises:
            OSError, ValueError: a file that is missing or not a picture, or an array of another type or shape.
            TypeError: not a picture in any of the forms that are accepted.
            MemoryError: too little memory for `batch_size` pictures of this size.
        """
        return self.decode(self.fields([source]))[0]

    def batch(
        self, sources: Iterable[Source], *, force_complete: bool = False, on_the_way: int = 3
    ) -> Generator[Prediction, None, None]:
        """The persons of every picture, in order.

        Three threads read and scale pictures, run the network, and decode. The first one also iterates over `sources`,
        `batch_size` pictures at a time. It does not hold up a caller who stops early, but ends with the next picture.

        Args:
            sources: pictures.
            force_complete: give every person every keypoint, guessed where the decoder found none.
            on_the_way: batches that are read, run or decoded at the same time; 1: no picture is read before the persons
                of the one before are taken.

        Raises:
            TypeError: `sources` is one picture, or nothing to iterate over.
            OSError, ValueError, TypeError, MemoryError: as for one picture, when the turn of its batch comes.
        """
        is_one_array = isinstance(sources, np.ndarray) and sources.ndim < 4
        if isinstance(sources, EncodedImage) or is_one_array or not isinstance(sources, Iterable):
            raise TypeError(f"sources must be several pictures, as a list or an iterator, got {type(sources).__name__}")
        return self._batch(iter(sources), force_complete, check_at_least("on_the_way", on_the_way, 1))

    def stream(
        self,
        source: VideoSource,
        *,
        track: bool = False,
        frame_stride: int = 1,
        start: float = 0.0,
        duration: float | None = None,
        realtime: bool = False,
    ) -> Generator[VideoFrame, None, None]:
        """The persons in each frame of a video, as it is read: memory does not grow with its length.

        Args:
            source: path of a file, URL of a stream, or number of a camera.
            track: give persons ids that stay the same from frame to frame (`VideoFrame.track_ids`).
            frame_stride: take only every `frame_stride`-th frame.
            start: take frames from this time on, in seconds of the video.
            duration: take frames for this long, in seconds; default: to the end.
            realtime: keep up with the video: drop frames that come while the network is at work. Their numbers are
                missing in `VideoFrame.index`. Cameras and live streams are always read like this.

        Raises:
            OSError: no such file or camera, no permission, no answer.
            ValueError, TypeError: not a video, or a bad argument.
            ImportError: PyAV is not installed.
        """
        from .video import VideoReader, find_poses

        reader = VideoReader(source, frame_stride=frame_stride, start=start, duration=duration, realtime=realtime)
        return find_poses(self, reader, track=track)

    def fields(self, sources: Sequence[Source]) -> list[PictureFields]:
        """The decoder's input for each picture, which `decode` makes persons of.

        Raises as for one picture."""
        return self._run(self._scale(sources))

    def decode(
        self,
        fields: Sequence[PictureFields],
        *,
        force_complete: bool = False,
        config: DecoderConfig | None = None,
    ) -> list[Prediction]:
        """The persons of each picture.

        Args:
            fields: what the method `fields` returned, for any number of pictures.
            force_complete: give every person every keypoint, guessed where the decoder found none.
            config: constants of the decoder; default: the predictor's.
        """
        start = time.perf_counter()
        if config is not None:
            decoder = self._make_decoder(replace(config, force_complete=force_complete or config.force_complete))
        else:
            decoder = self._completing_decoder if force_complete else self._decoder
        persons = decoder.batch([(picture.pif, picture.paf) for picture in fields], self.stride)
        share = Timings(decoder_ms=_milliseconds_since(start) / max(1, len(fields)))
        return [
            Prediction(self._to_poses(found, picture.preprocess), picture.timings + share)
            for found, picture in zip(persons, fields, strict=True)
        ]

    def _batch(
        self, sources: Iterator[Source], force_complete: bool, on_the_way: int
    ) -> Generator[Prediction, None, None]:
        def run(canvases: Future[list[_Canvas]]) -> list[PictureFields]:
            return self._run(canvases.result())

        def decode(fields: Future[list[PictureFields]]) -> list[Prediction]:
            return self.decode(fields.result(), force_complete=force_complete)

        scaling = _Reading(lambda: self._scale(list(islice(sources, self.batch_size))))
        waiting: deque[Future[list[Prediction]]] = deque()
        with ThreadPoolExecutor(1) as running, ThreadPoolExecutor(1) as decoding:
            try:
                while True:
                    while len(waiting) < on_the_way:
                        waiting.append(decoding.submit(decode, running.submit(run, scaling.submit())))
                    predictions = waiting.popleft().result()
                    if not predictions:
                        return
                    yield from predictions
            finally:
                scaling.stop()
                for stage in (decoding, running):
                    stage.shutdown(wait=False, cancel_futures=True)

    def _scale(self, sources: Sequence[Source]) -> list[_Canvas]:
        canvases = []
        for source in sources:
            start = time.perf_counter()
            image, size = _to_image(source), self.network.size
            read_ms = _milliseconds_since(start)
            pixels, preprocess = fit_pad(image, *size) if size else resize_pad(image, self.long_edge)
            timings = Timings(read_ms=read_ms, scale_ms=_milliseconds_since(start) - read_ms)
            canvases.append(_Canvas(pixels, preprocess, timings))
        return canvases

    def _run(self, canvases: Sequence[_Canvas]) -> list[PictureFields]:
        # Only canvases of one shape share a pass: more padding would change what the network sees.
        groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, canvas in enumerate(canvases):
            groups[canvas.pixels.shape].append(index)
        found: dict[int, PictureFields] = {}
        for members in groups.values():
            start = time.perf_counter()
            heads = self.network(np.stack([canvases[i].pixels for i in members]))
            share = Timings(network_ms=_milliseconds_since(start) / len(members))
            for i, pif, paf in zip(members, *heads, strict=True):
                found[i] = PictureFields(pif, paf, canvases[i].preprocess, canvases[i].timings + share)
        return [found[i] for i in range(len(canvases))]

    def _to_poses(self, persons: np.ndarray, preprocess: Preprocess) -> list[Pose]:
        """[P, K, 4] (confidence, x px, y px, scale px) of the network's input to poses in the original picture, those
        of the highest scores first."""
        keypoints = preprocess.to_original(persons[:, :, 1:3]).astype(np.float32)
        person_scores = self._decoder.person_scores(persons).tolist()
        found = zip(keypoints, persons[:, :, 0], person_scores, strict=True)
        poses = [Pose(*each, self.skeleton.keypoints) for each in found]
        return sorted(poses, key=lambda pose: pose.score, reverse=True)


def _make_network(
    model: DGCN | Network | str | os.PathLike[str] | None, device: str | torch.device, flip_test: bool
) -> Network:
    if model is None or isinstance(model, str | os.PathLike):
        return load_network(model, device, flip_test=flip_test)
    if isinstance(model, Network):
        if flip_test:
            raise ValueError("flip_test must be False for a network, which averages by itself or does not, got True")
        return model
    from .torch_network import TorchNetwork

    return TorchNetwork(model, device, flip_test=flip_test)


def _read_defaults(path: str | os.PathLike[str], metadata: dict[str, Any]) -> tuple[int, DecoderConfig, Category]:
    """Long edge and decoder constants that a checkpoint was evaluated with, and the category of what it finds.

    Raises ValueError that names `path`."""
    try:
        long_edge = _check_long_edge(metadata.get("long_edge", DEFAULT_LONG_EDGE))
        config = DecoderConfig(**metadata.get("decoder", {}))
        entry = metadata.get("data", {}).get("category", {"id": 1, "name": "person"})
        return long_edge, config, Category(category_id=entry["id"], name=str(entry["name"]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} has metadata that this version of dgcn cannot use: {error}") from error


def _check_long_edge(long_edge: int) -> int:
    return check_size(check_integer("long_edge", long_edge, -INT_MAX, INT_MAX), "long_edge")


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
