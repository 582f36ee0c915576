"""Weights to start from where there are none."""

from __future__ import annotations

import torch

from napari_surgsam2.network import Sam2Network
from napari_surgsam2.network.mask_decoder import MaskDecoder, TwoWayBlock
from napari_surgsam2.network.memory_attention import MemoryAttentionLayer

_SHARPNESS = 2.0  # of queries and keys; 1 is what linear layers begin with
_ROTARY_PAIRS = 6  # of an axis, the fastest, which tell a place from the ones beside it
_SAME_PLACE = 8.0  # logit of a memory's attention at the place itself


def give_a_start(network: Sam2Network) -> None:
    """Let a new network begin by looking where the prompts are, and where things were before."""
    look_where_prompted(network)
    look_where_it_was(network)


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


@torch.no_grad()
def look_where_it_was(network: Sam2Network) -> None:
    """Let a new memory attention begin by looking at the same place in the memories.

    It begins all but uniform, and there is next to nothing in that to learn from: without this, memories say
    what is in them but not where. Queries and keys get the same bias on the pairs that the rotary code turns
    fastest, so that their product is largest where they are at the same place.
    """
    for layer in network.memory_attention.layers:
        assert isinstance(layer, MemoryAttentionLayer)
        cross = layer.cross_attn_image
        dim = cross.q_proj.out_features
        x_pairs = torch.arange(_ROTARY_PAIRS)
        pairs = torch.cat((x_pairs, x_pairs + dim // 4))
        bias = torch.zeros(dim)
        bias[2 * pairs] = (_SAME_PLACE * dim**0.5 / len(pairs)) ** 0.5
        cross.q_proj.bias.copy_(bias)
        cross.k_proj.bias.copy_(bias)
