"""What lies over instruments covers them where it should, moves with them, and stays a colour."""

import numpy as np
import pytest

from napari_surgsam2.synthetic.coats import Coat, blood, mirror
from napari_surgsam2.synthetic.instruments import Instrument
from napari_surgsam2.synthetic.shapes import Patch

SIZE, UNIT = (96, 128), 96.0


def patch() -> Patch:
    return Patch(10, 20, np.full((60, 80, 3), 0.5, np.float32), np.ones((60, 80), np.float32))


def test_a_coat_lies_behind_the_tip_where_its_share_says():
    share = np.zeros((240, 160), np.float32)
    share[50:] = 1  # from a quarter of the picture's side behind the tip on
    red = np.broadcast_to(np.asarray((1, 0, 0), np.float32), (*SIZE, 3))
    one = patch()
    tip = np.asarray((40.0, 90.0), np.float32)

    Coat(share, red, 0.0).lie_over(one, tip, np.asarray((0, 1), np.float32), UNIT)  # it points right

    covered = (one.color == (1, 0, 0)).all(-1)
    assert covered.all(0).tolist() == [20 + x <= 90 - 24 for x in range(80)]
    np.testing.assert_array_equal(one.color[~covered], np.float32(0.5))


def test_a_coat_moves_and_turns_with_the_instrument():
    share = np.zeros((240, 160), np.float32)
    share[20:60, 90:120] = 1
    white = np.ones((*SIZE, 3), np.float32)
    middles = []
    for tip, direction in (((70, 60), (1, 0)), ((60, 60), (1, 0)), ((40, 90), (0, 1))):
        one = patch()
        Coat(share, white, 0.0).lie_over(one, np.asarray(tip, np.float32), np.asarray(direction), UNIT)
        y, x = np.nonzero(one.color[..., 0] == 1)
        middles.append((y.mean() + 10 - tip[0], x.mean() + 20 - tip[1]))
    down, moved, right = middles
    assert moved == pytest.approx(down, abs=0.5)
    assert right == pytest.approx((-down[1], down[0]), abs=0.5)


@pytest.mark.parametrize("kind", ["mirror", "blood"])
def test_what_is_covered_keeps_its_place_and_is_a_colour(kind: str):
    rng = np.random.default_rng(0)
    around = rng.random((*SIZE, 3), dtype=np.float32)
    changed = 0
    for _ in range(20):
        coat = mirror(rng, around, UNIT) if kind == "mirror" else blood(rng, SIZE)
        one = patch()
        coat.lie_over(one, np.asarray((40, 60), np.float32), np.asarray((0.6, 0.8), np.float32), UNIT)
        assert one.color.dtype == np.float32
        assert one.color.min() >= 0
        changed += bool((one.color != np.float32(0.5)).any())
    assert changed >= 18


def test_an_instrument_that_blends_in_is_more_like_what_is_around_it():
    nearer = 0
    around = np.broadcast_to(np.asarray((0.8, 0.4, 0.35), np.float32), (*SIZE, 3))
    for seed in range(20):
        one = Instrument(np.random.default_rng(seed), SIZE, 1, 0.05)
        plain = one.draw(0)
        one.blend_in(np.random.default_rng(seed), around)
        blended = one.draw(0)
        if plain is None or blended is None:
            continue
        np.testing.assert_array_equal(blended.inside, plain.inside)
        apart = [np.abs(p.color - around[p.slices])[p.inside].mean() for p in (plain, blended)]
        nearer += bool(apart[1] < apart[0])
    assert nearer >= 12
