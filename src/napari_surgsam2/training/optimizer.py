"""AdamW and Muon with parameter groups, a schedule of the learning rate, and averaged weights."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from napari_surgsam2.errors import UsageError

from .settings import OptimizerSettings

_DECAYED = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)  # their weights are; all else is not
_TRUNK_LAYER = re.compile(r"image_encoder\.trunk\.(?:blocks|halve|stages)\.(\d+)\.")


def freeze(network: nn.Module, beginnings: Iterable[str]) -> None:
    """Keep the parameters whose names begin with one of `beginnings` as they are.

    Modules that are frozen as a whole go into evaluation mode, so that their statistics stay too.

    Raises
    ------
    UsageError
        If a beginning fits no parameter, or nothing is left to train.
    """
    names = [name for name, _ in network.named_parameters()]
    for beginning in beginnings:
        if not any(name.startswith(beginning) for name in names):
            parts = sorted({name.split(".")[0] for name in names})
            raise UsageError(
                f"No parameter begins with '{beginning}', so it cannot be frozen; the parts are: "
                f"{', '.join(parts)}."
            )
    frozen = tuple(beginnings)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(not (frozen and name.startswith(frozen)))
    if not any(p.requires_grad for p in network.parameters()):
        raise UsageError("All parameters are frozen; leave some to train.")
    for module in network.modules():
        own = list(module.parameters())
        if own and not any(p.requires_grad for p in own):
            module.eval()


# Newton-Schulz iteration towards an orthogonal matrix: coefficients and steps of Muon (Jordan et al., 2024).
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_NEWTON_SCHULZ_STEPS = 5
_WIDE = 3  # times as many columns as rows: from there on all steps at once are faster
_MOMENTUM = 0.95
_LIKE_ADAM = 0.2  # root mean square of AdamW's changes, at a learning rate of 1 (arXiv 2502.16982)
_LEAST_SIDE = 16  # a matrix with fewer rows or columns is left to AdamW


def orthogonalize(matrix: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Return the orthogonal matrix next to a matrix, (M, N), roughly: its singular values come near 1.

    `dtype` is what is reckoned in; bfloat16 is exact enough (Jordan et al., "Muon", 2024).
    """
    x: Tensor = matrix.to(dtype)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    wide = x.shape[1] >= _WIDE * x.shape[0] and dtype.itemsize >= 4
    x = _many_steps(x) if wide else _single_steps(x)
    return (x.T if tall else x).to(matrix.dtype)


def _factor(product: Tensor) -> Tensor:
    """Return what a step multiplies a matrix with; `product` is the matrix times itself transposed."""
    a, b, c = _NEWTON_SCHULZ
    factor = torch.addmm(product, product, product, beta=b, alpha=c)
    factor.diagonal().add_(a)
    return factor


def _single_steps(x: Tensor) -> Tensor:
    for _ in range(_NEWTON_SCHULZ_STEPS):
        x = _factor(x @ x.T) @ x
    return x


def _many_steps(x: Tensor) -> Tensor:
    """Do all steps at once: each multiplies with a small matrix, and so does their product.

    This squares what is small in `x`, too small for 16 bits then.
    """
    product = x @ x.T
    factor = all_factors = _factor(product)
    for _ in range(_NEWTON_SCHULZ_STEPS - 1):
        product = factor @ product @ factor
        factor = _factor(product)
        all_factors = factor @ all_factors
    return all_factors @ x


class Muon(torch.optim.AdamW):
    """AdamW, but for the matrices in groups with `orthogonal`: their momentum is made orthogonal first.

    Muon of Jordan et al. (2024), with its changes as large as AdamW's (arXiv 2502.16982), so that the same
    learning rates fit. The kernel of a convolution is taken as a matrix of its output channels.

    Parameters
    ----------
    groups : iterable of dict
        As of AdamW, each with "orthogonal", a bool.
    learning_rate : float
        Of groups without one.
    betas : tuple of 2 floats
        As of AdamW.
    dtype : torch.dtype
        What matrices are made orthogonal in; bfloat16 is slow on processors without it.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        learning_rate: float,
        betas: tuple[float, float],
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        super().__init__(groups, lr=learning_rate, betas=betas)
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Do a step, as any optimizer does."""
        everything = self.param_groups
        try:
            self.param_groups = [g for g in everything if not g["orthogonal"]]
            loss = super().step(closure)
        finally:
            self.param_groups = everything
        for group in everything:
            if group["orthogonal"]:
                for parameter in group["params"]:
                    self._turn(parameter, group["lr"], group["weight_decay"])
        return loss

    def _turn(self, parameter: nn.Parameter, rate: float, decay: float) -> None:
        if parameter.grad is None:
            return
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
            state["step"] = torch.zeros(())  # AdamW looks for one in every state that it loads
        momentum = state["momentum"].lerp_(parameter.grad, 1 - _MOMENTUM)
        ahead = parameter.grad.lerp(momentum, _MOMENTUM).flatten(1)  # Nesterov's
        change = orthogonalize(ahead, self._dtype) * (_LIKE_ADAM * math.sqrt(max(ahead.shape)))
        parameter.mul_(1 - rate * decay).add_(change.view_as(parameter), alpha=-rate)


def _is_matrix(module: nn.Module) -> bool:
    """Say whether a module's weight mixes enough channels to be made orthogonal."""
    if not isinstance(module, _DECAYED) or getattr(module, "groups", 1) > 1:
        return False
    return min(module.weight.flatten(1).shape) >= _LEAST_SIDE


def make_optimizer(
    network: nn.Module, settings: OptimizerSettings, dtype: torch.dtype = torch.float32
) -> torch.optim.AdamW:
    """Return the optimizer of the parameters that are not frozen; `dtype` is that of the run.

    Those of the image encoder have a rate of their own, falling by `layer_decay` with every layer of the
    trunk from its end to its beginning. Only the weights of linear layers and convolutions are decayed:
    biases, norms, embeddings and other codes are not.
    """
    layers = [int(m[1]) for n, _ in network.named_parameters() if (m := _TRUNK_LAYER.match(n))]
    depth = max(layers, default=-1) + 1
    decayed = {id(m.weight) for m in network.modules() if isinstance(m, _DECAYED)}
    matrices = {id(m.weight) for m in network.modules() if _is_matrix(m)} if settings.kind == "muon" else ()
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = 1.0
        if name.startswith("image_encoder."):
            rate = settings.trunk_rate
            if name.startswith("image_encoder.trunk."):
                match = _TRUNK_LAYER.match(name)
                if "pos_embed" not in name:  # as SAM 2 is trained
                    rate *= settings.layer_decay ** (depth - int(match[1]) if match else depth + 1)
        decay = settings.weight_decay if id(parameter) in decayed else 0.0
        groups.setdefault((rate, decay, id(parameter) in matrices), []).append(parameter)
    tables = [
        {"params": parameters, "weight_decay": decay, "rate": rate, "orthogonal": orthogonal}
        for (rate, decay, orthogonal), parameters in groups.items()
    ]
    if settings.kind == "muon":
        exact = torch.bfloat16 if dtype == torch.bfloat16 else torch.float32
        return Muon(tables, settings.learning_rate, settings.betas, exact)
    return torch.optim.AdamW(tables, lr=settings.learning_rate, betas=settings.betas)


def set_learning_rate(
    optimizer: torch.optim.Optimizer, settings: OptimizerSettings, step: int, steps: int
) -> float:
    """Set the rates for a step, counted from 0; return the rate of the parts without a factor."""
    factor = 1.0
    if step < settings.warmup_steps:
        factor = (step + 1) / (settings.warmup_steps + 1)
    elif settings.schedule == "cosine":
        done = (step - settings.warmup_steps) / max(1, steps - settings.warmup_steps)
        factor = settings.final_rate + (1 - settings.final_rate) * 0.5 * (
            1 + math.cos(math.pi * min(done, 1))
        )
    for group in optimizer.param_groups:
        group["lr"] = settings.learning_rate * factor * group["rate"]
    return settings.learning_rate * factor


class WeightAverage:
    """An exponential moving average of a network's parameters and buffers.

    Parameters
    ----------
    network : nn.Module
        The network.
    decay : float
        How much of the average stays at each step; less at first. 0 keeps just the newest weights.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.state: dict[str, Tensor] = {k: v.detach().clone() for k, v in network.state_dict().items()}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor], updates: int) -> None:
        """Go on from an average that was kept."""
        self.updates = updates
        for name, value in self.state.items():
            value.copy_(state[name])

    @torch.no_grad()
    def mend_buffers(self, network: nn.Module) -> None:
        """Take buffers of a network that are not finite any more, such as statistics, from the average."""
        for name, buffer in network.named_buffers():
            if name in self.state and not buffer.isfinite().all():
                buffer.copy_(self.state[name])

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take the weights after a step into the average."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.decay else 0.0
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value, 1 - decay)
            else:
                self.state[name].copy_(value)
