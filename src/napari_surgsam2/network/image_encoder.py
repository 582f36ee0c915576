"""The image encoder: trunk and feature pyramid."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from .config import ConvNetConfig, TrunkConfig
from .convnet import ConvNet
from .hiera import Hiera


class FeaturePyramid(nn.Module):
    """Bring the trunk's maps to one width; the map at stride 32 is added to the one at stride 16."""

    def __init__(self, channels: Sequence[int], dim: int) -> None:
        super().__init__()
        # Coarsest first, as in the published checkpoints.
        self.convs = nn.ModuleList(nn.ModuleDict({"conv": nn.Conv2d(c, dim, 1)}) for c in reversed(channels))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Map the trunk's four maps to those of strides 4, 8 and 16, each (B, dim, H, W)."""
        at4, at8, at16, at32 = (
            conv.get_submodule("conv")(x) for conv, x in zip(reversed(self.convs), maps, strict=True)
        )
        from_coarse = F.interpolate(at32.float(), scale_factor=2.0, mode="nearest")
        return [at4, at8, at16 + from_coarse]


class ImageEncoder(nn.Module):
    """Trunk and neck."""

    def __init__(self, trunk: TrunkConfig, dim: int) -> None:
        super().__init__()
        self.trunk = ConvNet(trunk) if isinstance(trunk, ConvNetConfig) else Hiera(trunk)
        self.neck = FeaturePyramid(trunk.channels, dim)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map normalised images (B, 3, S, S) to features of strides 4, 8 and 16, each (B, dim, H, W)."""
        maps: list[Tensor] = self.neck(self.trunk(image))
        return maps
