"""The whole network, and the steps that a tracker takes with it.

The steps follow *SAM 2: Segment Anything in Images and Videos* (arXiv 2408.00714) and its published
inference settings; coordinates inside are (x, y) in pixels of the network's square input.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import NetworkConfig
from .image_encoder import ImageEncoder
from .layers import MLP
from .mask_decoder import DecodedMasks, MaskDecoder
from .memory_attention import MemoryAttention
from .memory_encoder import MemoryEncoder
from .positions import sine_line
from .prompt_encoder import NEGATIVE, PADDING, POSITIVE, PromptEncoder

STRIDE = 16  # of the image features that memories live on
MASK_STRIDE = 4  # of the mask logits
NO_OBJECT_LOGIT = -1024.0  # everywhere in the mask of an object that is not in the frame

# A memory is encoded from 20 * probability - 10, and a mask that the user gave has the logits -10 and 10.
_MASK_SCALE, _MASK_BIAS = 20.0, -10.0
GIVEN_MASK_LOGIT = 10.0
_HIGHEST_IOU = 1 - 2**-10  # that is predicted: 1 is of given masks alone, and bfloat16 rounds up to it
CONTRADICTION = 0.25  # of predicted IoU: what a click that a mask contradicts weighs
_DENIAL = 3.0  # of the score's logit: what negative clicks weigh that the mask contradicts all the same
_CLICKED_SCORE = 1e-3  # at least, of an object that the user says is in the frame
_IMAGE_MEAN = (0.485, 0.456, 0.406)
_IMAGE_STD = (0.229, 0.224, 0.225)


class FrameFeatures(NamedTuple):
    """Image features of one frame.

    Attributes
    ----------
    image : tensor, shape (1, dim, h, w)
        At stride 16; memories are attended to and made from these.
    fine : tensor, shape (1, dim / 4, 2 h, 2 w)
        At stride 8, for the mask decoder.
    finest : tensor, shape (1, dim / 8, 4 h, 4 w)
        At stride 4, for the mask decoder.
    """

    image: Tensor
    fine: Tensor
    finest: Tensor

    @property
    def nbytes(self) -> int:
        """Memory taken, in bytes."""
        return sum(t.nbytes for t in self)


class Decoded(NamedTuple):
    """The masks of B objects in a frame.

    Attributes
    ----------
    logits : tensor, shape (B, 1, 4 h, 4 w), float32
        Mask logits at a quarter of the input's side; `NO_OBJECT_LOGIT` where the object is not in the frame.
    pointer : tensor, shape (B, dim)
        Object pointers.
    score : tensor, shape (B, 1), float32
        Logit of the object being in the frame.
    iou : tensor, shape (B, 1), float32
        Predicted IoU of the mask, between 0 and 1.
    """

    logits: Tensor
    pointer: Tensor
    score: Tensor
    iou: Tensor


class Sam2Network(nn.Module):
    """SAM 2 or SAM 2.1; parameter names and shapes are those of the published checkpoints."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        dim, memory_dim = config.dim, config.memory_dim
        self.maskmem_tpos_enc = nn.Parameter(torch.zeros(config.num_maskmem, 1, 1, memory_dim))
        self.no_mem_embed = nn.Parameter(torch.zeros(1, 1, dim))
        self.no_mem_pos_enc = nn.Parameter(torch.zeros(1, 1, dim))  # in the checkpoints, used nowhere
        self.no_obj_ptr = nn.Parameter(torch.zeros(1, dim))
        if config.no_object_memory:
            self.no_obj_embed_spatial = nn.Parameter(torch.zeros(1, memory_dim))
        self.image_encoder = ImageEncoder(config.trunk, dim)
        self.mask_downsample = nn.Conv2d(1, 1, 4, stride=4)
        self.memory_attention = MemoryAttention(
            dim, memory_dim, config.memory_attention_mlp_dim, config.memory_attention_layers
        )
        self.memory_encoder = MemoryEncoder(dim, memory_dim, config.memory_encoder_layers)
        self.sam_prompt_encoder = PromptEncoder(dim)
        self.sam_mask_decoder = MaskDecoder(dim, config.decoder_mlp_dim)
        self.obj_ptr_proj = MLP(dim, dim, dim, dim)
        if config.temporal_pointers:
            self.obj_ptr_tpos_proj = nn.Linear(dim, memory_dim)
        mean = torch.tensor(_IMAGE_MEAN).view(1, 3, 1, 1)
        std = torch.tensor(_IMAGE_STD).view(1, 3, 1, 1)
        self.register_buffer("_mean", mean, persistent=False)
        self.register_buffer("_std", std, persistent=False)

    _mean: Tensor
    _std: Tensor

    def encode_image(self, images: Tensor) -> FrameFeatures:
        """Encode images.

        Parameters
        ----------
        images : tensor, shape (B, S, S, 3), uint8
            RGB; S is a multiple of 32.

        Returns
        -------
        FrameFeatures
            Of B frames.
        """
        x = images.permute(0, 3, 1, 2).float().div_(255).sub_(self._mean).div_(self._std)
        decoder = self.sam_mask_decoder
        finest, fine, image = self.image_encoder(x, decoder.conv_s0, decoder.conv_s1)
        return FrameFeatures(image, fine, finest)

    def without_memory(self, features: FrameFeatures) -> Tensor:
        """Return what the mask decoder gets of a frame without memories, (1, dim, h, w)."""
        return features.image + self.no_mem_embed[0, 0, :, None, None]

    def decode(
        self,
        image: Tensor,
        features: FrameFeatures,
        xy: Tensor | None = None,
        labels: Tensor | None = None,
        mask_logits: Tensor | None = None,
        obey_clicks: bool = False,
    ) -> Decoded:
        """Predict the masks of B objects.

        Three candidates are made and the one of the highest predicted IoU is taken, except where two or more
        points (a box counts as two) say which mask is meant.

        Parameters
        ----------
        image : tensor, shape (B, dim, h, w)
            Features of the frame with each object's memories, or `without_memory`.
        features : FrameFeatures
            The frame, shared by the objects.
        xy, labels : tensor, shapes (B, N, 2) float32 and (B, N) integer, optional
            Points and box corners; see `PromptEncoder.embed_points`.
        mask_logits : tensor, shape (B, 1, 4 h, 4 w), optional
            An earlier mask to start from.
        obey_clicks : bool
            Where the mask would contradict a click, look at all four candidates, and hold every contradicted
            click against each as a predicted IoU that is 0.25 lower. An object that has a positive click, or
            an earlier mask that agrees with all clicks, is in the frame, whatever its score; where all clicks
            are negative, a mask that contradicts one all the same loses 3 of its score. SAM 2 does none of
            this.
        """
        masks = self.candidates(image, features, xy, labels, mask_logits)
        if not obey_clicks or xy is None or labels is None:
            return self.choose(masks)
        in_view = (labels == POSITIVE).any(dim=1, keepdim=True)
        if mask_logits is not None:  # a mask that no click contradicts stays
            there = (mask_logits > 0).flatten(1).any(dim=1, keepdim=True)
            in_view |= there & (contradicted_clicks(mask_logits, xy, labels) == 0)
        score = torch.where(in_view, masks.object_score.clamp(min=_CLICKED_SCORE), masks.object_score)
        masks = masks._replace(object_score=score)
        contradicted = contradicted_clicks(masks.logits, xy, labels)
        usual = contradicted.take_along_dim(masks.iou.argmax(-1, keepdim=True), dim=1)
        if bool(usual.any()):
            more = self.candidates(image, features, xy, labels, mask_logits, every=True)
            counts = contradicted_clicks(more.logits, xy, labels)
            # Who agrees with the clicks keeps the mask, and nobody gets one that contradicts more of them.
            counts = torch.where((usual == 0) | (counts > usual), 100, counts)
            contradicted = torch.cat((contradicted, counts), dim=1)
            logits, iou, tokens = (torch.cat(pair, dim=1) for pair in zip(masks[:3], more[:3], strict=True))
            masks = DecodedMasks(logits, iou, tokens, masks.object_score)
        denied = contradicted.take_along_dim(self.best(masks, contradicted), dim=1) > 0
        denied &= (labels <= NEGATIVE).all(dim=1, keepdim=True) & ~in_view
        score = masks.object_score - _DENIAL * denied
        return self.choose(masks._replace(object_score=score), contradicted)

    def candidates(
        self,
        image: Tensor,
        features: FrameFeatures,
        xy: Tensor | None = None,
        labels: Tensor | None = None,
        mask_logits: Tensor | None = None,
        multimask: bool | None = None,
        every: bool = False,
    ) -> DecodedMasks:
        """Return the candidate masks, which training learns from; parameters as of `decode`.

        Three or a single one, as `multimask` or else the number of points says; all four if `every`.
        """
        if multimask is None:
            multimask = xy is None or xy.shape[1] < 2
        B, _, h, w = image.shape
        if xy is None or labels is None:
            xy = torch.zeros(B, 1, 2, device=image.device)
            labels = torch.full((B, 1), PADDING, device=image.device)
        prompt = self.sam_prompt_encoder
        masks: DecodedMasks = self.sam_mask_decoder(
            image,
            prompt.pe_layer.grid(h, w),
            prompt.embed_points(xy, labels, h * STRIDE),
            prompt.no_mask() if mask_logits is None else prompt.embed_mask(mask_logits),
            features.fine,
            features.finest,
            multimask,
            every,
        )
        return masks

    def choose(self, masks: DecodedMasks, contradicted: Tensor | None = None) -> Decoded:
        """Take the candidate of the highest predicted IoU.

        `contradicted` (B, M) says how many clicks each contradicts, which counts against it; see
        `contradicted_clicks`.
        """
        best = self.best(masks, contradicted)
        score = masks.object_score.float()
        present = score > 0
        logits = masks.logits.take_along_dim(best[..., None, None], dim=1).float()
        logits = torch.where(present[..., None, None], logits, NO_OBJECT_LOGIT)
        token = masks.tokens.take_along_dim(best[..., None], dim=1)[:, 0]
        pointer = torch.where(present, self.obj_ptr_proj(token).float(), self.no_obj_ptr)
        iou = masks.iou.take_along_dim(best, dim=1).float().clamp(max=_HIGHEST_IOU)
        return Decoded(logits, pointer, score, iou)

    @staticmethod
    def best(masks: DecodedMasks, contradicted: Tensor | None) -> Tensor:
        """Return which candidate `choose` takes, (B, 1)."""
        worth = masks.iou if contradicted is None else masks.iou.float() - CONTRADICTION * contradicted
        return worth.argmax(-1, keepdim=True)

    def decode_given_mask(self, features: FrameFeatures, mask: Tensor) -> Decoded:
        """Take a mask as it is; only its object pointer comes from the mask decoder.

        Parameters
        ----------
        features : FrameFeatures
            The frame.
        mask : tensor, shape (B, 1, S, S), bool
            The masks at the size of the network's input.
        """
        mask = mask.float()
        side = [n // MASK_STRIDE for n in mask.shape[-2:]]
        logits = mask * _MASK_SCALE + _MASK_BIAS
        if mask.device.type == "mps":  # older versions of torch cannot smooth there
            logits = logits.cpu()
        logits = F.interpolate(logits, side, mode="bilinear", antialias=True).to(mask.device)
        masks = self.candidates(
            features.image, features, mask_logits=self.mask_downsample(mask), multimask=False
        )
        decoded = self.choose(masks)
        present = mask.flatten(1).any(dim=1, keepdim=True)
        top = logits.amax((-2, -1), keepdim=True)
        # A mask so thin that none of it would be left is cut at half of its highest value.
        thin = present[..., None, None] & (top <= 0)
        logits = torch.where(thin, logits - (top + _MASK_BIAS) / 2, logits)
        pointer = torch.where(present, decoded.pointer, self.no_obj_ptr)
        score = torch.where(present, _MASK_SCALE + _MASK_BIAS, _MASK_BIAS)
        return Decoded(logits, pointer, score, torch.ones_like(score))

    def encode_memory(self, features: FrameFeatures, logits: Tensor, score: Tensor, binarize: bool) -> Tensor:
        """Make the memories of B objects in a frame.

        Parameters
        ----------
        features : FrameFeatures
            The frame, shared by the objects.
        logits : tensor, shape (B, 1, 4 h, 4 w)
            Mask logits.
        score : tensor, shape (B, 1)
            Logit of the object being in the frame.
        binarize : bool
            Encode the mask as the user saw it, as SAM 2 does for prompted frames, rather than probabilities.

        Returns
        -------
        tensor, shape (B, memory_dim, h, w), float32
        """
        mask = F.interpolate(logits, scale_factor=float(MASK_STRIDE), mode="bilinear")
        mask = (mask > 0).float() if binarize else mask.sigmoid()
        memory = self.memory_encoder(features.image, mask * _MASK_SCALE + _MASK_BIAS).float()
        if self.config.no_object_memory:
            absent = (score <= 0).float()[..., None, None]
            memory = memory + absent * self.no_obj_embed_spatial[..., None, None]
        out: Tensor = memory
        return out

    def memory_times(self, height: int, width: int) -> Tensor:
        """Return what a memory's time adds to its keys, (num_maskmem, L, height * width, dim).

        Entry d - 1 is for a memory d frames back, the last one for conditioning memories.
        """
        return self.memory_attention.project_times(self.maskmem_tpos_enc[:, 0, 0], height, width)

    def project_pointers(self, pointers: Tensor, distances: Tensor, longest: int) -> tuple[Tensor, Tensor]:
        """Project object pointers for the memory attention.

        Parameters
        ----------
        pointers : tensor, shape (B, P, dim)
            Pointers of B objects.
        distances : tensor, shape (B, P), float32
            How many frames each lies back; negative ahead.
        longest : int
            The largest distance that occurs, at least 1; the codes are scaled by it.

        Returns
        -------
        keys, values : tensor, shape (B, L, P * dim / memory_dim, dim)
        """
        B, P, dim = pointers.shape
        memory_dim = self.config.memory_dim
        parts = dim // memory_dim
        tokens = pointers.reshape(B, P * parts, memory_dim)
        if self.config.temporal_pointers:
            codes = self.obj_ptr_tpos_proj(sine_line(distances.flatten() / longest, dim))
            times = codes.view(B, P, memory_dim).repeat_interleave(parts, dim=1)
        else:
            times = torch.zeros_like(tokens)
        return self.memory_attention.project_pointers(tokens, times)


def contradicted_clicks(logits: Tensor, xy: Tensor, labels: Tensor) -> Tensor:
    """Count the clicks that masks contradict: positive ones outside them, negative ones inside.

    Parameters
    ----------
    logits : tensor, shape (B, M, 4 h, 4 w)
        Mask logits of M candidates for each of B objects.
    xy, labels : tensor, shapes (B, N, 2) float32 and (B, N) integer
        Points in pixels of the network's input; those that are no clicks are not counted.

    Returns
    -------
    tensor, shape (B, M), integer
    """
    size = torch.tensor(logits.shape[:1:-1], device=xy.device) * MASK_STRIDE
    # xy is the video's pixel times a scale, so the pixel's middle is here to half a pixel of the video.
    places = (2 * xy / size - 1)[:, None]
    inner = 1 - MASK_STRIDE / size  # the outermost logits
    at = F.grid_sample(logits.float(), places.clamp(-inner, inner), align_corners=False)[:, :, 0]
    outside, inside = (labels == POSITIVE)[:, None] & (at <= 0), (labels == NEGATIVE)[:, None] & (at > 0)
    return (outside | inside).sum(-1)
