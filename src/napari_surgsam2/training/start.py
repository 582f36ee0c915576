"""Weights to start from where there are none."""

from __future__ import annotations

import torch

from napari_surgsam2.network import Sam2Network
from napari_surgsam2.network.mask_decoder import MaskDecoder, TwoWayBlock

_SHARPNESS = 2.0  # of queries and keys; 1 is what linear layers begin with


@torch.no_grad()
def look_where_prompted(network: Sam2Network) -> None:
    """Let a new mask decoder begin by looking where the prompts are.

    Queries and keys between prompts and image are both codes of positions. Where their projections begin
    alike, a click and the pixels around it attend to one another from the first step on, instead of having
    to find one another, which is the slow part of learning from nothing.
    """
    decoder: MaskDecoder = network.sam_mask_decoder
    attentions = [decoder.transformer.final_attn_token_to_image]
    for block in decoder.transformer.layers:
        assert isinstance(block, TwoWayBlock)
        attentions += [block.cross_attn_token_to_image, block.cross_attn_image_to_token]
    for attention in attentions:
        attention.q_proj.weight.mul_(_SHARPNESS)
        attention.k_proj.weight.copy_(attention.q_proj.weight)
