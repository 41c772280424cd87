"""From a picture to the people in it: the one way that prediction and evaluation share."""

from __future__ import annotations

import itertools
import math
import os
import time
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from dgcn_ext.arguments import INT_MAX, check_at_least, check_integer
from dgcn_ext.checks import check_flag
from dgcn_ext.decoder import DecoderConfig, PifPafDecoder

from ..codec import PifPafCodec
from ..data.images import EncodedImage, read_image
from ..data.transforms import Preprocess, resize_pad
from ..model.checkpoint import DEFAULT_CHECKPOINT, load_model
from ..model.network import DGCN
from ..records import Category, Pose
from ..sizes import check_size
from ..skeleton import Skeleton

if TYPE_CHECKING:
    from .video import VideoFrame, VideoSource

DEFAULT_LONG_EDGE = 513
"""Network input in pixels where the checkpoint does not say which one it was evaluated at."""

Source = EncodedImage | np.ndarray
"""Path of a picture, the content of such a file, a picture of Pillow's, or uint8 [H, W, 3] RGB."""

_IMPORTED_BY = os.getpid()


@dataclass(frozen=True)
class PictureFields:
    """The decoder's input for one picture, and how its coordinates are brought back to the picture.

    pif: float32 [K, 5, h, w].
    paf: float32 [M, 8, h, w].
    preprocess: of the picture.
    """

    pif: np.ndarray
    paf: np.ndarray
    preprocess: Preprocess


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
    `predictor.batch(pictures)` iterates over those of many. What is found in a picture does not depend on its batch.

    A picture is a path (str or os.PathLike), the content of such a file (bytes), a picture of Pillow's, or a uint8
    array [H, W, 3] whose channels are RGB. All but the array are turned upright as their EXIF orientation says.

    On a CPU a predictor also works in a process that is forked from the one that built it. Torch has one thread there.

    Attributes: `skeleton` of the keypoints, `category` of what is found, `metadata` of the checkpoint, `long_edge` in
    pixels, and the `timings` of the last call.
    """

    def __init__(
        self,
        model: DGCN | str | os.PathLike[str] | None = None,
        *,
        device: str | torch.device = "cpu",
        long_edge: int | None = None,
        batch_size: int = 1,
        config: DecoderConfig | None = None,
        flip_test: bool = False,
    ) -> None:
        """
        Args:
            model: of which a folded copy is taken, or the file of `dgcn.model.checkpoint.save_model` that holds it;
                default: the model that ships with dgcn.
            device: where the network runs.
            long_edge: pictures are scaled until their long edge has this many pixels, 16n+1; default: what the
                checkpoint was evaluated at, 513 for a model.
            batch_size: pictures in one pass of the network, where they have the same shape.
            config: constants of the decoder; default: what the checkpoint was evaluated with.
            flip_test: average the fields of every picture with those of its mirror image: better, at twice the time.

        Raises:
            FileNotFoundError, ValueError: no such checkpoint or a damaged one, no such device, or a bad number.
            TypeError: an argument of another type.
        """
        _use_one_thread_if_forked()
        self.device = check_device(device)
        self.batch_size = check_at_least("batch_size", batch_size, 1)
        if long_edge is not None:
            _check_long_edge(long_edge)
        check_flag("flip_test", flip_test)
        self.flip_test = flip_test
        self.metadata: dict[str, Any] = {}
        self.category = Category()
        default_long_edge, default_config = DEFAULT_LONG_EDGE, DecoderConfig()
        if not isinstance(model, nn.Module):
            path = DEFAULT_CHECKPOINT if model is None else model
            if not isinstance(path, str | os.PathLike):
                raise TypeError(f"model must be a DGCN or the path of a checkpoint, got {path!r}")
            model, self.metadata = load_model(path)
            default_long_edge, default_config, self.category = _read_defaults(path, self.metadata)
        self.long_edge = default_long_edge if long_edge is None else long_edge
        self.skeleton = _skeleton_of(model)
        if flip_test:
            _check_mirror(self.skeleton)
        self._decoder = self._make_decoder(default_config if config is None else config)
        self._completing_decoder = self._make_decoder(replace(self._decoder.config, force_complete=True))
        largest = math.isqrt(self._decoder.config.max_map_pixels)
        if self.long_edge > largest:
            raise ValueError(f"long_edge must be at most {largest}, the decoder's largest square, got {self.long_edge}")
        self.timings = Timings()
        self._model = model.fold().to(self.device).to(memory_format=torch.channels_last)
        self._codec = PifPafCodec(self.skeleton, model.stride)

    @classmethod
    def from_checkpoint(cls, path: str | os.PathLike[str] | None = None, **options: Any) -> Predictor:
        """`Predictor(path, **options)`, for code that is to say that it loads a file."""
        if isinstance(path, nn.Module):
            raise TypeError(f"path must be that of a checkpoint, got a {type(path).__name__}")
        return cls(path, **options)

    @property
    def config(self) -> DecoderConfig:
        """Constants of the decoder."""
        return self._decoder.config

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
        return self.decode(self.fields([source]))[0]

    def batch(self, sources: Iterable[Source], *, force_complete: bool = False) -> Iterator[list[Pose]]:
        """The persons of every picture, in order; `sources` is read `batch_size` pictures at a time.

        Args:
            sources: pictures.
            force_complete: give every person every keypoint, guessed where the decoder found none.

        Raises:
            TypeError: `sources` is one picture, or nothing to iterate over.
            OSError, ValueError, TypeError, MemoryError: as for one picture, when its turn comes.
        """
        is_one_array = isinstance(sources, np.ndarray) and sources.ndim < 4
        if isinstance(sources, EncodedImage) or is_one_array or not isinstance(sources, Iterable):
            raise TypeError(f"sources must be several pictures, as a list or an iterator, got {type(sources).__name__}")
        return self._batch(sources, force_complete)

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
        start = time.perf_counter()
        resized = [resize_pad(_to_image(source), self.long_edge) for source in sources]
        canvases = [canvas for canvas, _ in resized]
        # Only canvases of one shape share a pass: more padding would change what the network sees.
        groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, canvas in enumerate(canvases):
            groups[canvas.shape].append(index)
        self.timings.num_images += len(sources)
        self.timings.preprocess_ms += _milliseconds_since(start)

        found: dict[int, PictureFields] = {}
        for members in groups.values():
            heads = self._run(np.stack([canvases[i] for i in members]))
            start = time.perf_counter()
            for i, (pif, paf) in zip(members, self._codec.decode_fields(*heads), strict=True):
                found[i] = PictureFields(pif, paf, resized[i][1])
            self.timings.decoder_ms += _milliseconds_since(start)
        return [found[i] for i in range(len(sources))]

    def decode(
        self,
        fields: Sequence[PictureFields],
        *,
        force_complete: bool = False,
        config: DecoderConfig | None = None,
    ) -> list[list[Pose]]:
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
        persons = decoder.batch([(picture.pif, picture.paf) for picture in fields], self._codec.stride)
        self.timings.decoder_ms += _milliseconds_since(start)
        return [self._to_poses(found, picture.preprocess) for found, picture in zip(persons, fields, strict=True)]

    def _batch(self, sources: Iterable[Source], force_complete: bool) -> Iterator[list[Pose]]:
        self.timings = Timings()
        remaining = iter(sources)
        while chunk := list(itertools.islice(remaining, self.batch_size)):
            yield from self.decode(self.fields(chunk), force_complete=force_complete)

    def _run(self, canvases: np.ndarray) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
        """uint8 [B, H, W, 3] to the arguments of `PifPafCodec.decode_fields`."""
        _use_one_thread_if_forked()
        start = time.perf_counter()
        count, height, width = canvases.shape[:3]
        try:
            with torch.inference_mode():
                images = torch.from_numpy(canvases).permute(0, 3, 1, 2).to(self.device)
                output = self._model(torch.cat([images, images.flip(-1)]) if self.flip_test else images)
                pif, paf = output.pif.cpu(), output.paf.cpu()  # waits for the device
        except RuntimeError as error:  # of a CPU's memory torch knows no OutOfMemoryError
            if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
                raise
            raise MemoryError(
                f"{self.device} has too little memory for a batch of {count} at {width} x {height} px:"
                " make batch_size or long_edge smaller"
            ) from error
        self.timings.network_ms += _milliseconds_since(start)
        return pif[:count], paf[:count], (pif[count:], paf[count:]) if self.flip_test else None

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


def _skeleton_of(model: nn.Module) -> Skeleton:
    skeleton = getattr(getattr(model, "config", None), "skeleton", None)
    if not isinstance(skeleton, Skeleton):
        raise TypeError(f"model must be a DGCN or the path of a checkpoint, got {type(model).__name__}")
    return skeleton


def _check_mirror(skeleton: Skeleton) -> None:
    try:
        skeleton.mirror_limbs()
    except ValueError as error:
        raise ValueError(f"flip_test needs a skeleton that is its own mirror image: {error}") from error


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
