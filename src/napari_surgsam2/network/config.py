"""What a SAM 2 network is made of, and how to tell it from a checkpoint's parameters."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import torch


def _is_integer(value: Any, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def _require_positive(config: Any, *names: str) -> None:
    for name in names:
        if not _is_integer(value := getattr(config, name), 1):
            raise ValueError(f"{name} is {value!r}; it must be a whole number, at least 1")


def _require_list(config: Any, name: str, length: int | None, low: int) -> None:
    """Check a list of whole numbers; of any length if `length` is None."""
    values = getattr(config, name)
    fits = isinstance(values, (tuple, list)) and length in (None, len(values))
    if not fits or not all(_is_integer(v, low) for v in values):
        count = "" if length is None else f"{length} "
        raise ValueError(f"{name} is {values!r}; it must be a list of {count}whole numbers, at least {low}")


@dataclass(frozen=True)
class HieraConfig:
    """A Hiera trunk (arXiv 2306.00989), as SAM 2 uses it.

    Attributes
    ----------
    embed_dim : int
        Channels of the first stage; they double at each of the later three.
    num_heads : int
        Attention heads of the first stage; they double likewise.
    stages : tuple of 4 ints
        Blocks in each stage.
    global_attention_blocks : tuple of int
        Blocks that attend over the whole image instead of windows.
    window_sizes : tuple of 4 ints
        Side of the attention windows in each stage, in tokens.
    position_size : tuple of 2 ints
        Height and width of the learned position embedding that is resized to the image.
    """

    embed_dim: int = 96
    num_heads: int = 1
    stages: tuple[int, ...] = (1, 2, 7, 2)
    global_attention_blocks: tuple[int, ...] = (5, 7, 9)
    window_sizes: tuple[int, ...] = (8, 4, 14, 7)
    position_size: tuple[int, int] = (7, 7)

    def __post_init__(self) -> None:
        _require_positive(self, "embed_dim", "num_heads")
        if self.embed_dim % self.num_heads:
            raise ValueError(
                f"embed_dim is {self.embed_dim}; it must be a multiple of num_heads, {self.num_heads}"
            )
        _require_list(self, "stages", 4, 1)
        _require_list(self, "window_sizes", 4, 1)
        _require_list(self, "position_size", 2, 1)
        _require_list(self, "global_attention_blocks", None, 0)
        blocks = sum(self.stages)
        if strange := [i for i in self.global_attention_blocks if i >= blocks]:
            raise ValueError(
                f"global_attention_blocks has {strange[0]}; the {blocks} blocks are numbered from 0 to "
                f"{blocks - 1}"
            )

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels after each stage, finest first."""
        return tuple(self.embed_dim * 2**stage for stage in range(len(self.stages)))


@dataclass(frozen=True)
class ConvNetConfig:
    """A convolutional trunk for small networks.

    Attributes
    ----------
    channels : tuple of 4 ints
        Channels after each stage, finest first.
    blocks : tuple of 4 ints
        Residual blocks in each stage.
    """

    channels: tuple[int, ...] = (48, 96, 192, 224)
    blocks: tuple[int, ...] = (1, 2, 3, 1)

    def __post_init__(self) -> None:
        _require_list(self, "channels", 4, 2)  # the stem has half as many as the first stage
        _require_list(self, "blocks", 4, 0)


TrunkConfig = HieraConfig | ConvNetConfig


@dataclass(frozen=True)
class NetworkConfig:
    """A SAM 2 network; the defaults are those of SAM 2.1.

    Attributes
    ----------
    trunk : HieraConfig or ConvNetConfig
        The image trunk.
    dim : int
        Channels of the image features, prompts and object pointers; a multiple of 16, at least 32.
    memory_dim : int
        Channels of a memory feature map; a multiple of 4 that divides `dim`.
    num_maskmem : int
        Slots of the memory bank: one for the conditioning memories and the rest for the latest frames.
    max_object_pointers : int
        How many frames back object pointers are attended to.
    memory_attention_layers, memory_attention_mlp_dim : int
        Depth of the memory attention and width of its feed-forward layers.
    decoder_mlp_dim : int
        Width of the feed-forward layers of the mask decoder's transformer.
    memory_encoder_layers : int
        ConvNeXt blocks of the memory encoder.
    no_object_memory : bool
        Whether a memory of a frame without the object gets an embedding that says so (SAM 2.1).
    temporal_pointers : bool
        Whether object pointers carry their signed distance in time (SAM 2.1).
    """

    trunk: TrunkConfig = field(default_factory=HieraConfig)
    dim: int = 256
    memory_dim: int = 64
    num_maskmem: int = 7
    max_object_pointers: int = 16
    memory_attention_layers: int = 4
    memory_attention_mlp_dim: int = 2048
    decoder_mlp_dim: int = 2048
    memory_encoder_layers: int = 2
    no_object_memory: bool = True
    temporal_pointers: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.trunk, (HieraConfig, ConvNetConfig)):
            raise TypeError(f"trunk is {self.trunk!r}; it must be a HieraConfig or a ConvNetConfig")
        for f in dataclasses.fields(self):
            if f.type == "bool" and not isinstance(getattr(self, f.name), bool):
                raise ValueError(f"{f.name} is {getattr(self, f.name)!r}; it must be true or false")
            if f.type == "int":
                _require_positive(self, f.name)
        # 8 heads of half the width in the mask decoder; pairs of channels for two axes in the rotary code.
        if self.dim % 16 or self.dim < 32:
            raise ValueError(f"dim is {self.dim}; it must be a multiple of 16, at least 32")
        if self.memory_dim % 4 or self.dim % self.memory_dim:  # sines and cosines of two axes
            raise ValueError(
                f"memory_dim is {self.memory_dim}; it must be a multiple of 4 that divides dim, {self.dim}"
            )

    def to_json(self) -> str:
        """Return the configuration as JSON, as kept in the metadata of a safetensors file."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote."""
        return cls.from_dict(json.loads(text))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make a configuration from plain values; what the trunk is made of tells its kind.

        Raises
        ------
        TypeError
            If a name is unknown, or the trunk is no table.
        ValueError
            If a value is out of its range.
        """
        table = values.get("trunk", {})
        if not isinstance(table, Mapping):
            raise TypeError(f"trunk is {table!r}; it must be a table")
        trunk: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}
        kind = ConvNetConfig if "channels" in trunk else HieraConfig
        return cls(**{**values, "trunk": kind(**trunk)})


TINY = HieraConfig()
SMALL = HieraConfig(stages=(1, 2, 11, 2), global_attention_blocks=(7, 10, 13))
BASE_PLUS = HieraConfig(
    embed_dim=112,
    num_heads=2,
    stages=(2, 3, 16, 3),
    global_attention_blocks=(12, 16, 20),
    position_size=(14, 14),
)
LARGE = HieraConfig(
    embed_dim=144,
    num_heads=2,
    stages=(2, 6, 36, 4),
    global_attention_blocks=(23, 33, 43),
    window_sizes=(8, 4, 16, 8),
)
TRUNKS: Mapping[str, HieraConfig] = {
    "hiera_tiny": TINY,
    "hiera_small": SMALL,
    "hiera_base_plus": BASE_PLUS,
    "hiera_large": LARGE,
}


def config_for(architecture: str) -> NetworkConfig:
    """Return a published architecture by name: "sam2_" or "sam2.1_" and one of `TRUNKS`."""
    version, _, trunk = architecture.partition("_")
    newer = version == "sam2.1"
    return NetworkConfig(trunk=TRUNKS[trunk], no_object_memory=newer, temporal_pointers=newer)


def _count(state: Mapping[str, torch.Tensor], prefix: str) -> int:
    """Return how many numbered children the parameters under `prefix` have."""
    return len({name[len(prefix) :].split(".", 1)[0] for name in state if name.startswith(prefix)})


def config_from_state_dict(state: Mapping[str, torch.Tensor]) -> NetworkConfig | None:
    """Tell a published architecture from the names and shapes of its parameters.

    Parameters
    ----------
    state : mapping of str to tensor
        The parameters by name.

    Returns
    -------
    NetworkConfig or None
        None if these are not the parameters of a SAM 2 network with one of the published trunks.

    Notes
    -----
    Which blocks attend globally, the window sizes and the number of heads leave no trace in the weights;
    they follow from the trunk's width and depth, which tell the four published trunks apart.
    """
    try:
        embed_dim = state["image_encoder.trunk.patch_embed.proj.weight"].shape[0]
        depth = _count(state, "image_encoder.trunk.blocks.")
        dim = state["no_mem_embed"].shape[-1]
        num_maskmem, _, _, memory_dim = state["maskmem_tpos_enc"].shape
        memory_mlp_dim = state["memory_attention.layers.0.linear1.weight"].shape[0]
        decoder_mlp_dim = state["sam_mask_decoder.transformer.layers.0.mlp.layers.0.weight"].shape[0]
    except (KeyError, ValueError, IndexError):
        return None
    trunk = next((t for t in TRUNKS.values() if (t.embed_dim, sum(t.stages)) == (embed_dim, depth)), None)
    if trunk is None:
        return None
    return NetworkConfig(
        trunk=trunk,
        dim=dim,
        memory_dim=memory_dim,
        num_maskmem=num_maskmem,
        memory_attention_layers=_count(state, "memory_attention.layers."),
        memory_attention_mlp_dim=memory_mlp_dim,
        decoder_mlp_dim=decoder_mlp_dim,
        memory_encoder_layers=_count(state, "memory_encoder.fuser.layers."),
        no_object_memory="no_obj_embed_spatial" in state,
        temporal_pointers="obj_ptr_tpos_proj.weight" in state,
    )
