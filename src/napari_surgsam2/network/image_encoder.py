"""The image encoder: trunk and feature pyramid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
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

    def forward(self, maps: Sequence[Tensor], to_finest: nn.Conv2d, to_fine: nn.Conv2d) -> list[Tensor]:
        """Map the trunk's four maps, finest first, to those of strides 4, 8 and 16.

        The two finest are only ever seen through the 1 x 1 convolutions `to_finest` and `to_fine`, of `dim`
        channels to fewer: each is one with the pyramid's own, so that no fine map of `dim` channels is made.
        So the three are (B, C, H, W) with the channels of `to_finest`, those of `to_fine`, and `dim`.
        """
        own4, own8, own16, own32 = (conv.get_submodule("conv") for conv in reversed(self.convs))
        at16, at32 = own16(maps[2]), own32(maps[3])
        from_coarse = F.interpolate(at32.float(), scale_factor=2.0, mode="nearest")
        return [_in_one(own4, to_finest, maps[0]), _in_one(own8, to_fine, maps[1]), at16 + from_coarse]


def _in_one(first: nn.Module, second: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply two 1 x 1 convolutions, one after the other, as the one that does the same."""
    assert isinstance(first, nn.Conv2d)
    assert first.bias is not None
    assert second.bias is not None
    with torch.autocast(x.device.type, enabled=False):
        weight = second.weight[:, :, 0, 0] @ first.weight[:, :, 0, 0]
        bias = second.weight[:, :, 0, 0] @ first.bias + second.bias
    return F.conv2d(x, weight[:, :, None, None], bias)


class ImageEncoder(nn.Module):
    """Trunk and neck."""

    def __init__(self, trunk: TrunkConfig, dim: int) -> None:
        super().__init__()
        self.trunk = ConvNet(trunk) if isinstance(trunk, ConvNetConfig) else Hiera(trunk)
        self.neck = FeaturePyramid(trunk.channels, dim)

    def forward(self, image: Tensor, to_finest: nn.Conv2d, to_fine: nn.Conv2d) -> list[Tensor]:
        """Map normalised images (B, 3, S, S) to features of strides 4, 8 and 16; see `FeaturePyramid`."""
        maps: list[Tensor] = self.neck(self.trunk(image), to_finest, to_fine)
        return maps
