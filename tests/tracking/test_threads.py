"""Threads that reckon beside one another share those of the CPU, and give them back."""

import threading

import pytest
import torch

from napari_surgsam2.tracking.threads import all_threads, threads_left, torch_threads


@pytest.fixture(autouse=True)
def four():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def elsewhere(function):
    """Call a function in a new thread."""
    out = []
    thread = threading.Thread(target=lambda: out.append(function()))
    thread.start()
    thread.join()
    return out[0]


def test_a_share_is_given_back():
    with torch_threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 4


def test_none_changes_nothing():
    with torch_threads(None):
        assert torch.get_num_threads() == 4


def test_a_thread_that_begins_while_others_share_knows_of_all():
    with torch_threads(1):
        assert elsewhere(torch.get_num_threads) == 1  # so it is in torch
        assert elsewhere(all_threads) == 4
    assert elsewhere(torch.get_num_threads) == 4


def test_a_thread_that_takes_its_share_meanwhile_leaves_all_to_those_that_come_later():
    def share():
        with torch_threads(3):
            pass
        return torch.get_num_threads()

    with torch_threads(1):
        assert elsewhere(share) == 4
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == elsewhere(torch.get_num_threads) == 4


def test_what_is_left_is_told_to_those_who_do_not_share():
    assert threads_left() is None
    with torch_threads(3):
        assert threads_left() == 1
        with torch_threads(1):
            assert threads_left() == 1  # at least
    assert threads_left() is None
