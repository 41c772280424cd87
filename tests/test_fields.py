"""From a network's heads to fields in torch, alone and averaged with those of the mirror image."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from dgcn.codec import Output, PifPafCodec
from dgcn.data.transforms import transform_annotation
from dgcn.model.fields import FieldsModel
from dgcn.records import Annotation
from dgcn.skeleton import COCO, Skeleton
from dgcn_ext.reference import heads_to_fields

CODEC = PifPafCodec(COCO, 8)


class Heads(nn.Module):
    """A network that sees the same in every batch."""

    def __init__(self, pif: torch.Tensor, paf: torch.Tensor, skeleton: Skeleton = COCO) -> None:
        super().__init__()
        self.pif, self.paf = pif, paf
        self.config = SimpleNamespace(skeleton=skeleton)

    def forward(self, images: torch.Tensor) -> Output:
        return Output(self.pif, self.paf, [])


def fields_of(pif: torch.Tensor, paf: torch.Tensor, **options) -> tuple[torch.Tensor, torch.Tensor]:
    return FieldsModel(Heads(pif, paf), **options)(torch.zeros(1, 3, 17, 17))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_fields_are_those_of_the_reference(dtype, memory_format) -> None:
    torch.manual_seed(0)
    pif, paf = (torch.randn(2, n * c, 6, 9, dtype=dtype) for n, c in ((17, 5), (19, 7)))
    pif, paf = pif.to(memory_format=memory_format), (20 * paf).to(memory_format=memory_format)
    heads = pif.unflatten(1, (17, 5)), paf.unflatten(1, (19, 7))
    found = fields_of(*heads)
    assert found[0].dtype == found[1].dtype == torch.float32
    for b in range(2):
        expected = heads_to_fields(heads[0][b].float().numpy(), heads[1][b].float().numpy(), COCO.limbs)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one[b].numpy(), other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30])
def test_heads_of_a_diverged_network_do_not_crash(value) -> None:
    pif, paf = fields_of(torch.full((1, 17, 5, 3, 3), value), torch.full((1, 19, 7, 3, 3), value))
    assert pif.shape == (1, 17, 5, 3, 3)
    assert paf.shape == (1, 19, 8, 3, 3)


def test_the_fields_of_a_mirror_image_are_those_of_the_image() -> None:
    """Left and right, the direction of offsets and that of limbs change with it."""
    width, height = 161, 129
    persons = []
    for x, y, size in ((83.3, 12.7, 100), (41.9, 41.1, 60)):  # between cells: on one, either side would do
        keypoints = np.column_stack([COCO.upright_pose * size / 175 + (x, y), np.full(17, 2)]).astype(np.float32)
        persons.append(Annotation(keypoints, (x, y, 1, 1), 1))
    mirror = np.array([[-1.0, 0, width - 1], [0, 1, 0]])
    mirrored = [transform_annotation(person, mirror, (width, height), COCO.flip) for person in persons]
    sides = [CODEC.targets_to_heads(CODEC.encode(scene, height, width)) for scene in (persons, mirrored)]
    pif, paf = (torch.from_numpy(head)[None] for head in sides[0])
    both_pif, both_paf = (torch.from_numpy(np.stack(heads)) for heads in zip(*sides, strict=True))
    alone, averaged = fields_of(pif, paf), fields_of(both_pif, both_paf, flip_test=True)
    for field, mean in zip(alone, averaged, strict=True):
        np.testing.assert_allclose(mean[:, :, 1], field[:, :, 1], atol=1e-4)
        confident = field[:, :, 1] > 0.5
        assert confident.sum() > 100
        for component in range(field.shape[2]):
            np.testing.assert_allclose(mean[:, :, component][confident], field[:, :, component][confident], atol=1e-3)


def test_no_picture_and_no_limb() -> None:
    pif, paf = fields_of(torch.zeros(0, 17, 5, 4, 6), torch.zeros(0, 19, 7, 4, 6))
    assert (pif.shape, paf.shape) == ((0, 17, 5, 4, 6), (0, 19, 8, 4, 6))
    pair = Skeleton(name="pair", keypoints=("a", "b"), limbs=(), sigmas=(1, 1), flip=(1, 0), upright_pose=np.eye(2))
    for flip_test in (False, True):
        heads = torch.zeros(2, 2, 5, 4, 6), torch.zeros(2, 0, 7, 4, 6)
        _, paf = FieldsModel(Heads(*heads, pair), flip_test=flip_test)(torch.zeros(1, 3, 17, 17))
        assert paf.shape[1:] == (0, 8, 4, 6)
