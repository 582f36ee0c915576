"""When a mask that clicks lead to is taken, and when it is corrected again. SAM 2 does none of this."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from napari_surgsam2.network import NEGATIVE, Decoded, contradicted_clicks

from .memory import LOGIT_RANGE, FrameMemory

Decode: TypeAlias = Callable[[Tensor, Tensor, Tensor | None], Decoded]
"""Makes a mask of clicks' positions and labels, (1, N, 2) and (1, N), and the logits of an earlier mask."""


def unless_worse(decoded: Decoded, prior: FrameMemory, xy: Tensor, labels: Tensor) -> Decoded:
    """Return the mask so far, if clicks that it contradicts led to none that obeys more or may fit better.

    A mask that the user gave stays too where all clicks are negative and it contradicts none of them.
    """
    logits = prior.logits[None, None].to(xy.device)
    before, now = (int(contradicted_clicks(mask, xy, labels)) for mask in (logits, decoded.logits))
    if before:
        stays = now >= before and float(decoded.iou) < prior.iou
    else:
        stays = prior.is_given and bool((labels <= NEGATIVE).all())
    if prior.score <= 0 or not stays:
        return decoded
    pointer = prior.pointer[None].to(xy.device)
    score, iou = (torch.tensor([[value]], device=xy.device) for value in (prior.score, prior.iou))
    return Decoded(logits, pointer, score, iou)


def without_others(decode: Decode, decoded: Decoded, xy: Tensor, labels: Tensor, others: Tensor) -> Decoded:
    """Correct a mask that covers places (N, 2) clicked on other objects, as negative clicks there would.

    It stays as it is if that helps none of them, or would cost a click of its own or the object itself.
    """
    if not len(others):
        return decoded
    negative = torch.full((len(others), 1), NEGATIVE, device=xy.device)
    covered = (
        contradicted_clicks(decoded.logits.expand(len(others), -1, -1, -1), others[:, None], negative) > 0
    )
    if not covered.any():
        return decoded
    away = others[covered[:, 0]][None]
    all_xy, all_labels = torch.cat((xy, away), dim=1), torch.cat((labels, negative[: away.shape[1]].T), dim=1)
    again = decode(all_xy, all_labels, decoded.logits.clamp(-LOGIT_RANGE, LOGIT_RANGE))
    if float(decoded.score) > 0 >= float(again.score):
        return decoded
    before, now = (int(contradicted_clicks(d.logits, xy, labels)) for d in (decoded, again))
    all_before, all_now = (int(contradicted_clicks(d.logits, all_xy, all_labels)) for d in (decoded, again))
    return again if now <= before and all_now < all_before else decoded
