"""The memory encoder: image features and a mask become a memory feature map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import LayerNorm2d


class ConvNextBlock(nn.Module):
    """A ConvNeXt block (arXiv 2201.03545)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = LayerNorm2d(dim)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(torch.full((dim,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, dim, H, W) to the same shape."""
        y = self.norm(self.dwconv(x)).permute(0, 2, 3, 1)
        y = self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))
        out: Tensor = x + y.permute(0, 3, 1, 2)
        return out


class MemoryEncoder(nn.Module):
    """Fuse image features with a mask; parameter names are those of the published checkpoints."""

    def __init__(self, dim: int, memory_dim: int, layers: int) -> None:
        super().__init__()
        steps: list[nn.Module] = []
        channels = 1
        for _ in range(4):  # each halves the side: 16 in all, the stride of the image features
            steps += [
                nn.Conv2d(channels, 4 * channels, 3, stride=2, padding=1),
                LayerNorm2d(4 * channels),
                nn.GELU(),
            ]
            channels *= 4
        self.mask_downsampler = nn.ModuleDict({"encoder": nn.Sequential(*steps, nn.Conv2d(channels, dim, 1))})
        self.pix_feat_proj = nn.Conv2d(dim, dim, 1)
        self.fuser = nn.ModuleDict({"layers": nn.Sequential(*(ConvNextBlock(dim) for _ in range(layers)))})
        self.out_proj = nn.Conv2d(dim, memory_dim, 1) if memory_dim != dim else nn.Identity()

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """Encode memories.

        Parameters
        ----------
        image : tensor, shape (1 or B, dim, h, w)
            Image features without memories, shared by the objects.
        mask : tensor, shape (B, 1, 16 * h, 16 * w)
            Scaled mask probabilities.

        Returns
        -------
        tensor, shape (B, memory_dim, h, w)
        """
        x = self.pix_feat_proj(image) + self.mask_downsampler["encoder"](mask)
        out: Tensor = self.out_proj(self.fuser["layers"](x))
        return out
