"""Which numbers objects get."""

from __future__ import annotations

import pytest

from napari_surgsam2._napari.objects import Objects


def test_there_is_always_an_object():
    objects = Objects()
    assert objects.ids == (1,)
    objects.add([7, 3])
    assert objects.ids == (1, 3, 7)
    assert 3 in objects
    for object_id in (1, 3, 7, 9):
        objects.discard(object_id)
    assert objects.ids == (1,)


@pytest.mark.parametrize(
    ("used", "reuse", "number"),
    [
        (set(), True, 1),
        ({1}, True, 4),  # 2 has a name
        ({1, 4}, True, 5),
        (set(), False, 5),
        ({1, 2, 4, 90}, True, 91),  # 90 is a label of the user's
    ],
)
def test_a_new_object_takes_an_unused_number_first(used, reuse, number):
    objects = Objects()
    objects.add([2, 4])
    objects.rename(2, "needle")
    assert objects.next_number(used, reuse) == number


def test_numbers_that_had_a_name_are_not_given_again():
    objects = Objects()
    objects.rename(6, " needle ")
    assert objects.names == {6: "needle"}
    assert objects.next_number({1}, True) == 7
    objects.rename(6, "  ")
    assert objects.next_number({1}, True) == 2
