"""The network of the paper: backbone, DGCMs, PIF and PAF heads (Figure 2), and its pyramid (Eq. 9)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dgcn_ext import DGCM, DGCMFused
from dgcn_ext.folding import inference_copy, merge_norms

from ..codec import PAF_COMPONENTS, PIF_COMPONENTS, Output
from ..graph import hand_crafted_adjacency, identity_adjacency, known_distances, ones_adjacency, soft_adjacency
from .backbones import build_backbone
from .config import Graph, ModelConfig

PRIOR_LOGIT = -4.6
"""Start of the confidence logits: sigmoid(-4.6) = 0.01, because about one cell in a hundred is positive."""


class PixelShuffleHead(nn.Module):
    """1×1 convolution to `fields` × `components` × 4, then PixelShuffle: stride 16 in, stride 8 out.

    The last row and column are dropped, so that 16n+1 pixels give 2n+1 cells and cell i is centred on pixel 8·i.
    """

    def __init__(self, in_channels: int, fields: int, components: int) -> None:
        super().__init__()
        self.fields, self.components = fields, components
        self.conv = nn.Conv2d(in_channels, fields * components * 4, 1)
        assert self.conv.bias is not None
        nn.init.constant_(self.conv.bias.view(fields, components, 4)[:, 0], PRIOR_LOGIT)  # of the confidence

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.pixel_shuffle(self.conv(x), 2)[..., :-1, :-1]
        return x.unflatten(1, (self.fields, self.components))


class Downsample(nn.Sequential):
    """↓ of the pyramid: 1×1 stride-2 convolution and batch norm, F_s to the channels and stride of F_2s."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(nn.Conv2d(in_channels, out_channels, 1, stride=2, bias=False), nn.BatchNorm2d(out_channels))


class GraphStream(nn.Module):
    """ψ of Eq. 9 at every level, downsampled and summed: ((ψ4↓ + ψ8)↓ + ψ16). One stream feeds PIF, one PAF."""

    def __init__(self, channels: dict[int, int], levels: tuple[int, ...], make_dgcm: Any) -> None:
        super().__init__()
        self.dgcms = nn.ModuleDict({str(stride): make_dgcm(channels[stride]) for stride in sorted(levels)})
        self.downs = nn.ModuleDict(
            {str(s): Downsample(channels[s], channels[2 * s]) for s in (4, 8) if s >= min(levels)}
        )

    def fold_modules(self) -> None:
        """Replace every DGCM by its folded form, and fold the batch norms of the pyramid; for inference, in place."""
        for stride, dgcm in self.dgcms.items():
            if isinstance(dgcm, DGCM):
                self.dgcms[stride] = dgcm.fold()
        merge_norms(self.downs)

    def forward(self, features: dict[int, Tensor]) -> tuple[Tensor, list[tuple[int, Tensor]]]:
        """F_s by stride to (F_g at stride 16, node logits of every level)."""
        total: Tensor | None = None
        node_logits = []
        for stride in (4, 8, 16):
            if str(stride) in self.dgcms:
                graph_features, logits = self.dgcms[str(stride)](features[stride])
                node_logits.append((stride, logits))
                total = graph_features if total is None else total + graph_features
            if total is not None and stride < 16:
                total = self.downs[str(stride)](total)
        assert total is not None  # levels is never empty here
        return total, node_logits


class DGCN(nn.Module):
    """Backbone, one graph stream per head, PIF and PAF heads.

    `model(images)`: images [B, 3, H, W] RGB in 0..255 (uint8 or floating), H and W of the form 16n+1, to `Output` at
    stride `model.stride`. Normalisation is part of the model. `adjacency` [K, K] in [0, 1] is A of Eq. 8.
    """

    stride = 8  # pixels per field cell
    mean: Tensor
    std: Tensor

    def __init__(self, config: ModelConfig, adjacency: Tensor, *, pretrained: bool = False, fused: bool = True) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.backbone, {*config.levels, 16}, pretrained=pretrained)
        skeleton, channels = config.skeleton, self.backbone.channels

        def make_dgcm(in_channels: int) -> nn.Module:
            dgcm = (DGCMFused if fused else DGCM)(
                in_channels,
                adjacency,
                lift_channels=config.lift_channels,
                non_local=config.non_local,
                dynamic=config.graph == "dynamic",
                propagation=config.propagation,
                semantics=config.semantics,
                aggregate=config.aggregate,
                eval_graph=config.eval_graph,
                per_sample=config.per_sample,
            )
            assert dgcm.kmap.bias is not None
            nn.init.constant_(dgcm.kmap.bias, PRIOR_LOGIT)
            return dgcm

        self.pif_stream = GraphStream(channels, config.levels, make_dgcm) if config.levels else None
        self.paf_stream = GraphStream(channels, config.levels, make_dgcm) if config.levels else None
        self.pif_head = PixelShuffleHead(channels[16], skeleton.num_keypoints, PIF_COMPONENTS)
        self.paf_head = PixelShuffleHead(channels[16], skeleton.num_limbs, PAF_COMPONENTS)
        for name in ("mean", "std"):
            self.register_buffer(name, torch.empty(3, 1, 1), persistent=False)
        self._fill_buffers()

    def forward(self, images: Tensor) -> Output:
        self.check_images(images)
        features = self.backbone((images.to(self.mean.dtype) - self.mean) / self.std)
        if self.pif_stream is None or self.paf_stream is None:
            return Output(self.pif_head(features[16]), self.paf_head(features[16]), [])
        for_pif, pif_nodes = self.pif_stream(features)
        for_paf, paf_nodes = self.paf_stream(features)
        return Output(self.pif_head(for_pif), self.paf_head(for_paf), pif_nodes + paf_nodes)

    def check_images(self, images: Tensor) -> None:
        if images.dim() != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be [B, 3, H, W], got the shape {tuple(images.shape)}")
        if any(size < 17 or size % 16 != 1 for size in images.shape[2:]):
            raise ValueError(f"images must be 16n+1 pixels high and wide (n >= 1), got {tuple(images.shape[2:])}")

    def _fill_buffers(self) -> None:
        for name in ("mean", "std"):
            buffer = getattr(self, name)
            buffer.copy_(torch.tensor(getattr(self.backbone, name), device=buffer.device)[:, None, None])

    def _apply(self, fn: Any, recurse: bool = True) -> DGCN:
        """What `to_empty` calls: the buffers get their values again when they leave the meta device."""
        were_on_meta = self.mean.is_meta
        super()._apply(fn, recurse)
        if were_on_meta and not self.mean.is_meta:
            self._fill_buffers()
        return self

    def fold(self) -> DGCN:
        """A copy for inference with the outputs of `eval()`, in which no parameter requires a gradient.

        Every DGCM is folded, so no graph op is left, and so are the batch norms of the pyramid and of the backbone,
        as far as its `fold` goes.
        """
        folded = inference_copy(self)
        folded.backbone.fold()
        for stream in (folded.pif_stream, folded.paf_stream):
            if stream is not None:
                stream.fold_modules()
        return folded


def graph_adjacency(config: ModelConfig, distances: Any | None = None) -> Tensor:
    """A [K, K] for `config.graph`; 'dynamic' and 'soft' need M_d of Eq. 5, `distances` (default: `known_distances`)."""
    skeleton = config.skeleton
    if config.graph == "identity":
        return identity_adjacency(skeleton.num_keypoints)
    if config.graph == "ones":
        return ones_adjacency(skeleton.num_keypoints)
    if config.graph == "hand":
        return hand_crafted_adjacency(skeleton)
    if distances is None:
        distances = known_distances(skeleton)
    if distances is None:
        raise ValueError(
            f"distances (M_d of Eq. 5) must be given for the skeleton '{skeleton.name}'; COCO's, CrowdPose's and MPII's"
            " are known"
        )
    return soft_adjacency(distances, config.gamma)


def build_model(
    backbone: str = "resnet50",
    levels: tuple[str | int, ...] = ("F16",),
    graph: Graph = "dynamic",
    *,
    pretrained: bool = False,
    distances: Any | None = None,
    fused: bool = True,
    **options: Any,
) -> DGCN:
    """Build the network of the paper.

    Args:
        backbone: 'mobilenetv1_075', 'movenet_multipose' or any timm model with `features_only` (ResNets lose their
            input max-pool).
        levels: feature maps with a DGCN head, among 'F4', 'F8', 'F16'; () is the PifPaf baseline.
        graph: 'dynamic', 'soft', 'hand', 'identity' or 'ones' (Figure 3).
        pretrained: whether timm fetches ImageNet weights for the backbone.
        distances: M_d of Eq. 5 [K, K]; default: that of COCO, CrowdPose or MPII for their keypoints.
        fused: `DGCMFused` with the compiled kernels, or the plain PyTorch `DGCM`; both share one `state_dict`.
        options: further fields of `ModelConfig`.

    Raises:
        ValueError: an argument outside what is listed here; the message names it.
    """
    try:
        strides = tuple(int(str(level).removeprefix("F")) for level in levels)
    except (TypeError, ValueError):
        raise ValueError(f"levels must be names among 'F4', 'F8' and 'F16', got {levels}") from None
    config = ModelConfig(backbone=backbone, levels=strides, graph=graph, **options)
    return DGCN(config, graph_adjacency(config, distances), pretrained=pretrained, fused=fused)


def build_from_config(config: ModelConfig) -> DGCN:
    """The untrained network that a checkpoint with this configuration fills, its adjacency included."""
    return DGCN(config, ones_adjacency(config.skeleton.num_keypoints))
