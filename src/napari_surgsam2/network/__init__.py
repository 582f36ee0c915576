"""SAM 2 and SAM 2.1 as torch modules, with the parameter names of the published checkpoints."""

from .config import TRUNKS, ConvNetConfig, HieraConfig, NetworkConfig, config_for, config_from_state_dict
from .mask_decoder import DecodedMasks
from .prompt_encoder import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, NEGATIVE, POSITIVE
from .sam2 import (
    CONTRADICTION,
    GIVEN_MASK_LOGIT,
    MASK_STRIDE,
    NO_OBJECT_LOGIT,
    STRIDE,
    Decoded,
    FrameFeatures,
    Sam2Network,
    contradicted_clicks,
)

__all__ = [
    "BOX_BOTTOM_RIGHT",
    "BOX_TOP_LEFT",
    "CONTRADICTION",
    "GIVEN_MASK_LOGIT",
    "MASK_STRIDE",
    "NEGATIVE",
    "NO_OBJECT_LOGIT",
    "POSITIVE",
    "STRIDE",
    "TRUNKS",
    "ConvNetConfig",
    "Decoded",
    "DecodedMasks",
    "FrameFeatures",
    "HieraConfig",
    "NetworkConfig",
    "Sam2Network",
    "config_for",
    "config_from_state_dict",
    "contradicted_clicks",
]
