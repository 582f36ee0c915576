"""Tiled convolutions compute what direct ones do."""

import pytest
import torch
import torch.nn.functional as F

from napari_surgsam2.network.winograd import can_tile, tiled_conv, trained_conv, transform_kernel


@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (2, 8, 12, 20), (1, 192, 20, 20)])
def test_a_tiled_convolution_is_a_convolution(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape).contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(5, shape[1], 3, 3), torch.randn(5)

    tiled = tiled_conv(x, transform_kernel(weight), bias)

    expected = F.conv2d(x, weight, bias, padding=1)
    scale = expected.abs().max().item()
    torch.testing.assert_close(tiled, expected, rtol=0, atol=3e-5 * scale)
    assert tiled.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (2, 8, 12, 20), (2, 96, 20, 20)])
def test_it_has_the_gradients_of_one_too(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(shape), torch.randn(5, shape[1], 3, 3)
    toward = torch.randn(shape[0], 5, *shape[2:])

    def trained(conv):
        parts = [part.clone().requires_grad_() for part in (x, weight)]
        out = conv(*parts)
        return out.detach(), *torch.autograd.grad(out, parts, toward)

    for tiled, expected in zip(
        trained(trained_conv), trained(lambda x, weight: F.conv2d(x, weight, padding=1)), strict=True
    ):
        scale = expected.abs().max().item()
        torch.testing.assert_close(tiled, expected, rtol=0, atol=3e-5 * scale)


def test_a_frozen_part_has_none() -> None:
    x, weight = torch.randn(1, 8, 4, 4), torch.randn(5, 8, 3, 3)
    trained_conv(x.requires_grad_(), weight).sum().backward()
    assert x.grad is not None
    assert weight.grad is None


def test_maps_that_are_no_whole_tiles_or_not_in_float32_are_not_tiled() -> None:
    assert can_tile(torch.zeros(1, 8, 8, 12))
    assert not can_tile(torch.zeros(1, 8, 8, 10))
    assert not can_tile(torch.zeros(1, 8, 6, 12))
    assert not can_tile(torch.zeros(1, 8, 8, 12, dtype=torch.float64))
    with torch.autocast("cpu", torch.bfloat16):
        assert not can_tile(torch.zeros(1, 8, 8, 12))
