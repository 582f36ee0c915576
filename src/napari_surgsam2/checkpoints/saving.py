"""From a network to a checkpoint file."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from napari_surgsam2.network import NetworkConfig, Sam2Network

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
        Store the parameters with 16 bits instead of 32. Buffers keep theirs: the variances that normalise
        may be larger than 16 bits can hold.
    notes : mapping of str to str, optional
        Put beside the parameters, to be read by people.
    """
    from safetensors.torch import save

    with torch.device("meta"):
        parameters = {name for name, _ in Sam2Network(config).named_parameters()} if half else set()

    def stored(name: str, value: Tensor) -> Tensor:
        if value.is_floating_point():
            value = value.to(torch.float16 if name in parameters else torch.float32)
        return value.cpu().contiguous().clone()

    tensors = {name: stored(name, value) for name, value in state.items()}
    metadata = {**(notes or {}), CONFIG_KEY: config.to_json(), IMAGE_SIZE_KEY: str(image_size)}
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(save(tensors, metadata))
        partial.replace(path)
    except BaseException:  # what is left would take the room that a full disk lacks
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
