"""Weights by rule: the same numbers for the same parameter name, shape and seed, on every machine.

The recorded reference outputs in `tests/data/parity` were computed with these, so that no checkpoint need be
stored. The masks mean nothing, but they pass through every layer and depend on everything before.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import torch

from napari_surgsam2.network import HieraConfig, NetworkConfig, Sam2Network

TINY_CONFIG = NetworkConfig(
    trunk=HieraConfig(
        embed_dim=16, stages=(1, 1, 2, 1), global_attention_blocks=(2,), window_sizes=(8, 4, 8, 4)
    ),
    dim=64,
    memory_dim=16,
    memory_attention_layers=2,
    memory_attention_mlp_dim=128,
    decoder_mlp_dim=128,
)


def rule_tensor(key: str, shape: list[int], seed: int) -> torch.Tensor:
    """Return the float32 tensor of parameter `key`, of the given shape."""
    generator = torch.Generator().manual_seed((zlib.crc32(key.encode()) ^ (seed * 2654435761)) & 0x7FFFFFFF)
    values = torch.randn(*shape, generator=generator) if shape else torch.randn((), generator=generator)
    last = key.rsplit(".", 1)[-1]
    if key.endswith("positional_encoding_gaussian_matrix"):
        return values
    if last == "gamma":
        return 0.1 * values
    if len(shape) >= 2:
        if any(part in key for part in ("embed", "tpos", "no_", "tokens")):
            return 0.1 * values
        fan_in = shape[0] if "output_upscaling" in key else int(np.prod(shape[1:]))
        return values * (1.2 / fan_in**0.5)
    if last == "weight":
        return 1.0 + 0.1 * values
    values = 0.02 * values
    return values + 1.0 if key.endswith("pred_obj_score_head.layers.2.bias") else values


def rule_state_dict(case: Path) -> dict[str, torch.Tensor]:
    """Return the parameters of a recorded case; `case` is its .json file."""
    shapes = json.loads(case.with_suffix("").with_suffix(".shapes.json").read_text())
    seed = json.loads(case.read_text())["seed"]
    return {key: rule_tensor(key, shape, seed) for key, shape in shapes.items()}


def rule_network(config: NetworkConfig = TINY_CONFIG, seed: int = 1) -> Sam2Network:
    """Return a network with weights by rule."""
    network = Sam2Network(config)
    state = {k: rule_tensor(k, list(v.shape), seed) for k, v in network.state_dict().items()}
    network.load_state_dict(state)
    return network.eval()
