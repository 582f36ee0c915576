"""A mask rather agrees with the clicks that it was made from."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_surgsam2.network import NO_OBJECT_LOGIT, Sam2Network
from napari_surgsam2.network.mask_decoder import DecodedMasks
from napari_surgsam2.network.prompt_encoder import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, NEGATIVE, PADDING, POSITIVE
from napari_surgsam2.network.sam2 import contradicted_clicks
from tests.helpers.weights import rule_network

SIZE = 64


def halves() -> torch.Tensor:
    """Return logits (1, 2, 16, 16) of a mask of the left and one of the right half of 64 x 64 pixels."""
    left = torch.full((16, 16), -8.0)
    left[:, :8] = 8
    return torch.stack((left, -left))[None]


@pytest.mark.parametrize(
    ("label", "x", "contradicted"),
    [
        (POSITIVE, 10, [0, 1]),
        (POSITIVE, 50, [1, 0]),
        (NEGATIVE, 10, [1, 0]),
        (NEGATIVE, 63, [0, 1]),
        (POSITIVE, 30, [0, 1]),  # the masks' edge lies between the pixels 31 and 32
        (POSITIVE, 33, [1, 0]),
        (BOX_TOP_LEFT, 50, [0, 0]),
        (BOX_BOTTOM_RIGHT, 10, [0, 0]),
        (PADDING, 50, [0, 0]),
    ],
)
def test_a_click_is_contradicted_by_what_is_on_the_wrong_side_of_the_edge(label, x, contradicted):
    xy, labels = torch.tensor([[[float(x), 20.0]]]), torch.tensor([[label]])
    assert contradicted_clicks(halves(), xy, labels).tolist() == [contradicted]


def test_contradictions_add_up():
    xy = torch.tensor([[[5.0, 5.0], [50.0, 5.0], [50.0, 50.0]]])
    assert contradicted_clicks(halves(), xy, torch.tensor([[1, 1, 0]])).tolist() == [[1, 2]]


@pytest.fixture(scope="module")
def network() -> Sam2Network:
    return rule_network().eval()


@pytest.fixture(scope="module")
def frame(network):
    torch.manual_seed(0)
    with torch.inference_mode():
        return network.encode_image(torch.randint(0, 256, (1, SIZE, SIZE, 3), dtype=torch.uint8))


clicks = st.lists(
    st.tuples(st.integers(0, SIZE - 1), st.integers(0, SIZE - 1), st.sampled_from([NEGATIVE, POSITIVE])),
    min_size=1,
    max_size=4,
)


@given(clicks)
@settings(max_examples=25, deadline=None)
def test_obeying_never_contradicts_more_and_changes_nothing_where_all_agrees(network, frame, clicks):
    xy = torch.tensor([[(float(x), float(y)) for x, y, _ in clicks]])
    labels = torch.tensor([[label for *_, label in clicks]])
    image = network.without_memory(frame)
    with torch.inference_mode():
        usual = network.decode(image, frame, xy, labels)
        obeying = network.decode(image, frame, xy, labels, obey_clicks=True)
    counts = [int(contradicted_clicks(d.logits, xy, labels)) for d in (usual, obeying)]
    assert counts[1] <= counts[0]
    if counts[0] == 0 and float(usual.score) > 0:
        assert torch.equal(usual.logits, obeying.logits)
    if POSITIVE in labels:  # what the user clicks is there
        assert float(obeying.score) > 0
        assert float(obeying.logits.max()) > NO_OBJECT_LOGIT


def test_objects_side_by_side_obey_only_their_own_clicks(network, frame):
    torch.manual_seed(1)
    xy, labels = torch.rand(6, 2, 2) * SIZE, torch.randint(0, 2, (6, 2))
    image = network.without_memory(frame).expand(6, -1, -1, -1)
    with torch.inference_mode():
        together = network.decode(image, frame, xy, labels, obey_clicks=True)
        for b in range(6):
            alone = network.decode(image[:1], frame, xy[b : b + 1], labels[b : b + 1], obey_clicks=True)
            torch.testing.assert_close(together.logits[b : b + 1], alone.logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("score", "labels", "in_view"),
    [
        (2.0, [NEGATIVE], False),
        (4.0, [NEGATIVE], True),
        (4.0, [NEGATIVE, NEGATIVE], True),
        (-1.0, [NEGATIVE, POSITIVE], True),  # it is there, the user says
        (2.0, [NEGATIVE, BOX_TOP_LEFT, BOX_BOTTOM_RIGHT], True),
    ],
)
def test_negative_clicks_that_change_nothing_tell_that_the_object_is_not_there(
    network, frame, monkeypatch, score, labels, in_view
):
    def everywhere(*_, every=False, **__):
        masks = 4 if every else 3
        return DecodedMasks(
            torch.full((1, masks, 16, 16), 8.0),
            torch.full((1, masks), 0.9),
            torch.zeros(1, masks, network.config.dim),
            torch.tensor([[score]]),
        )

    monkeypatch.setattr(network, "candidates", everywhere)
    xy, image = torch.full((1, len(labels), 2), 30.0), network.without_memory(frame)
    with torch.inference_mode():
        found = network.decode(image, frame, xy, torch.tensor([labels]), obey_clicks=True)
        plain = network.decode(image, frame, xy, torch.tensor([labels]))
    assert bool(found.score > 0) == bool((found.logits > 0).any()) == in_view
    assert float(plain.score) == score


def test_no_predicted_iou_is_that_of_a_given_mask(network):
    """Which is certain: bfloat16 rounds what is nearly 1 up to it."""
    masks = DecodedMasks(halves(), torch.ones(1, 2), torch.zeros(1, 2, network.config.dim), torch.ones(1, 1))
    assert 0.99 < network.choose(masks).iou.item() < 1
