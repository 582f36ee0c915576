"""AdamW with parameter groups, a schedule of the learning rate, and averaged weights."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

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


def make_optimizer(network: nn.Module, settings: OptimizerSettings) -> torch.optim.AdamW:
    """Return AdamW over the parameters that are not frozen.

    Those of the image encoder have a rate of their own, falling by `layer_decay` with every layer of the
    trunk from its end to its beginning. Only the weights of linear layers and convolutions are decayed:
    biases, norms, embeddings and other codes are not.
    """
    layers = [int(m[1]) for n, _ in network.named_parameters() if (m := _TRUNK_LAYER.match(n))]
    depth = max(layers, default=-1) + 1
    decayed = {id(m.weight) for m in network.modules() if isinstance(m, _DECAYED)}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = 1.0
        if name.startswith("image_encoder."):
            rate = settings.trunk_rate
            if name.startswith("image_encoder.trunk."):
                match = _TRUNK_LAYER.match(name)
                rate *= settings.layer_decay ** (depth - (int(match[1]) + 1 if match else 0))
        decay = settings.weight_decay if id(parameter) in decayed else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "weight_decay": decay, "rate": rate}
            for (rate, decay), parameters in groups.items()
        ],
        lr=settings.learning_rate,
        betas=settings.betas,
    )


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
