"""The mask decoder: a two-way transformer between prompts and image, and its heads."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .layers import MLP, Attention, LayerNorm2d

NUM_MULTIMASKS = 3
_STABILITY_DELTA = 0.05
_STABILITY_THRESHOLD = 0.98


class TwoWayBlock(nn.Module):
    """Tokens attend to themselves and to the image, then the image to the tokens."""

    def __init__(self, dim: int, num_heads: int, mlp_dim: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention(dim, num_heads)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = Attention(dim, num_heads, downsample=2)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, mlp_dim, dim)
        self.norm3 = nn.LayerNorm(dim)
        self.norm4 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = Attention(dim, num_heads, downsample=2)

    def forward(
        self, tokens: Tensor, image: Tensor, token_pe: Tensor, image_pe: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Map tokens (B, N, dim) and image (B, HW, dim) to the same shapes."""
        if self.first:  # there the tokens are still their own positions
            tokens = self.self_attn(tokens, tokens, tokens)
        else:
            q = tokens + token_pe
            tokens = tokens + self.self_attn(q, q, tokens)
        tokens = self.norm1(tokens)
        tokens = tokens + self.cross_attn_token_to_image(tokens + token_pe, image + image_pe, image)
        tokens = self.norm2(tokens)
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = image + self.cross_attn_image_to_token(image + image_pe, tokens + token_pe, tokens)
        return tokens, self.norm4(image)


class TwoWayTransformer(nn.Module):
    """Two `TwoWayBlock` and a last look of the tokens at the image."""

    def __init__(self, dim: int, mlp_dim: int, num_heads: int = 8, depth: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayBlock(dim, num_heads, mlp_dim, first=i == 0) for i in range(depth))
        self.final_attn_token_to_image = Attention(dim, num_heads, downsample=2)
        self.norm_final_attn = nn.LayerNorm(dim)

    def forward(self, image: Tensor, image_pe: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Map image (B, HW, dim), its positions (1, HW, dim) and tokens (B, N, dim) to tokens and image."""
        token_pe = tokens
        for layer in self.layers:
            tokens, image = layer(tokens, image, token_pe, image_pe)
        tokens = tokens + self.final_attn_token_to_image(tokens + token_pe, image + image_pe, image)
        return self.norm_final_attn(tokens), image


class DecodedMasks(NamedTuple):
    """What the mask decoder returns for B objects and M candidate masks, M being 1, 3 or 4.

    Attributes
    ----------
    logits : tensor, shape (B, M, 4 * h, 4 * w)
        Mask logits at a quarter of the input's side.
    iou : tensor, shape (B, M)
        Predicted IoU of each mask, between 0 and 1.
    tokens : tensor, shape (B, M, dim)
        Output tokens that become object pointers.
    object_score : tensor, shape (B, 1)
        Logit of the object being in the frame.
    """

    logits: Tensor
    iou: Tensor
    tokens: Tensor
    object_score: Tensor


class MaskDecoder(nn.Module):
    """SAM 2's mask decoder; parameter names are those of the published checkpoints."""

    def __init__(self, dim: int, mlp_dim: int) -> None:
        super().__init__()
        masks = NUM_MULTIMASKS + 1
        self.transformer = TwoWayTransformer(dim, mlp_dim)
        self.iou_token = nn.Embedding(1, dim)
        self.mask_tokens = nn.Embedding(masks, dim)
        self.obj_score_token = nn.Embedding(1, dim)
        self.output_upscaling = nn.ModuleList(
            [
                nn.ConvTranspose2d(dim, dim // 4, 2, stride=2),
                LayerNorm2d(dim // 4),
                nn.GELU(),
                nn.ConvTranspose2d(dim // 4, dim // 8, 2, stride=2),
            ]
        )
        self.conv_s0 = nn.Conv2d(dim, dim // 8, 1)
        self.conv_s1 = nn.Conv2d(dim, dim // 4, 1)
        self.output_hypernetworks_mlps = nn.ModuleList(MLP(dim, dim, dim, dim // 8) for _ in range(masks))
        self.iou_prediction_head = MLP(dim, dim, dim, masks)
        self.pred_obj_score_head = MLP(dim, dim, dim, 1)

    def forward(
        self,
        image: Tensor,
        image_pe: Tensor,
        sparse: Tensor,
        dense: Tensor,
        fine: Tensor,
        finest: Tensor,
        multimask: bool,
        every: bool = False,
    ) -> DecodedMasks:
        """Predict the masks of B objects.

        Parameters
        ----------
        image : tensor, shape (B, dim, h, w)
            Image features, each object's with its memories.
        image_pe : tensor, shape (1, dim, h, w)
            Position codes of the image features.
        sparse : tensor, shape (B, N, dim)
            Embedded points.
        dense : tensor, shape (B or 1, dim, h or 1, w or 1)
            Embedded masks.
        fine, finest : tensor, shapes (1, dim / 4, 2 h, 2 w) and (1, dim / 8, 4 h, 4 w)
            What `conv_s1` and `conv_s0` made of the finer image features.
        multimask : bool
            Return three candidate masks instead of one.
        every : bool
            Return all four, the single one first.
        """
        B, _, h, w = image.shape
        own = torch.cat((self.obj_score_token.weight, self.iou_token.weight, self.mask_tokens.weight))
        tokens = torch.cat((own.expand(B, -1, -1), sparse.to(own.dtype)), dim=1)
        source = (image + dense).flatten(2).transpose(1, 2)
        hidden, source = self.transformer(source, image_pe.flatten(2).transpose(1, 2), tokens)
        object_score, iou_token, mask_tokens = (
            hidden[:, 0],
            hidden[:, 1],
            hidden[:, 2 : 2 + len(self.mask_tokens.weight)],
        )

        up1, norm, activation, up2 = self.output_upscaling
        x = activation(norm(up1(source.transpose(1, 2).unflatten(-1, (h, w))) + fine))
        x = activation(up2(x) + finest)
        weights = [mlp(mask_tokens[:, i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)]
        logits = (torch.stack(weights, dim=1) @ x.flatten(2)).unflatten(-1, x.shape[-2:])
        iou = self.iou_prediction_head(iou_token).sigmoid()
        score = self.pred_obj_score_head(object_score)
        if every:
            return DecodedMasks(logits, iou, mask_tokens, score)
        if multimask:
            return DecodedMasks(logits[:, 1:], iou[:, 1:], mask_tokens[:, 1:], score)
        if not self.training:
            logits, iou = _single_or_stabler(logits, iou)
        return DecodedMasks(logits[:, :1], iou[:, :1], mask_tokens[:, :1], score)


def _single_or_stabler(logits: Tensor, iou: Tensor) -> tuple[Tensor, Tensor]:
    """Return the single mask, or the best of the three where the single one is unstable.

    A mask is unstable where moving its threshold by 0.05 either way changes it: the IoU of the two masks is
    under 0.98. Shapes (B, 4, H, W) and (B, 4) to (B, 1, H, W) and (B, 1).
    """
    single = logits[:, :1]
    inside = (single > _STABILITY_DELTA).flatten(2).sum(-1).float()
    around = (single > -_STABILITY_DELTA).flatten(2).sum(-1).float()
    stable = torch.where(around > 0, inside / around, 1.0) >= _STABILITY_THRESHOLD
    best = iou[:, 1:].argmax(-1, keepdim=True) + 1
    chosen = torch.where(stable, torch.zeros_like(best), best)
    return logits.take_along_dim(chosen[..., None, None], dim=1), iou.take_along_dim(chosen, dim=1)
