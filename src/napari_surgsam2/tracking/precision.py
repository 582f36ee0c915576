"""What arithmetic the network is reckoned in."""

from __future__ import annotations

from typing import Literal

import torch


def resolve_precision(
    wanted: Literal["auto", "float32", "bfloat16"], device: torch.device, small: bool
) -> torch.dtype:
    """Return torch.float32 or torch.bfloat16.

    Parameters
    ----------
    wanted : {"auto", "float32", "bfloat16"}
        "auto" takes bfloat16 where the device reckons in it itself.
    device : torch.device
        Where the network is.
    small : bool
        Whether the network was made for processors, on which large ones are always in float32.
    """
    if wanted == "auto":
        wanted = "bfloat16" if _has_bfloat16(device, small) else "float32"
    return torch.bfloat16 if wanted == "bfloat16" else torch.float32


def _has_bfloat16(device: torch.device, small: bool) -> bool:
    """Whether a device reckons in bfloat16 itself: a card of CUDA, or for `small` networks a processor."""
    if device.type == "cuda":
        with torch.cuda.device(device):  # torch tells it of the current one only
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu" and small:
        tell = getattr(torch.cpu, "get_capabilities", dict)  # older versions of torch cannot
        return bool({"avx512_bf16", "amx_bf16"} & {name for name, has in tell().items() if has})
    return False
