"""Types of the compiled module (csrc/pifpaf_bindings.cpp); use dgcn_ext.decoder and dgcn_ext.encoder instead."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_KEYPOINTS: int

class DecoderConfig:
    def validate(self) -> None: ...
    def __setattr__(self, name: str, value: Any) -> None: ...

class Decoder:
    def __init__(self, num_keypoints: int, limbs: Sequence[tuple[int, int]], config: DecoderConfig) -> None: ...
    def decode(self, pif: NDArray[Any], paf: NDArray[Any], stride: int) -> NDArray[np.float32]: ...
    def inspect(
        self, pif: NDArray[Any], paf: NDArray[Any], stride: int
    ) -> tuple[NDArray[np.float32], NDArray[np.void], NDArray[np.void]]: ...
    def stage_times(self, pif: NDArray[Any], paf: NDArray[Any], stride: int) -> dict[str, float]: ...
    def decode_batch(
        self, images: Sequence[tuple[NDArray[Any], NDArray[Any]]], stride: int, threads: int
    ) -> list[NDArray[np.float32]]: ...
    def person_scores(self, persons: NDArray[np.float32]) -> NDArray[np.float32]: ...

class Encoder:
    def __init__(
        self,
        num_keypoints: int,
        limbs: Sequence[tuple[int, int]],
        sigmas: Sequence[float],
        upright_pose: Sequence[Sequence[float]],
    ) -> None: ...
    def shapes(
        self, batch: tuple[int, ...], height: int, width: int, stride: int, node_strides: Sequence[int]
    ) -> list[list[int]]: ...
    def encode(
        self,
        pictures: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]],
        batch: tuple[int, ...],
        height: int,
        width: int,
        stride: int,
        node_strides: Sequence[int],
        threads: int,
        out: Sequence[NDArray[np.float32]] | None,
    ) -> list[NDArray[np.float32]]: ...
