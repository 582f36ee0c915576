"""The convolutional trunk: what it computes does not depend on whether its batch norms are folded away."""

import copy

import pytest
import torch

from napari_surgsam2.network import convnet
from napari_surgsam2.network.config import ConvNetConfig
from napari_surgsam2.network.convnet import ConvNet


@pytest.fixture
def trunk() -> ConvNet:
    torch.manual_seed(0)
    trunk = ConvNet(ConvNetConfig((8, 12, 16, 20), (1, 1, 1, 1)))
    with torch.no_grad():
        for _ in range(3):  # statistics other than 0 and 1
            trunk(2 + 3 * torch.randn(2, 3, 64, 64))
    return trunk.eval()


def both(trunk: ConvNet, image: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return each map folded and not."""
    with torch.inference_mode():
        folded = trunk(image)
    return list(zip(folded, (m.detach() for m in trunk(image)), strict=True))


def test_maps_have_the_strides_of_a_hiera(trunk) -> None:
    shapes = [tuple(m.shape) for m in trunk(torch.zeros(2, 3, 64, 64))]
    assert shapes == [(2, 8, 16, 16), (2, 12, 8, 8), (2, 16, 4, 4), (2, 20, 2, 2)]


def test_folding_changes_nothing(trunk) -> None:
    for folded, plain in both(trunk, torch.randn(1, 3, 64, 64)):
        torch.testing.assert_close(folded, plain, rtol=1e-4, atol=1e-4)


def test_weights_that_change_count_at_once(trunk) -> None:
    image = torch.randn(1, 3, 64, 64)
    before = both(trunk, image)[0][0]
    state = copy.deepcopy(trunk.state_dict())
    state["stem.0.0.weight"] *= 2
    state["stages.0.0.conv1.1.running_var"] *= 3
    trunk.load_state_dict(state)
    after = both(trunk, image)
    assert not torch.allclose(after[0][0], before)
    for folded, plain in after:
        torch.testing.assert_close(folded, plain, rtol=1e-4, atol=1e-4)


def test_training_uses_the_statistics_of_the_batch(trunk) -> None:
    trunk.train()
    variance = trunk.stem[0][1].running_var.clone()
    with torch.inference_mode():
        trunk(torch.randn(2, 3, 64, 64))
    assert not torch.equal(trunk.stem[0][1].running_var, variance)


@pytest.mark.parametrize("side", [128, 160])  # maps of 4 and of 5 pixels at stride 32: of whole tiles or not
def test_wide_stages_compute_the_same_in_tiles(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    trunk = ConvNet(ConvNetConfig((16, 96, 96, 96), (1, 1, 1, 1))).eval()
    tiled = []
    plain = convnet.tiled_conv
    monkeypatch.setattr(
        convnet, "tiled_conv", lambda *args: (tiled.append(args[0].shape[-1]), plain(*args))[1]
    )
    for folded, direct in both(trunk, torch.randn(1, 3, side, side)):
        torch.testing.assert_close(folded, direct, rtol=1e-3, atol=1e-4)
    assert tiled == ([16, 16, 8, 8, 4, 4] if side == 128 else [20, 20])
