"""`FieldsModel`: what each component of the fields is, and the average with the mirror image."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from dgcn.codec import Output
from dgcn.model.fields import FieldsModel
from dgcn.skeleton import COCO


class Fixed(nn.Module):
    """Whatever it sees, its heads are `pif` and `paf`, of as many pictures as it sees."""

    config = SimpleNamespace(skeleton=COCO)

    def __init__(self, pif: Tensor, paf: Tensor) -> None:
        super().__init__()
        self.heads = pif, paf

    def forward(self, images: Tensor) -> Output:
        return Output(*(head[: len(images)] for head in self.heads), [])


@pytest.fixture
def heads() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 17, 5, 4, 6, generator=generator), 3 * torch.randn(2, 19, 7, 4, 6, generator=generator)


def test_components(heads) -> None:
    pif_head, paf_head = heads
    paf_head[1, 7, 1, 2, 3] = torch.nan
    pif, paf = FieldsModel(Fixed(*heads))(torch.empty(2, 3, 33, 49))
    assert (pif.shape, paf.shape) == ((2, 17, 5, 4, 6), (2, 19, 8, 4, 6))
    for image, row, column in ((0, 0, 5), (1, 2, 3), (1, 3, 0)):
        c, x, y, _, scale = pif_head[image, 11, :, row, column]
        expected = torch.stack([torch.zeros(()), c.sigmoid(), column + x, row + y, scale.exp().log1p()])
        torch.testing.assert_close(pif[image, 11, :, row, column], expected)
        found = paf[image, 7, :, row, column]
        confidence, *offsets = paf_head[image, 7, :5, row, column]
        ends = torch.stack(offsets) + torch.tensor([column, row] * 2)
        torch.testing.assert_close(
            found[:6], torch.stack([torch.zeros(()), confidence.sigmoid(), *ends]), equal_nan=True
        )
        for end, (x, y) in enumerate(ends.view(2, 2).nan_to_num(0.0).tolist()):
            i, j = min(max(round(y), 0), 3), min(max(round(x), 0), 5)
            assert found[6 + end] == pif[image, COCO.limbs[7][end], 4, i, j]


def test_the_mirror_image_of_itself_changes_nothing(heads) -> None:
    """What the network would see in the mirror images of the pictures, as the second half of the batch."""
    negate_x = torch.tensor([1.0, -1, 1, 1, 1])[:, None, None]
    pif, paf = heads
    pif_mirrored, paf_mirrored = torch.empty_like(pif), torch.empty_like(paf)
    for keypoint, mirrored in enumerate(COCO.flip):
        pif_mirrored[:, mirrored] = (pif[:, keypoint] * negate_x).flip(-1)
    for limb, (mirrored, is_reversed) in enumerate(COCO.mirror_limbs()):
        order = [0, 3, 4, 1, 2, 5, 6] if is_reversed else range(7)
        negate_both = torch.tensor([1.0, -1, 1, -1, 1, 1, 1])[:, None, None]
        paf_mirrored[:, mirrored] = (paf[:, limb][:, order] * negate_both).flip(-1)
    images = torch.empty(2, 3, 33, 49)
    both = Fixed(torch.cat([pif, pif_mirrored]), torch.cat([paf, paf_mirrored]))
    for found, expected in zip(FieldsModel(both, flip_test=True)(images), FieldsModel(both)(images), strict=True):
        torch.testing.assert_close(found, expected)
