"""A clip tracked with gradients: the steps of the tracker, for a batch of objects of several clips at once.

As SAM 2 is trained (arXiv 2408.00714, section 4 and appendix): prompts on the first frame, corrective clicks
on it and on others, everything between tracked through the memory bank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_surgsam2.network import (
    MASK_STRIDE,
    POSITIVE,
    Decoded,
    FrameFeatures,
    Sam2Network,
)
from napari_surgsam2.tracking.memory import LOGIT_RANGE

from .batch import Batch
from .interaction import box_around, box_labels, click_in, corrective_click, mistaken_masks
from .losses import LossSums, intersection_over_union, mask_losses, soft_targets, without_void
from .settings import PromptSettings

_FIRST_CORRECTED = 0.7  # how often the first frame is among the corrected ones
_GOING = 0.3  # of the most that is seen of an object in a clip: less is seen of one that goes
_LONGEST_GAP = 3  # between two frames of a clip, as their numbers say


@dataclass(eq=False)
class _Memory:
    """What is kept of a frame: projected keys and values (N, L, h * w, dim) and pointers (N, dim).

    `prompted` says of each of the N objects whether it was prompted or corrected there.
    """

    number: int
    prompted: tuple[bool, ...]
    keys: Tensor
    values: Tensor
    pointer: Tensor

    def of(self, objects: list[int]) -> _Memory:
        """Return what is kept of some of the objects."""
        prompted = tuple(self.prompted[i] for i in objects)
        parts = (x[objects] for x in (self.keys, self.values, self.pointer))
        return _Memory(self.number, prompted, *parts)


@dataclass(eq=False)
class Unrolled:
    """What tracking a batch gave.

    Attributes
    ----------
    losses : list of LossSums
        Of every set of masks that was made.
    logits : dict of int to tensor, shape (N, 1, S / 4, S / 4)
        The masks that a user would have seen, by frame, without gradients.
    meant : dict of int to tensor, shape (N, S, S), bool
        The masks that were asked for there.
    """

    losses: list[LossSums] = field(default_factory=list)
    logits: dict[int, Tensor] = field(default_factory=dict)
    meant: dict[int, Tensor] = field(default_factory=dict)

    def sums(self) -> LossSums:
        """Return the losses summed over every mask that was made of every object, each counting the same."""
        return LossSums.over(self.losses)

    @torch.no_grad()
    def ious(self, batch: Batch) -> list[tuple[int, float]]:
        """Return frames and the mean IoU of their masks, over the objects in view."""
        means = []
        for t, logits in sorted(self.logits.items()):
            targets = soft_targets(self.meant[t])
            seen = F.interpolate(logits, targets.shape[-2:], mode="bilinear")
            shares, counted = without_void(targets, _soft(batch.void_in(t)))
            iou = intersection_over_union(seen, shares, counted)[:, 0]
            known = batch.annotated[t] & targets.flatten(1).any(1)
            if known.any():
                means.append((t, float(iou[known].mean())))
        return means


@dataclass(frozen=True, eq=False)
class _Course:
    """In what order the frames of a batch come, and what the simulated user means in each.

    Attributes
    ----------
    order : list of int
        The frames.
    meant : tensor, shape (T, N, S, S), bool
        The masks that are wanted in the end.
    at_first : tensor, shape (T, N, S, S), bool, or None
        Those that the prompts ask for until frame `set_right` is corrected; `meant` if None.
    set_right : int
        That frame.
    wrong_start : float
        Share of the masks of the first frame that are remembered wrong, unless they are corrected there.
    """

    order: list[int]
    meant: Tensor
    at_first: Tensor | None = None
    set_right: int = 0
    wrong_start: float = 0.0

    def masks(self, t: int) -> tuple[Tensor, Tensor]:
        """Return the masks (N, S, S) that are wanted in a frame before and after it is corrected."""
        if self.at_first is None or t > self.set_right:
            return self.meant[t], self.meant[t]
        return self.at_first[t], (self.meant if t == self.set_right else self.at_first)[t]


class Unroller:
    """Tracks batches with gradients.

    Parameters
    ----------
    network : Sam2Network
        The network, in training mode.
    prompts : PromptSettings
        How the simulated user prompts and corrects.
    memory_dropout : float
        Share of the tracked memories that are left out at random, so that the network gets by without them.
    others : float
        How much more than others pixels of other objects count in the losses.
    """

    def __init__(
        self,
        network: Sam2Network,
        prompts: PromptSettings,
        memory_dropout: float = 0.0,
        others: float = 0.0,
    ) -> None:
        self._network = network
        self._prompts = prompts
        self._dropout = memory_dropout
        self._others = others

    def __call__(self, batch: Batch, rng: np.random.Generator) -> Unrolled:
        """Track a batch; all that is random comes from `rng`."""
        total = len(batch.frames)
        known = batch.annotated.tolist()
        kind = str(rng.choice(("click", "box", "mask"), p=self._prompts.shares))
        corrected = self._corrected_frames(batch, kind, rng)
        course = self._course(batch, corrected, rng)
        numbers = _frame_numbers(rng, total) if self._network.training else np.arange(total)
        features = self._encode(batch)
        memories: list[_Memory] = []
        out = Unrolled()
        for t in course.order:
            frame = FrameFeatures(*(x[t][batch.clip] for x in features))
            if memories:
                image = self._attend(int(numbers[t]), frame, memories, rng)
            else:
                image = self._network.without_memory(frame)
            rounds = int(rng.integers(1, self._prompts.corrections + 1)) if t in corrected else 0
            asked = kind if t == 0 else None
            decoded = self._masks(batch, t, course.masks(t), frame, image, asked, rounds, rng, out)
            if t != course.order[-1]:
                prompted = [t == 0 or (t in corrected and here) for here in known[t]]
                if not rounds:
                    # What begins wrong is set right only where its truth is known then.
                    share = course.wrong_start if t == 0 else self._prompts.wrong_memories
                    among, masks = batch.annotated[course.set_right if t == 0 else t], course.masks(t)[1]
                    decoded = self._misremembered(batch, decoded, frame, masks, share, among, rng)
                memories.append(self._memorize(int(numbers[t]), prompted, frame, decoded))
        self._prompt_anew(batch, features, rng, out)
        return out

    def _prompt_anew(
        self, batch: Batch, features: FrameFeatures, rng: np.random.Generator, out: Unrolled
    ) -> None:
        """Prompt and correct objects in some of the later frames as well, as if nothing had come before."""
        network = self._network
        known = (batch.annotated & batch.masks.flatten(2).any(2))[1:].any(1)
        later = 1 + np.flatnonzero(known.cpu().numpy())
        count = min(self._prompts.prompted_anew, len(later))
        click, box, _ = self._prompts.shares
        if not count or not click + box:
            return
        for t in rng.choice(later, count, replace=False).tolist():
            frame = FrameFeatures(*(x[t][batch.clip] for x in features))
            kind = "click" if rng.random() * (click + box) < click else "box"
            masks, there = batch.masks[t], batch.masks[t].flatten(1).any(1)
            # Who is not there is prompted somewhere as well, and counts nowhere.
            xy, labels = self._prompt(kind, torch.where(there[:, None, None], masks, masks[there][:1]), rng)
            image, counting = network.without_memory(frame), batch.annotated[t] & there
            candidates = network.candidates(image, frame, xy, labels)
            void, weights = batch.void_in(t), self._weights(batch, t, masks)
            out.losses.append(mask_losses(candidates, soft_targets(masks), counting, _soft(void), weights))
            decoded = network.choose(candidates)
            rounds = int(rng.integers(self._prompts.corrections + 1))
            self._correct(
                decoded, frame, image, (xy, labels), (masks, void, weights), counting, rounds, rng, out
            )

    def _weights(self, batch: Batch, t: int, masks: Tensor) -> Tensor | None:
        """Return how much each cell of a frame counts, (N, S / 2, S / 2), where `masks` are wanted."""
        return 1 + self._others * soft_targets(batch.others_in(t, masks)) if self._others else None

    def _prompt(self, kind: str, masks: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Prompt each of the masks (N, S, S) with a click or a box: positions (N, P, 2) and labels (N, P)."""
        if kind == "box":
            xy = box_around(masks, rng)
            return xy, box_labels(len(xy), xy.device)
        xy = click_in(masks, rng, self._prompts.central_click)
        return xy, torch.full(xy.shape[:2], POSITIVE, device=xy.device)

    def _course(self, batch: Batch, corrected: set[int], rng: np.random.Generator) -> _Course:
        """Draw in what order the frames come, and which objects are prompted wrongly at first."""
        order = list(range(len(batch.frames)))
        later = sorted(corrected - {0})
        if not later:
            return _Course(order, batch.masks)
        if rng.random() < self._prompts.corrected_ahead:
            ahead = later[-1]
            return _Course([0, ahead, *(t for t in order[1:] if t != ahead)], batch.masks)
        if not self._prompts.wrong_starts:
            return _Course(order, batch.masks)
        # Half of them by a prompt that is on another object, half by a mask that does not fit.
        share = self._prompts.wrong_starts / 2
        return _Course(order, batch.masks, _strayed(batch, share, later[0], rng), later[0], share)

    def _corrected_frames(self, batch: Batch, kind: str, rng: np.random.Generator) -> set[int]:
        """Draw the frames that get corrective clicks: the first above all, unless a mask was given there.

        In each it is the objects whose truth is known there that get them. Of the frames rather those where
        that is many, and where objects are going or gone: they are the ones that are tracked worst.
        """
        most = self._prompts.corrected_frames if self._prompts.corrections else 0
        chosen = {0} if most and kind != "mask" and rng.random() < _FIRST_CORRECTED else set()
        known = batch.annotated.cpu().numpy()
        others = 1 + np.flatnonzero(known[1:].any(1))
        count = int(rng.integers(max(0, min(most - len(chosen), len(others))) + 1))
        if not count:
            return chosen
        areas = batch.masks.flatten(2).sum(2)
        going = ((areas < _GOING * areas.amax(0)).cpu().numpy() & known).sum(1)
        shares = (known.mean(1) + going)[others]
        return chosen | {int(t) for t in rng.choice(others, count, replace=False, p=shares / shares.sum())}

    def _encode(self, batch: Batch) -> FrameFeatures:
        """Encode all frames; every tensor gets a leading T."""
        total = len(batch.frames)
        flat = batch.frames.flatten(0, 1)
        features = self._network.encode_image(flat)
        return FrameFeatures(*(x.unflatten(0, (total, -1)) for x in features))

    def _masks(
        self,
        batch: Batch,
        t: int,
        meant: tuple[Tensor, Tensor],
        frame: FrameFeatures,
        image: Tensor,
        prompt: str | None,
        rounds: int,
        rng: np.random.Generator,
        out: Unrolled,
    ) -> Decoded:
        """Make the masks of a frame from its features with memories, a prompt and rounds of corrections.

        `meant` are the masks (N, S, S) that are wanted before and after the corrections, which only objects
        get whose truth is known.
        """
        network, (masks, corrected), void = self._network, meant, batch.void_in(t)
        known = batch.annotated[t]
        xy: Tensor | None = None
        labels: Tensor | None = None
        if prompt in ("click", "box"):
            xy, labels = self._prompt(prompt, masks, rng)
        if prompt == "mask":
            decoded = network.decode_given_mask(frame, masks[:, None])
        else:
            candidates = network.candidates(image, frame, xy, labels)
            weights = self._weights(batch, t, masks)
            out.losses.append(mask_losses(candidates, soft_targets(masks), known, _soft(void), weights))
            decoded = network.choose(candidates)
        if rounds:
            mistaken, _ = self._mistaken(decoded, corrected, batch.clip, self._prompts.mistakes, rng)
            truth = corrected, void, self._weights(batch, t, corrected)
            improved = self._correct(mistaken, frame, image, (xy, labels), truth, known, rounds, rng, out)
            decoded = _where(known, improved, decoded)
        out.logits[t], out.meant[t] = decoded.logits.detach(), corrected
        return decoded

    def _correct(
        self,
        decoded: Decoded,
        frame: FrameFeatures,
        image: Tensor,
        prompt: tuple[Tensor | None, Tensor | None],
        truth: tuple[Tensor, Tensor | None, Tensor | None],
        known: Tensor,
        rounds: int,
        rng: np.random.Generator,
        out: Unrolled,
    ) -> Decoded:
        """Correct the masks of a frame with a click after the other.

        `prompt` are the positions and labels of the first prompt, `truth` the masks (N, S, S) that are
        wanted, the void pixels and how much each cell counts; losses are those of the objects (N,) whose
        truth is `known`.
        """
        network, (xy, labels), (masks, void, weights) = self._network, prompt, truth
        targets, soft_void = soft_targets(masks), _soft(void)
        for _ in range(rounds):
            logits = decoded.logits.detach()
            seen = F.interpolate(logits, scale_factor=float(MASK_STRIDE), mode="bilinear")[:, 0] > 0
            more_xy, more_labels = corrective_click(masks, seen, rng, self._prompts.central_click, void)
            xy = more_xy if xy is None else torch.cat((xy, more_xy), dim=1)
            labels = more_labels if labels is None else torch.cat((labels, more_labels), dim=1)
            earlier = logits.clamp(-LOGIT_RANGE, LOGIT_RANGE)
            candidates = network.candidates(image, frame, xy, labels, earlier)
            out.losses.append(mask_losses(candidates, targets, known, soft_void, weights))
            decoded = network.choose(candidates)
        return decoded

    @staticmethod
    def _mistaken(
        decoded: Decoded, masks: Tensor, clip: Tensor, share: float, rng: np.random.Generator
    ) -> tuple[Decoded, Tensor]:
        """Make a share of the masks of a frame wrong; `masks` (N, S, S) are the true ones.

        Returns also which they are, (N,) bool.
        """
        drawn = rng.random(len(decoded.logits)) < share
        chosen = torch.from_numpy(drawn).to(decoded.logits.device)
        if not drawn.any():
            return decoded, chosen
        wrong = mistaken_masks(masks, clip, rng, np.flatnonzero(drawn).tolist())
        logits = decoded.logits.clone()
        logits[chosen] = wrong.to(logits.dtype)
        return decoded._replace(logits=logits), chosen

    def _misremembered(
        self,
        batch: Batch,
        decoded: Decoded,
        frame: FrameFeatures,
        masks: Tensor,
        share: float,
        among: Tensor,
        rng: np.random.Generator,
    ) -> Decoded:
        """Make a share of the masks of a frame wrong, with the pointers and scores of what they show.

        Only of the objects `among` (N,) whose truth is known. With those of the true masks beside them the
        network could tell which memories are wrong.
        """
        made, chosen = self._mistaken(decoded, masks, batch.clip, share, rng)
        chosen = chosen & among
        if not chosen.any():
            return decoded
        decoded = decoded._replace(
            logits=torch.where(chosen[:, None, None, None], made.logits, decoded.logits)
        )
        at = FrameFeatures(*(x[chosen] for x in frame))
        shown = F.interpolate(decoded.logits[chosen], masks.shape[-2:], mode="bilinear") > 0
        given = self._network.decode_given_mask(at, shown)
        pointer, score = decoded.pointer.clone(), decoded.score.clone()
        pointer[chosen] = given.pointer.to(pointer.dtype)
        score[chosen] = given.score.to(score.dtype)
        return decoded._replace(pointer=pointer, score=score)

    def _attend(
        self, number: int, frame: FrameFeatures, memories: Sequence[_Memory], rng: np.random.Generator
    ) -> Tensor:
        """Give the features of the frame of a number its objects' memories.

        Objects that were prompted in the same frames go together; where all truth is known, all do.
        """
        kinds: dict[tuple[bool, ...], list[int]] = {}
        for i, prompted in enumerate(zip(*(m.prompted for m in memories), strict=True)):
            kinds.setdefault(prompted, []).append(i)
        if len(kinds) == 1:
            return self._attend_alike(number, frame, memories, rng)
        parts = [
            self._attend_alike(
                number, FrameFeatures(*(x[objects] for x in frame)), [m.of(objects) for m in memories], rng
            )
            for objects in kinds.values()
        ]
        places = torch.tensor([i for objects in kinds.values() for i in objects])
        return torch.cat(parts)[places.argsort().to(frame.image.device)]

    def _attend_alike(
        self, number: int, frame: FrameFeatures, memories: Sequence[_Memory], rng: np.random.Generator
    ) -> Tensor:
        """Give objects that were prompted in the same frames their memories."""
        network = self._network
        config = network.config
        h, w = frame.image.shape[-2:]
        times = network.memory_times(h, w)
        prompted = [m for m in memories if m.prompted[0]]
        recent = [m for m in memories if not m.prompted[0] and 0 < number - m.number < config.num_maskmem]
        newest = max((m.number for m in recent), default=None)
        if self._dropout:
            recent = [m for m in recent if m.number == newest or rng.random() >= self._dropout]
        used = [(m, config.num_maskmem - 1) for m in prompted] + [(m, number - m.number - 1) for m in recent]
        keys = [m.keys + times[index] for m, index in used]
        values = [m.values for m, _ in used]
        past = [m for m in memories if m.number <= number]  # only pointers that lie back
        pointing = [m for m in past if m.prompted[0] or number - m.number < config.max_object_pointers]
        distances = torch.tensor([[float(number - m.number) for m in pointing]], device=frame.image.device)
        pointers = torch.stack([m.pointer for m in pointing], dim=1)
        longest = max(1, config.max_object_pointers - 1)  # as in videos that are longer than that
        pointer_keys, pointer_values = network.project_pointers(
            pointers, distances.expand(len(pointers), -1), longest
        )
        out: Tensor = network.memory_attention(
            frame.image, torch.cat([*keys, pointer_keys], dim=2), torch.cat([*values, pointer_values], dim=2)
        )
        return out

    def _memorize(
        self, number: int, prompted: Sequence[bool], frame: FrameFeatures, decoded: Decoded
    ) -> _Memory:
        network = self._network
        # Tracking cuts the masks of prompted frames; a mask that is cut has no gradients.
        cut = all(prompted) and not network.training
        memory = network.encode_memory(frame, decoded.logits, decoded.score, binarize=cut)
        keys, values = network.memory_attention.project_memory(memory)
        return _Memory(number, tuple(prompted), keys, values, decoded.pointer)


def _frame_numbers(rng: np.random.Generator, total: int) -> npt.NDArray[np.int64]:
    """Return numbers of the frames of a clip; half of the clips as if frames between them had been left out.

    That way short clips teach the codes of all times, and that the bank may have gaps.
    """
    most = _LONGEST_GAP if rng.random() < 0.5 else 1
    return np.concatenate(([0], np.cumsum(rng.integers(1, most + 1, total - 1))))


def _soft(void: Tensor | None) -> Tensor | None:
    return None if void is None else soft_targets(void)


def _where(chosen: Tensor, these: Decoded, those: Decoded) -> Decoded:
    """Return what was decoded of the chosen objects (N,), and something else of the others."""
    if chosen.all():
        return these
    parts = zip(these, those, strict=True)
    return Decoded(*(torch.where(chosen.view(-1, *[1] * (a.ndim - 1)), a, b) for a, b in parts))


def _strayed(batch: Batch, share: float, set_right: int, rng: np.random.Generator) -> Tensor:
    """Return the masks (T, N, S, S), a share of the objects replaced by another one of its clip.

    Only objects whose truth is known in the frame `set_right`: the others would not be set right there.
    """
    known = batch.annotated[set_right].tolist()
    clips = batch.clip.tolist()
    seen = batch.masks[0].flatten(1).any(1).tolist()
    taken = list(range(len(clips)))
    for b, clip in enumerate(clips):
        others = [i for i, c in enumerate(clips) if c == clip and i != b and seen[i]]
        if others and rng.random() < share and known[b]:
            taken[b] = int(rng.choice(others))
    return batch.masks[:, taken]
