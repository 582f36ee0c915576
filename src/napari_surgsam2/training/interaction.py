"""A user that is simulated: first clicks, boxes and masks, and clicks that correct mistakes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_surgsam2.network import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, MASK_STRIDE, NEGATIVE, POSITIVE
from napari_surgsam2.prompts import central_position

_MISTAKES = ("both", "other", "part", "more")
_MISTAKE_SHARES = (0.4, 0.15, 0.3, 0.15)
_MISTAKE_LOGITS = (3.0, 10.0)  # how sure of itself a mistaken mask is
_BOX_NOISE = 0.1  # of the box's side, as in Segment Anything
_BOX_NOISE_LIMIT = 20 / 1024  # of the picture's side


def click_in(region: Tensor, rng: np.random.Generator, central: float) -> Tensor:
    """Click into regions.

    Parameters
    ----------
    region : tensor, shape (B, S, S), bool
        Where to click; anywhere in the picture where a region is empty.
    rng : numpy.random.Generator
        Where the randomness comes from.
    central : float
        Probability that a click is as far inside as possible rather than anywhere in the region.

    Returns
    -------
    tensor, shape (B, 1, 2), float32
        Positions (x, y) in pixels.
    """
    out = np.empty((len(region), 1, 2), dtype=np.float32)
    for b, inside in enumerate(region.cpu().numpy()):
        central_one = rng.random() < central and inside.any()
        y, x = _central(inside) if central_one else _uniform(inside, rng)
        out[b, 0] = x, y
    return torch.from_numpy(out).to(region.device)


def _central(inside: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """Return the place farthest inside, of every other row and column where they show any of the region."""
    coarse = inside[::2, ::2]  # distances take a quarter of the time there, which adds up
    if not coarse.any():
        return central_position(inside)
    y, x = central_position(coarse)
    return 2 * y, 2 * x


def _uniform(inside: npt.NDArray[np.bool_], rng: np.random.Generator) -> tuple[int, int]:
    places = np.flatnonzero(inside)
    place = int(places[rng.integers(len(places))]) if len(places) else int(rng.integers(inside.size))
    y, x = divmod(place, inside.shape[1])
    return y, x


def box_around(masks: Tensor, rng: np.random.Generator) -> Tensor:
    """Draw boxes around masks (B, S, S), none of them empty, not quite exactly; (B, 2, 2) corners (x, y)."""
    size = masks.shape[-1]
    corners = np.empty((len(masks), 2, 2), dtype=np.float32)
    for b, inside in enumerate(masks.cpu().numpy()):
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        corners[b] = (columns[0], rows[0]), (columns[-1], rows[-1])
    sides = corners[:, 1] - corners[:, 0]
    spread = np.minimum(_BOX_NOISE * sides, _BOX_NOISE_LIMIT * size)[:, None]
    noisy = corners + rng.uniform(-1, 1, corners.shape) * spread
    return torch.from_numpy(noisy.clip(0, size - 1).astype(np.float32)).to(masks.device)


def box_labels(count: int, device: torch.device) -> Tensor:
    """Return the labels of the corners of `count` boxes, (count, 2)."""
    return torch.tensor([[BOX_TOP_LEFT, BOX_BOTTOM_RIGHT]], device=device).expand(count, -1)


def corrective_click(
    masks: Tensor,
    predicted: Tensor,
    rng: np.random.Generator,
    central: float,
    void: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Click where a prediction is wrong: positive where it misses the object, negative where it is too much.

    Which of the two is drawn in proportion to their areas. Where nothing is wrong, the click is on the
    object, or negative beside it where there is none.

    Parameters
    ----------
    masks, predicted : tensor, shape (B, S, S), bool
        True masks, and what was made of them.
    rng, central
        As of `click_in`.
    void : tensor, shape (B, S, S), bool, optional
        Pixels of which nobody knows what they show: nothing is wrong there, and there is no click.

    Returns
    -------
    xy : tensor, shape (B, 1, 2), float32
    labels : tensor, shape (B, 1), integer
    """
    ground = ~masks if void is None else ~masks & ~void
    missed, extra = masks & ~predicted, predicted & ground
    areas = torch.stack([missed.flatten(1).sum(1), extra.flatten(1).sum(1)], dim=1).cpu().numpy()
    wrong = areas.sum(axis=1)
    right = masks.flatten(1).any(1).cpu().numpy()
    positive = np.where(wrong > 0, rng.random(len(areas)) * wrong < areas[:, 0], right)
    chosen = torch.from_numpy(positive).to(masks.device)
    region = torch.where(chosen[:, None, None], missed, extra)
    settled = torch.from_numpy(wrong == 0).to(masks.device)[:, None, None]
    region = torch.where(settled, torch.where(chosen[:, None, None], masks, ground), region)
    labels = torch.where(chosen, POSITIVE, NEGATIVE)[:, None]
    return click_in(region, rng, central), labels


def mistaken_masks(
    masks: Tensor, clip: Tensor, rng: np.random.Generator, which: Sequence[int] | None = None
) -> Tensor:
    """Make masks as wrong as a tracker's are at times.

    A mask takes in another object of its clip as well, or instead; it leaves out what is on one side of a
    line through it; or it runs over its edges. What a good network's own masks no longer teach about
    corrections, these do.

    Parameters
    ----------
    masks : tensor, shape (B, S, S), bool
        True masks.
    clip : tensor, shape (B,), integer
        The clip of each.
    rng : numpy.random.Generator
        Where the randomness comes from.
    which : sequence of int, optional
        The places of those to make wrong, W of them; all if left out.

    Returns
    -------
    tensor, shape (W, 1, S / 4, S / 4), float32
        Mask logits.
    """
    clips = clip.tolist()
    seen = masks.flatten(1).any(1).tolist()
    wrong = []
    for b in range(len(masks)) if which is None else which:
        mask = masks[b]
        others = [i for i, c in enumerate(clips) if c == clips[b] and i != b and seen[i]]
        kind = str(rng.choice(_MISTAKES, p=_MISTAKE_SHARES))
        other = masks[int(rng.choice(others))] if others else None
        if kind in ("both", "other") and other is not None:
            wrong.append(mask | other if kind == "both" else other)
        elif kind == "more" or not seen[b]:
            wrong.append(_grown(mask, rng))
        else:
            wrong.append(mask & _side(mask, rng))
    shares = F.avg_pool2d(torch.stack(wrong)[:, None].float(), MASK_STRIDE)
    sure = torch.from_numpy(rng.uniform(*_MISTAKE_LOGITS, len(wrong)).astype(np.float32)).to(masks.device)
    logits: Tensor = (2 * shares - 1) * sure[:, None, None, None]
    return logits


def _grown(mask: Tensor, rng: np.random.Generator) -> Tensor:
    """Return a mask that runs over its edges by up to an eighth of the picture."""
    by = int(rng.integers(1, mask.shape[-1] // 8 + 1))
    wide = F.max_pool2d(mask[None].float(), (1, 2 * by + 1), stride=1, padding=(0, by))
    grown: Tensor = F.max_pool2d(wide, (2 * by + 1, 1), stride=1, padding=(by, 0))[0] > 0
    return grown


def _side(mask: Tensor, rng: np.random.Generator) -> Tensor:
    """Return all that is on one side of a line through some place of a mask, (S, S)."""
    y, x = _uniform(mask.cpu().numpy(), rng)
    angle = rng.uniform(0, 2 * np.pi)
    rows, columns = (torch.arange(n, device=mask.device) for n in mask.shape)
    return (rows - y)[:, None] * float(np.sin(angle)) + (columns - x) * float(np.cos(angle)) > 0
