"""Muon: the changes of matrices are made orthogonal, the rest is AdamW."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from napari_surgsam2.training.optimizer import make_optimizer, orthogonalize, set_learning_rate
from napari_surgsam2.training.settings import OptimizerSettings

MUON = OptimizerSettings(kind="muon", learning_rate=1e-2, weight_decay=0)


def small_network():
    torch.manual_seed(0)
    return nn.ModuleDict(
        {
            "linear": nn.Linear(32, 64),
            "conv": nn.Conv2d(16, 32, 3),
            "depthwise": nn.Conv2d(32, 32, 7, groups=32),
            "narrow": nn.Linear(32, 4),
            "norm": nn.LayerNorm(32),
        }
    )


def give_gradients(network, seed):
    generator = torch.Generator().manual_seed(seed)
    for p in network.parameters():
        p.grad = torch.randn(p.shape, generator=generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(st.integers(16, 80), st.integers(16, 320), st.integers(0, 1000), st.floats(1e-6, 1e6))
def test_singular_values_come_near_one_whatever_the_scale(dtype, rows, columns, seed, scale):
    matrix = scale * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    out = orthogonalize(matrix, dtype)
    values = torch.linalg.svdvals(out)
    assert out.dtype == matrix.dtype
    # those that are all but 0 take more steps
    small = torch.linalg.svdvals(matrix) < 0.02 * torch.linalg.matrix_norm(matrix)
    assert values.max() < 1.35
    assert (values[~small] > 0.3).all()


@given(st.integers(16, 40), st.integers(2, 6), st.integers(0, 1000), st.sampled_from((0.0, 1e-6, 1e-3, 1.0)))
def test_wide_matrices_whose_steps_are_done_at_once_come_out_as_with_single_ones(rows, wider, seed, noise):
    generator = torch.Generator().manual_seed(seed)
    few = torch.randn(rows, 3, generator=generator) @ torch.randn(3, wider * rows, generator=generator)
    matrix = few + noise * torch.randn(few.shape, generator=generator)
    a, b, c = 3.4445, -4.7750, 2.0315  # as Muon was published, with 5 steps
    x = matrix.double() / matrix.double().norm()
    for _ in range(5):
        product = x @ x.T
        x = a * x + (b * product + c * product @ product) @ x
    for out in (orthogonalize(matrix, torch.float32), orthogonalize(matrix.T, torch.float32).T):
        torch.testing.assert_close(out.double(), x, rtol=0, atol=1e-3)


def test_no_gradient_changes_nothing_and_is_no_division_by_zero():
    assert (orthogonalize(torch.zeros(16, 20)) == 0).all()


def test_matrices_change_by_as_much_as_with_adamw_and_the_rest_exactly_as_with_it():
    muon, adamw, before = small_network(), small_network(), small_network()
    optimizers = [
        make_optimizer(muon, MUON),
        make_optimizer(adamw, MUON.replace(kind="adamw")),
    ]
    for network, optimizer in zip((muon, adamw), optimizers, strict=True):
        give_gradients(network, 0)
        optimizer.step()
    for name in ("linear", "conv"):
        change = (muon[name].weight - before[name].weight).detach()
        assert float(change.square().mean().sqrt()) == pytest.approx(0.2 * 1e-2, rel=0.2)
        assert not torch.equal(muon[name].weight, adamw[name].weight)
        assert torch.equal(muon[name].bias, adamw[name].bias)
    for name in ("depthwise", "narrow", "norm"):
        assert torch.equal(muon[name].weight, adamw[name].weight), name


def test_weights_decay_and_rates_are_scheduled_as_with_adamw():
    network = small_network()
    optimizer = make_optimizer(network, MUON.replace(weight_decay=0.5, warmup_steps=1))
    assert set_learning_rate(optimizer, MUON.replace(warmup_steps=1), 0, 10) == pytest.approx(5e-3)
    for p in network.parameters():
        p.grad = torch.zeros_like(p)
    before = network["linear"].weight.clone()
    optimizer.step()
    torch.testing.assert_close(network["linear"].weight, before * (1 - 5e-3 * 0.5))


def test_what_has_no_gradient_stays():
    network = small_network()
    before = network["conv"].weight.clone()
    give_gradients(network, 0)
    network["conv"].weight.grad = None
    make_optimizer(network, MUON).step()
    assert torch.equal(network["conv"].weight, before)


def test_an_optimizer_that_was_kept_goes_on_as_if_it_had_not_been():
    whole, part = small_network(), small_network()
    a, b = make_optimizer(whole, MUON), make_optimizer(part, MUON)
    for step in range(4):
        if step == 2:
            kept = b.state_dict()
            b = make_optimizer(part, MUON)
            b.load_state_dict(kept)
        for network, optimizer in ((whole, a), (part, b)):
            give_gradients(network, step)
            optimizer.step()
    for p, q in zip(whole.parameters(), part.parameters(), strict=True):
        assert torch.equal(p, q)
