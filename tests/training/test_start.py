"""What new networks begin with."""

import torch

from napari_surgsam2.network import ConvNetConfig, NetworkConfig, Sam2Network
from napari_surgsam2.training.start import look_where_it_was, look_where_prompted

CONFIG = NetworkConfig(
    trunk=ConvNetConfig((8, 8, 8, 8), (1, 1, 1, 1)),
    dim=128,
    memory_dim=64,
    memory_attention_layers=2,
    memory_attention_mlp_dim=64,
    decoder_mlp_dim=64,
)


def attention_at_the_same_place(network: Sam2Network, side: int = 8) -> torch.Tensor:
    """Return the share of attention that goes to the same place of a memory and those around it."""
    attention = network.memory_attention
    memory = torch.randn(1, 64, side, side)
    keys, _ = attention.project_memory(memory)
    from napari_surgsam2.network.positions import rotary_grid, rotate

    rotary = rotary_grid(side, side, 128, memory.device)
    shares = []
    for i, layer in enumerate(attention.layers):
        q = rotate(layer.cross_attn_image.q_proj(torch.randn(1, side * side, 128)), rotary)
        weights = (q @ keys[:, i].transpose(1, 2) / 128**0.5).softmax(-1)[0].view(side, side, side, side)
        y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        near = ((y[..., None, None] - y).abs() <= 1) & ((x[..., None, None] - x).abs() <= 1)
        shares.append((weights * near).sum((-2, -1)).mean())
    return torch.stack(shares)


@torch.no_grad()
def test_a_new_memory_attention_looks_at_the_same_place():
    torch.manual_seed(0)
    network = Sam2Network(CONFIG)
    before = attention_at_the_same_place(network)
    look_where_it_was(network)
    after = attention_at_the_same_place(network)
    assert before.max() < 0.2
    assert after.min() > 0.6


@torch.no_grad()
def test_a_new_mask_decoder_looks_where_the_click_is():
    torch.manual_seed(0)
    network = Sam2Network(CONFIG)
    look_where_prompted(network)
    side, prompt = 8, network.sam_prompt_encoder
    places = prompt.pe_layer.grid(side, side)[0].flatten(1).T
    cross = network.sam_mask_decoder.transformer.layers[0].cross_attn_token_to_image
    click = places[27]  # of a token that is nothing but its place
    q, k = cross.q_proj(click), cross.k_proj(places)
    assert int((k @ q).argmax()) == 27
