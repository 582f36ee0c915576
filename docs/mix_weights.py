"""Mixes two parts of the training of nano as docs/nano-history.md says.

mix_weights.py NEW OLD OUT SHARE [SHARE_OF_MEMORY]
"""

import sys

from safetensors import safe_open
from safetensors.torch import save_file

# What tells whether an object is in view, and all that has to do with other frames.
MEMORY = (
    "mask_downsample.",
    "maskmem_tpos_enc",
    "memory_attention.",
    "memory_encoder.",
    "no_mem",
    "no_obj",
    "obj_ptr",
    "sam_mask_decoder.obj_score_token",
    "sam_mask_decoder.pred_obj_score_head",
)


def mix(new_path: str, old_path: str, out_path: str, new_share: str, of_memory: str = "0.25") -> None:
    """Write the weighted mean of two models of one network, in the number format of the first."""
    with safe_open(new_path, "pt") as new, safe_open(old_path, "pt") as old:
        mixed = {}
        for name in new.keys():  # noqa: SIM118
            share = float(of_memory if name.startswith(MEMORY) else new_share)
            fresh, known = new.get_tensor(name), old.get_tensor(name)
            mixed[name] = (share * fresh.float() + (1 - share) * known.float()).to(fresh.dtype)
        save_file(mixed, out_path, metadata=new.metadata())


if __name__ == "__main__":
    mix(*sys.argv[1:])
