"""From a network to a checkpoint file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from napari_surgsam2.network import NetworkConfig

from .loading import CONFIG_KEY, IMAGE_SIZE_KEY


def save_model(
    path: Path,
    state: Mapping[str, Tensor],
    config: NetworkConfig,
    image_size: int,
    *,
    half: bool = False,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Write a checkpoint that `load_model` reads, replacing the file at once or not at all.

    Parameters
    ----------
    path : Path
        Ends in `.safetensors`.
    state : mapping of str to tensor
        The parameters and buffers of a `Sam2Network`.
    config : NetworkConfig
        What it is made of.
    image_size : int
        Side of the input that it was made for, in pixels.
    half : bool
        Store numbers of 16 bits instead of 32.
    notes : mapping of str to str, optional
        Put beside the parameters, to be read by people.
    """
    from safetensors.torch import save

    dtype = torch.float16 if half else torch.float32
    tensors = {
        k: (v.to(dtype) if v.is_floating_point() else v).cpu().contiguous().clone() for k, v in state.items()
    }
    metadata = {**(notes or {}), CONFIG_KEY: config.to_json(), IMAGE_SIZE_KEY: str(image_size)}
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(save(tensors, metadata))
    partial.replace(path)
