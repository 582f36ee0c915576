"""Our network and tracker compute what transformers' `Sam2VideoModel` computes from the same weights.

Where transformers departs from the published SAM 2 code, a comment says so and the test goes around it.
"""

import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_surgsam2 import PruningSettings, Tracker, TrackingSettings
from napari_surgsam2.checkpoints import Model
from napari_surgsam2.network import FrameFeatures, NetworkConfig, Sam2Network
from napari_surgsam2.tracking.memory import FrameMemory
from napari_surgsam2.video import resize_frame
from tests.helpers.clips import moving_blobs

pytest.importorskip("transformers.models.sam2_video")

from transformers import Sam2VideoModel
from transformers.models.sam2_video import modeling_sam2_video
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

from tests.network.transformers_mapping import (
    IMAGE_SIZE,
    SAM2,
    SAM2_1,
    network_of,
    parameter_count,
    twin,
)

SIDE = IMAGE_SIZE // 16  # of the feature maps that memories live on
CONFIGS = {"SAM 2": SAM2, "SAM 2.1": SAM2_1}

same = partial(torch.testing.assert_close, rtol=1e-4, atol=2e-5)
# Over a clip rounding errors grow; so they do in one network with its weights changed by 1 in 10 million.
same_in_clip = partial(torch.testing.assert_close, rtol=1e-4, atol=5e-4)


@dataclass(repr=False)
class Pair:
    """One network twice."""

    ours: Sam2Network
    theirs: Sam2VideoModel


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request: pytest.FixtureRequest) -> Pair:
    network = network_of(CONFIGS[request.param])
    return Pair(network, twin(network))


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Compute in one thread: the networks are so small that more of them mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _full_precision(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep transformers from rounding memories to bfloat16, which it does whatever the session's dtype."""
    unrounded = types.ModuleType("torch")
    unrounded.__dict__.update(vars(torch), bfloat16=torch.float32)
    monkeypatch.setattr(modeling_sam2_video, "torch", unrounded)
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    """Twenty frames of 72 x 96 pixels: more than an object's memories and pointers reach back."""
    return moving_blobs(20)


def network_images(clip: np.ndarray, size: int = IMAGE_SIZE) -> Tensor:
    """Resize frames for the network, (T, S, S, 3) uint8."""
    return torch.from_numpy(np.stack([resize_frame(frame, size) for frame in clip]))


def normalised(images: Tensor) -> Tensor:
    """Return the pixel values that transformers' processor would make of resized frames, (T, 3, S, S)."""
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
    return ((images / 255 - mean) / std).permute(0, 3, 1, 2)


def features_of(network: Sam2Network, clip: np.ndarray, frame: int = 0) -> FrameFeatures:
    return network.encode_image(network_images(clip[frame : frame + 1]))


def flat(feature_map: Tensor) -> Tensor:
    """Lay a map (B, C, H, W) out as transformers wants it, (H * W, B, C)."""
    return feature_map.flatten(2).permute(2, 0, 1)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# Parts of the network


def test_both_have_the_same_parameters(pair: Pair) -> None:
    assert parameter_count(pair.ours) == parameter_count(pair.theirs)


@pytest.mark.parametrize("size", [IMAGE_SIZE, 160], ids=["whole windows", "padded windows"])
def test_image_features_agree(pair: Pair, clip: np.ndarray, size: int) -> None:
    images = network_images(clip[[0, 9]], size)
    ours = pair.ours.encode_image(images)
    theirs = pair.theirs.get_image_features(normalised(images)).fpn_hidden_states
    for our_map, their_map in zip(reversed(ours), theirs, strict=True):
        same(flat(our_map), their_map)


def test_features_of_several_frames_are_those_of_each(pair: Pair, clip: np.ndarray) -> None:
    together = pair.ours.encode_image(network_images(clip[:2]))
    for frame in range(2):
        for a, b in zip(together, features_of(pair.ours, clip, frame), strict=True):
            same(a[frame : frame + 1], b)


@pytest.mark.parametrize("labels", [[1], [1, 0, 1], [2, 3], [2, 3, 1, 0], [-1]], ids=str)
def test_embedded_points_agree(pair: Pair, labels: list[int]) -> None:
    xy = random(2, len(labels), 2) * 20 + 64
    both = torch.tensor([labels, labels])
    ours = pair.ours.sam_prompt_encoder.embed_points(xy, both, IMAGE_SIZE)
    theirs, _ = pair.theirs.prompt_encoder(xy[:, None], both[:, None], None, None)
    same(ours, theirs[:, 0])


def test_embedded_masks_agree(pair: Pair) -> None:
    logits = 10 * random(2, 1, 4 * SIDE, 4 * SIDE)
    _, theirs = pair.theirs.prompt_encoder(None, None, None, logits)
    same(pair.ours.sam_prompt_encoder.embed_mask(logits), theirs)
    _, theirs = pair.theirs.prompt_encoder(None, None, None, None)
    same(pair.ours.sam_prompt_encoder.no_mask().expand_as(theirs), theirs)


def test_position_codes_of_the_image_agree(pair: Pair) -> None:
    ours = pair.ours.sam_prompt_encoder.pe_layer.grid(SIDE, SIDE)
    same(ours, pair.theirs.get_image_wide_positional_embeddings())


DECODED = {
    "nothing": ([], False),
    "a click": ([1], False),
    "a click and a mask": ([1], True),
    "three clicks": ([1, 0, 1], False),
    "three clicks and a mask": ([1, 0, 1], True),
    "a box": ([2, 3], False),
    "a box and a click": ([2, 3, 0], False),
}


@pytest.mark.parametrize(("labels", "with_mask"), DECODED.values(), ids=DECODED)
def test_decoded_masks_agree(pair: Pair, clip: np.ndarray, labels: list[int], with_mask: bool) -> None:
    features = features_of(pair.ours, clip)
    xy = random(1, len(labels), 2) * 20 + 64 if labels else None
    kinds = torch.tensor([labels]) if labels else None
    mask = 10 * random(1, 1, 4 * SIDE, 4 * SIDE) if with_mask else None
    image = pair.ours.without_memory(features)
    ours = pair.ours.decode(image, features, xy, kinds, mask)
    theirs = pair.theirs._single_frame_forward(
        input_points=None if xy is None else xy[:, None],
        input_labels=None if kinds is None else kinds[:, None],
        input_masks=mask,
        image_embeddings=[features.finest, features.fine, image],
        multimask_output=len(labels) < 2,
    )
    assert ours.score > 0
    same(ours.logits, theirs.pred_masks)
    same(ours.pointer, theirs.object_pointer[:, 0])
    same(ours.score, theirs.object_score_logits[:, 0])
    same(ours.iou[:, 0], theirs.iou_scores.amax(-1)[:, 0])


def test_an_absent_object_has_no_mask_and_the_pointer_that_says_so(clip: np.ndarray) -> None:
    ours = network_of(SAM2_1, score_bias=-9.0)
    features = features_of(ours, clip)
    image = ours.without_memory(features)
    decoded = ours.decode(image, features)
    theirs = twin(ours)._single_frame_forward(image_embeddings=[features.finest, features.fine, image])
    assert decoded.score < 0
    same(decoded.logits, theirs.pred_masks)
    same(decoded.pointer, theirs.object_pointer[:, 0])


@pytest.mark.parametrize("stable", [True, False], ids=["stable", "unstable"])
def test_an_unstable_single_mask_gives_way_to_the_best_of_three(clip: np.ndarray, stable: bool) -> None:
    ours = network_of(SAM2_1)
    # Large logits do not change with the threshold, tiny ones do.
    ours.sam_mask_decoder.output_hypernetworks_mlps[0].layers[-1].weight *= 1000 if stable else 0.01
    theirs = twin(ours)
    features = features_of(ours, clip)
    xy, labels = random(2, 3, 2) * 20 + 64, torch.tensor([[1, 0, 1], [1, 1, 1]])
    prompt = ours.sam_prompt_encoder
    image = ours.without_memory(features).expand(2, -1, -1, -1)
    args = (image, prompt.pe_layer.grid(SIDE, SIDE), prompt.embed_points(xy, labels, IMAGE_SIZE))
    dense = prompt.no_mask()
    single = ours.sam_mask_decoder(*args, dense, features.fine, features.finest, multimask=False)
    three = ours.sam_mask_decoder(*args, dense, features.fine, features.finest, multimask=True)
    fine = [features.finest.expand(2, -1, -1, -1), features.fine.expand(2, -1, -1, -1)]
    masks, iou, tokens, score = theirs.mask_decoder(
        image,
        args[1].expand(2, -1, -1, -1),
        args[2][:, None],
        dense,
        multimask_output=False,
        high_resolution_features=fine,
    )
    is_one_of_three = [any(torch.equal(s[0], t) for t in m) for s, m in zip(single[0], three[0], strict=True)]
    assert is_one_of_three == [not stable] * 2
    torch.testing.assert_close(single.logits, masks[:, 0], rtol=1e-4, atol=1e-2 if stable else 1e-4)
    same(single.iou, iou[:, 0])
    same(single.tokens, tokens[:, 0])  # always the single mask's
    same(single.object_score, score[:, 0])


@pytest.mark.parametrize("empty", [False, True], ids=["some", "empty"])
def test_a_given_mask_is_taken_as_it_is(
    pair: Pair, clip: np.ndarray, empty: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # SAM 2 takes the pointer of the single mask here; transformers takes the best of three.
    single = partial(pair.theirs._single_frame_forward, multimask_output=False)
    monkeypatch.setattr(pair.theirs, "_single_frame_forward", single)
    features = features_of(pair.ours, clip)
    mask = torch.zeros(1, 1, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.bool)
    if not empty:
        mask[..., 30:75, 50:101] = True
    ours = pair.ours.decode_given_mask(features, mask)
    theirs = pair.theirs._use_mask_as_output(features.image, [features.finest, features.fine], mask.float())
    same(ours.logits, theirs.pred_masks)
    same(ours.pointer, theirs.object_pointer.flatten(0, -2))
    same(ours.score, theirs.object_score_logits.flatten(0, -2))


@pytest.mark.parametrize("binarize", [True, False], ids=["prompted", "tracked"])
def test_encoded_memories_agree(pair: Pair, clip: np.ndarray, binarize: bool) -> None:
    features = features_of(pair.ours, clip)
    logits = 3 * random(2, 1, 4 * SIDE, 4 * SIDE)
    score = torch.tensor([[2.0], [-2.0]])
    ours = pair.ours.encode_memory(features, logits, score, binarize)
    theirs, _ = pair.theirs._encode_new_memory(
        flat(features.image).expand(-1, 2, -1),
        F.interpolate(logits, (IMAGE_SIZE, IMAGE_SIZE), mode="bilinear"),
        score[:, None],
        is_mask_from_pts=binarize,
    )
    same(flat(ours), theirs)


TIMES = (6, 5, 2, 0)  # the conditioning memory first, then 6, 3 and 1 frames back
DISTANCES = (9, -2, 0, 1, 6, 15)


def their_attention(
    theirs: Sam2VideoModel, image: Tensor, memories: Tensor, pointers: Tensor, times: tuple[int, ...]
) -> Tensor:
    """Attend as transformers does; memories (T, B, C, h, w), pointers (P, B, dim)."""
    *_, h, w = memories.shape
    batch, dim = pointers.shape[1:]
    codes = theirs.memory_encoder.position_encoding(memories[0].shape, "cpu", torch.float32)
    outputs = [
        ((time + 1) % theirs.num_maskmem, {"maskmem_features": flat(m), "maskmem_pos_enc": flat(codes)})
        for time, m in zip(times, memories, strict=True)
    ]
    features, places = theirs._build_memory_attention_inputs(outputs, torch.device("cpu"))
    distances = list(DISTANCES[: len(pointers)])
    tokens, token_times = theirs._process_object_pointers(
        distances, list(pointers), 16, batch, dim, torch.device("cpu")
    )
    out = theirs.memory_attention(
        flat(image).expand(-1, batch, -1),
        torch.cat([*features, tokens]),
        flat(theirs.vision_encoder.neck.position_encoding(image.shape, "cpu", torch.float32)),
        torch.cat([*places, token_times]),
        num_object_pointer_tokens=len(tokens),
    )
    return out[0].transpose(1, 2).reshape(batch, dim, h, w)


def our_keys_and_values(
    ours: Sam2Network, memories: Tensor, pointers: Tensor, times: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    table = ours.memory_times(SIDE, SIDE)
    projected = [ours.memory_attention.project_memory(m) for m in memories]
    distances = torch.tensor(DISTANCES[: len(pointers)], dtype=torch.float32).expand(pointers.shape[1], -1)
    pointer_keys, pointer_values = ours.project_pointers(pointers.transpose(0, 1), distances, 15)
    keys = [k + table[time] for (k, _), time in zip(projected, times, strict=True)]
    return (
        torch.cat([*keys, pointer_keys], dim=2),
        torch.cat([*(v for _, v in projected), pointer_values], dim=2),
    )


def test_memory_attention_agrees(pair: Pair, clip: np.ndarray) -> None:
    image = features_of(pair.ours, clip).image
    memories, pointers = random(4, 2, 64, SIDE, SIDE), random(6, 2, 128, seed=1)
    ours = pair.ours.memory_attention(image, *our_keys_and_values(pair.ours, memories, pointers, TIMES))
    same(ours, their_attention(pair.theirs, image, memories, pointers, TIMES))


def test_an_object_with_fewer_memories_than_its_neighbour_sees_only_its_own(
    pair: Pair, clip: np.ndarray
) -> None:
    image = features_of(pair.ours, clip).image
    memories, pointers = random(4, 2, 64, SIDE, SIDE), random(6, 2, 128, seed=1)
    keys, values = our_keys_and_values(pair.ours, memories, pointers, TIMES)
    mask = torch.ones(2, keys.shape[2], dtype=torch.bool)
    mask[1, 2 * SIDE**2 : 4 * SIDE**2] = False  # the second object has two memories and three pointers
    mask[1, 4 * SIDE**2 + 3 * 2 :] = False
    ours = pair.ours.memory_attention(image, keys, values, mask)
    full = their_attention(pair.theirs, image, memories[:, :1], pointers[:, :1], TIMES)
    fewer = their_attention(pair.theirs, image, memories[:2, 1:], pointers[:3, 1:], TIMES[:2])
    same(ours, torch.cat([full, fewer]))


# Whole clips


class Prompted(NamedTuple):
    """Points (y, x) of an object on a frame, with the network's labels: 2 and 3 are a box's corners."""

    object_id: int
    frame: int
    points: list[tuple[float, float]]
    labels: list[int]


CLICK = Prompted(1, 0, [(25.0, 19.0)], [1])
CLICKS = Prompted(2, 0, [(47.0, 67.0), (50.5, 70.0), (10.0, 10.0)], [1, 1, 0])
BOX = Prompted(3, 0, [(14.0, 8.0), (36.0, 30.0)], [2, 3])
BOX_AND_CLICK = Prompted(4, 0, [(36.0, 56.0), (58.0, 78.0), (47.0, 67.0)], [2, 3, 1])
# Prompts, the passes by start and direction, and the clip's length. Pointers reach 15 frames back; in a
# shorter clip their times are scaled by its length.
PASSES = {
    "click, backward": ([CLICK._replace(frame=19)], [(19, "backward")], 20),
    "four objects, forward": ([CLICK, CLICKS, BOX, BOX_AND_CLICK], [(0, "forward")], 10),
    "two objects, forward and backward from the middle": (
        [CLICKS._replace(frame=5), BOX._replace(frame=5)],
        [(5, "forward"), (5, "backward")],
        13,
    ),
    "three prompted frames, backward and forward": (
        [CLICK._replace(frame=3), CLICKS._replace(object_id=1, frame=9), BOX._replace(object_id=1, frame=16)],
        [(9, "backward"), (3, "forward")],
        20,
    ),
    "objects that begin on different frames": ([CLICK, BOX._replace(frame=5)], [(0, "forward")], 13),
}


def our_tracker(network: Sam2Network, clip: np.ndarray, prompts: list[Prompted]) -> Tracker:
    model = Model("tiny", Path("tiny"), network, IMAGE_SIZE, torch.device("cpu"))
    settings = TrackingSettings(
        pruning=PruningSettings(0), obey_clicks=False, doubt_masks=False, exclusive=False
    )
    tracker = Tracker(model, clip, settings)
    for object_id, frame, points, labels in prompts:
        if labels[:2] == [2, 3]:
            tracker.add_box(frame, object_id, [*points[0], *points[1]])
            points, labels = points[2:], labels[2:]
        if points:
            tracker.add_points(frame, object_id, points, labels)
    return tracker


def their_session(
    model: Sam2VideoModel, clip: np.ndarray, prompts: list[Prompted]
) -> Sam2VideoInferenceSession:
    """Prompt one object.

    Each object has a session of its own. In a common one, transformers lets a prompted object change the
    others on that frame: their memories are binarised too, and the direction they go in is lost.
    """
    height, width = clip.shape[1:3]
    pixels = normalised(network_images(clip))
    session = Sam2VideoInferenceSession(pixels, height, width, dtype=torch.float32)
    scale = torch.tensor([IMAGE_SIZE / width, IMAGE_SIZE / height])
    index = session.obj_id_to_idx(1)
    for prompt in prompts:
        xy = torch.tensor(prompt.points).flip(-1) * scale
        inputs = {"point_coords": xy[None, None], "point_labels": torch.tensor(prompt.labels)[None, None]}
        session.add_point_inputs(index, prompt.frame, inputs)
        session.obj_with_new_inputs = [1]
        model(session, frame_idx=prompt.frame)
    return session


def compare_passes(
    pair: Pair, clip: np.ndarray, prompts: list[Prompted], passes: list[tuple[int, str]]
) -> Iterator[FrameMemory]:
    """Track with both and compare every frame as it is done; yield what our tracker remembers of it."""
    tracker = our_tracker(pair.ours, clip, prompts)
    by_object = {i: [p for p in prompts if p.object_id == i] for i in tracker.object_ids}
    sessions = {i: their_session(pair.theirs, clip, own) for i, own in by_object.items()}
    for start, direction in passes:
        reverse = direction == "backward"
        begins = {i: max(start, min(p.frame for p in own)) for i, own in by_object.items()}
        theirs = {
            i: pair.theirs.propagate_in_video_iterator(session, begins[i], reverse=reverse)
            for i, session in sessions.items()
        }
        for result in tracker.propagate(direction, start=start):
            assert result.object_ids.tolist() == [
                i for i, begin in begins.items() if reverse or begin <= result.frame
            ]
            for object_id, logits in zip(result.object_ids.tolist(), result.logits, strict=True):
                their = next(theirs[object_id])
                assert their.frame_idx == result.frame
                same_in_clip(torch.from_numpy(logits), their.pred_masks[0, 0])
                ours = tracker._memory(tracker._objects[object_id], result.frame)
                same_in_clip(torch.tensor(ours.score), their.object_score_logits[0, 0])
                kept = sessions[object_id].output_dict_per_obj[0]
                kept = kept["cond_frame_outputs"] | kept["non_cond_frame_outputs"]
                same_in_clip(ours.pointer, kept[result.frame]["object_pointer"].flatten())
                yield ours
        assert all(next(rest, None) is None for rest in theirs.values())


@pytest.mark.parametrize(("prompts", "passes", "frames"), PASSES.values(), ids=PASSES)
def test_tracking_a_clip_agrees(
    pair: Pair, clip: np.ndarray, prompts: list[Prompted], passes: list[tuple[int, str]], frames: int
) -> None:
    memories = list(compare_passes(pair, clip[:frames], prompts, passes))
    assert all(m.score > 0 for m in memories)
    assert all(m.logits.std() > 1 for m in memories)  # none is flat


@pytest.mark.parametrize(("config", "score_bias"), [(SAM2, 0.4), (SAM2_1, -0.1)], ids=CONFIGS)
def test_tracking_an_object_that_comes_and_goes_agrees(
    config: NetworkConfig, score_bias: float, clip: np.ndarray
) -> None:
    ours = network_of(config, score_bias)
    memories = list(compare_passes(Pair(ours, twin(ours)), clip, [CLICK], [(0, "forward")]))
    assert {m.score > 0 for m in memories} == {True, False}
