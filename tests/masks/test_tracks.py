"""Centroid tracks, and that they break where an object was out of view."""

from __future__ import annotations

import numpy as np
import pytest
import zarr

from napari_surgsam2.errors import UsageError
from napari_surgsam2.masks import centroid_tracks


def labels_with(presence, shape=(20, 30)):
    """Labels where object `i` is a square of 3 x 3 at (2, 2 + t) + 4 i, in the frames of `presence[i]`."""
    count = 1 + max(t for frames in presence.values() for t in frames)
    labels = np.zeros((count, *shape), dtype=np.uint32)
    for place, (object_id, frames) in enumerate(presence.items()):
        for t in frames:
            labels[t, 4 * place : 4 * place + 3, t : t + 3] = object_id
    return labels


def test_rows_are_track_frame_y_and_x_in_order():
    tracks = centroid_tracks(labels_with({7: [0, 1], 3: [0, 1, 2]}))
    assert tracks.data.tolist() == [
        [3, 0, 5, 1],
        [3, 1, 5, 2],
        [3, 2, 5, 3],
        [7, 0, 1, 1],
        [7, 1, 1, 2],
    ]
    assert tracks.graph == {}
    assert tracks.properties["area"].tolist() == [9] * 5
    assert len(tracks) == 5


def test_each_stretch_after_a_gap_is_a_track_with_the_one_before_as_parent():
    tracks = centroid_tracks(labels_with({2: [0, 1, 3, 6, 7], 5: [4, 6]}))
    assert tracks.data[:, :2].tolist() == [
        [2, 0],
        [2, 1],
        [5, 4],
        [6, 3],
        [7, 6],
        [7, 7],
        [8, 6],
    ]
    assert tracks.graph == {6: [2], 7: [6], 8: [5]}
    assert tracks.properties["object_id"].tolist() == [2, 2, 5, 2, 2, 2, 5]
    assert tracks.properties["part"].tolist() == [0, 0, 0, 1, 2, 2, 1]


def test_new_ids_differ_from_those_of_objects_left_out():
    tracks = centroid_tracks(labels_with({2: [0, 2], 5: [0, 1, 2]}), object_ids=[2])
    assert tracks.data[:, 0].tolist() == [2, 6]
    assert tracks.graph == {6: [2]}


def test_frames_that_are_not_looked_at_make_no_gap():
    labels = labels_with({1: [0, 1, 2, 3, 6]})
    assert centroid_tracks(labels, frames=range(0, 7, 2)).data[:, :2].tolist() == [
        [1, 0],
        [1, 2],
        [2, 6],
    ]
    assert centroid_tracks(labels, frames=[6, 3]).graph == {}


def test_the_centroid_is_that_of_all_pieces():
    labels = np.zeros((1, 5, 9), dtype=np.uint8)
    labels[0, 1, 0:2] = labels[0, 4, 7] = 1
    assert centroid_tracks(labels).data.tolist() == [[1, 0, 2, (0 + 1 + 7) / 3]]


def test_labels_are_read_frame_by_frame_and_told_of():
    calls = []
    array = zarr.array(labels_with({1: [0, 2]}), chunks=(1, 20, 30))
    tracks = centroid_tracks(array, progress=lambda *call: calls.append(call))
    assert tracks.graph == {2: [1]}
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_nothing_there():
    tracks = centroid_tracks(np.zeros((2, 4, 5), dtype=np.uint8))
    assert tracks.data.shape == (0, 4)
    assert tracks.graph == {}
    assert {name: values.shape for name, values in tracks.properties.items()} == {
        "object_id": (0,),
        "part": (0,),
        "area": (0,),
    }


def test_frames_must_be_there():
    with pytest.raises(UsageError, match="Frame 2 is outside"):
        centroid_tracks(np.zeros((2, 4, 5), dtype=np.uint8), frames=[2])


def test_napari_takes_them_and_joins_no_gap():
    layers = pytest.importorskip("napari.layers")
    tracks = centroid_tracks(labels_with({2: [0, 1, 3, 6, 7], 5: [4, 6]}))
    layer = layers.Tracks(tracks.data, graph=tracks.graph, properties=tracks.properties)
    np.testing.assert_array_equal(layer.data, tracks.data)
    assert layer.properties["object_id"].tolist() == tracks.properties["object_id"].tolist()
    joined = np.flatnonzero(layer._manager.track_connex)
    assert (np.diff(tracks.data[:, 1])[joined] == 1).all()
    assert layer.graph == tracks.graph
