"""The same network twice: ours, and transformers' `Sam2VideoModel` with the same weights."""

import re

import torch
from torch import Tensor, nn
from transformers import Sam2VideoConfig, Sam2VideoModel

from napari_surgsam2.network import HieraConfig, NetworkConfig, Sam2Network
from tests.helpers.weights import rule_network

IMAGE_SIZE = 128
# `Sam2VideoModel` has the 64 channels of a memory written into its memory attention, and always projects to
# them, so that `dim` must be a larger multiple.
SAM2 = NetworkConfig(
    trunk=HieraConfig(
        embed_dim=16,
        num_heads=2,
        stages=(1, 2, 1, 1),
        global_attention_blocks=(2,),
        window_sizes=(8, 4, 16, 8),
        position_size=(14, 14),
    ),
    dim=128,
    memory_dim=64,
    memory_attention_layers=2,
    memory_attention_mlp_dim=96,
    decoder_mlp_dim=96,
    memory_encoder_layers=1,
    no_object_memory=False,
    temporal_pointers=False,
)
SAM2_1 = NetworkConfig(
    trunk=HieraConfig(embed_dim=16, stages=(1, 1, 2, 1), global_attention_blocks=(3,)),
    dim=128,
    memory_dim=64,
    memory_attention_layers=2,
    memory_attention_mlp_dim=96,
    decoder_mlp_dim=96,
)


def network_of(config: NetworkConfig, score_bias: float = 5.0) -> Sam2Network:
    """Return a network with made-up weights of ordinary size.

    `score_bias` is added to the logit of an object being in the frame; with 5 all objects are, always.
    """
    network = rule_network(config)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if re.search(r"embed|tpos|no_obj|gamma", name) and "patch_embed" not in name:
                parameter.mul_(4)  # so that codes and embeddings weigh as much as what they are added to
        network.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(score_bias)
    return network


def twin(network: Sam2Network, image_size: int = IMAGE_SIZE) -> Sam2VideoModel:
    """Return transformers' model of the same network, with the same weights."""
    model = Sam2VideoModel(transformers_config(network.config, image_size)).eval()
    model.load_state_dict(transformers_state(network.state_dict()), strict=True)
    return model


def transformers_config(config: NetworkConfig, image_size: int) -> Sam2VideoConfig:
    """Return transformers' description of a network for an input of `image_size` pixels."""
    trunk, dim = config.trunk, config.dim
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": trunk.embed_dim,
        "num_attention_heads": trunk.num_heads,
        "image_size": [image_size, image_size],
        "window_positional_embedding_background_size": list(trunk.position_size),
        "blocks_per_stage": list(trunk.stages),
        "embed_dim_per_stage": list(trunk.channels),
        "num_attention_heads_per_stage": [trunk.num_heads * 2**stage for stage in range(4)],
        "window_size_per_stage": list(trunk.window_sizes),
        "global_attention_blocks": list(trunk.global_attention_blocks),
    }
    return Sam2VideoConfig(
        vision_config={
            "backbone_config": backbone,
            "backbone_channel_list": list(reversed(trunk.channels)),
            "backbone_feature_sizes": [[image_size // stride] * 2 for stride in (4, 8, 16)],
            "fpn_hidden_size": dim,
        },
        prompt_encoder_config={"hidden_size": dim, "image_size": image_size},
        mask_decoder_config={
            "hidden_size": dim,
            "mlp_dim": config.decoder_mlp_dim,
            "iou_head_hidden_dim": dim,
        },
        image_size=image_size,
        num_maskmem=config.num_maskmem,
        max_object_pointers_in_encoder=config.max_object_pointers,
        enable_occlusion_spatial_embedding=config.no_object_memory,
        enable_temporal_pos_encoding_for_object_pointers=config.temporal_pointers,
        memory_attention_hidden_size=dim,
        memory_attention_num_layers=config.memory_attention_layers,
        memory_attention_feed_forward_hidden_size=config.memory_attention_mlp_dim,
        memory_attention_rope_feat_sizes=[image_size // 16] * 2,
        memory_encoder_hidden_size=dim,
        memory_encoder_output_channels=config.memory_dim,
        mask_downsampler_embed_dim=dim,
        memory_fuser_num_layers=config.memory_encoder_layers,
        memory_fuser_embed_dim=dim,
        memory_fuser_intermediate_dim=4 * dim,
    )


def transformers_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename our parameters to transformers'; every one is used, and none is written twice."""
    state = dict(state)
    points = [state.pop(f"sam_prompt_encoder.point_embeddings.{i}.weight") for i in range(4)]
    fourier = state.pop("sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix")
    renamed = {
        "prompt_encoder.point_embed.weight": torch.cat(points),
        # One matrix for clicks and for the image's positions; transformers has it twice.
        "prompt_encoder.shared_embedding.positional_embedding": fourier,
        "shared_image_embedding.positional_embedding": fourier,
    }
    for name, value in state.items():
        new = transformers_name(name)
        assert new not in renamed, f"{name} and another parameter are both called {new}"
        renamed[new] = value
    return renamed


_WHOLE = {
    "maskmem_tpos_enc": "memory_temporal_positional_encoding",
    "no_mem_embed": "no_memory_embedding",
    "no_mem_pos_enc": "no_memory_positional_encoding",
    "no_obj_ptr": "no_object_pointer",
    "no_obj_embed_spatial": "occlusion_spatial_embedding_parameter",
}
_PARTS = (
    (r"^image_encoder\.trunk\.", "vision_encoder.backbone."),
    (r"^image_encoder\.neck\.convs\.(\d)\.conv\.", r"vision_encoder.neck.convs.\1."),
    (r"\.patch_embed\.proj\.", ".patch_embed.projection."),
    (r"^sam_prompt_encoder\.", "prompt_encoder."),
    (r"^sam_mask_decoder\.", "mask_decoder."),
    (r"^obj_ptr_proj\.", "object_pointer_proj."),
    (r"^obj_ptr_tpos_proj\.", "temporal_positional_encoding_projection_layer."),
    (r"^memory_encoder\.out_proj\.", "memory_encoder.projection."),
    (r"^memory_encoder\.pix_feat_proj\.", "memory_encoder.feature_projection."),
    (r"\.fuser\.", ".memory_fuser."),
    (r"\.dwconv\.", ".depthwise_conv."),
    (r"\.pwconv(\d)\.", r".pointwise_conv\1."),
    (r"\.gamma$", ".scale"),
    (r"\.out_proj\.", ".o_proj."),
    (r"\.norm", ".layer_norm"),
    (r"\.output_upscaling\.0\.", ".upscale_conv1."),
    (r"\.output_upscaling\.1\.", ".upscale_layer_norm."),
    (r"\.output_upscaling\.3\.", ".upscale_conv2."),
    (r"\.mask_downscaling\.0\.", ".mask_embed.conv1."),
    (r"\.mask_downscaling\.1\.", ".mask_embed.layer_norm1."),
    (r"\.mask_downscaling\.3\.", ".mask_embed.conv2."),
    (r"\.mask_downscaling\.4\.", ".mask_embed.layer_norm2."),
    (r"\.mask_downscaling\.6\.", ".mask_embed.conv3."),
    (r"\.mask_downsampler\.encoder\.12\.", ".mask_downsampler.final_conv."),
    # Two linear layers in a block's MLP, three in every other.
    (r"\.mlp\.layers\.0\.", ".mlp.proj_in."),
    (r"\.mlp\.layers\.1\.", ".mlp.proj_out."),
    (r"(_mlps\.\d|_head|^object_pointer_proj)\.layers\.0\.", r"\1.proj_in."),
    (r"(_mlps\.\d|_head|^object_pointer_proj)\.layers\.1\.", r"\1.layers.0."),
    (r"(_mlps\.\d|_head|^object_pointer_proj)\.layers\.2\.", r"\1.proj_out."),
)


def transformers_name(name: str) -> str:
    """Return transformers' name of one of our parameters."""
    if name in _WHOLE:
        return _WHOLE[name]
    for pattern, replacement in _PARTS:
        name = re.sub(pattern, replacement, name)
    # Convolution, normalisation and activation in turn: three of ours to one of theirs.
    step = re.search(r"\.mask_downsampler\.encoder\.(\d+)\.", name)
    if step is not None:
        layer, part = divmod(int(step[1]), 3)
        kind = ("conv", "layer_norm")[part]
        name = name.replace(step[0], f".mask_downsampler.layers.{layer}.{kind}.")
    return name


def parameter_count(module: nn.Module) -> int:
    """Return how many numbers a module's parameters have."""
    return sum(p.numel() for p in module.parameters())
