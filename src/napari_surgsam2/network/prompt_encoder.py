"""The prompt encoder: clicks, box corners and masks as embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .layers import LayerNorm2d
from .positions import RandomFourierPositions

# The labels of the points that enter the network.
PADDING, NEGATIVE, POSITIVE, BOX_TOP_LEFT, BOX_BOTTOM_RIGHT = -1, 0, 1, 2, 3


class PromptEncoder(nn.Module):
    """SAM's prompt encoder; parameter names are those of the published checkpoints."""

    def __init__(self, dim: int, mask_channels: int = 16) -> None:
        super().__init__()
        self.pe_layer = RandomFourierPositions(dim // 2)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, dim) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, dim)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, mask_channels // 4, 2, stride=2),
            LayerNorm2d(mask_channels // 4),
            nn.GELU(),
            nn.Conv2d(mask_channels // 4, mask_channels, 2, stride=2),
            LayerNorm2d(mask_channels),
            nn.GELU(),
            nn.Conv2d(mask_channels, dim, 1),
        )
        self.no_mask_embed = nn.Embedding(1, dim)

    def embed_points(self, xy: Tensor, labels: Tensor, image_size: int) -> Tensor:
        """Embed points and box corners.

        Parameters
        ----------
        xy : tensor, shape (B, N, 2), float32
            Positions (x, y) in pixels of the network's input; half a pixel is added here.
        labels : tensor, shape (B, N), integer
            `POSITIVE`, `NEGATIVE`, `BOX_TOP_LEFT`, `BOX_BOTTOM_RIGHT` or `PADDING`.
        image_size : int
            Side of the network's input, in pixels.

        Returns
        -------
        tensor, shape (B, N + 1, dim)
            With a padding point at the end, as SAM 2 always has.
        """
        xy = torch.cat((xy + 0.5, xy.new_zeros(len(xy), 1, 2)), dim=1)
        labels = torch.cat((labels, labels.new_full((len(labels), 1), PADDING)), dim=1)
        embeddings = [self.not_a_point_embed, *self.point_embeddings]
        kinds = torch.cat([e.get_parameter("weight") for e in embeddings])
        position = self.pe_layer(xy / image_size).masked_fill((labels == PADDING)[..., None], 0.0)
        out: Tensor = position + kinds[labels.long() + 1]
        return out

    def embed_mask(self, logits: Tensor) -> Tensor:
        """Embed masks given as logits (B, 1, 4 * h, 4 * w) as dense prompts (B, dim, h, w)."""
        out: Tensor = self.mask_downscaling(logits)
        return out

    def no_mask(self) -> Tensor:
        """Return the dense prompt of no mask, (1, dim, 1, 1)."""
        return self.no_mask_embed.weight[..., None, None]
