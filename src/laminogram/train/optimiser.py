"""AdamW, and which parameter gets which share of the learning rate and of the weight decay.

The matrices of products decay; vectors (norms, biases, mixing ramps, decays), the small factors of
RWKV-7's low-rank products and embeddings do not. `rates` gives parameters whose name ends so a
multiple of the learning rate, as published RWKV trainers do for the decay and the bonus of the
recurrence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from laminogram.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """AdamW's settings. `lr` is the peak; `rates` maps the end of a name to a factor on it."""

    lr: float = 3e-3
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    rates: Mapping[str, float] = field(default_factory=dict)


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: to matrices called `weight` that are not embeddings."""
    matrix = parameter.ndim >= 2 and name.endswith("weight")
    return matrix and not name.startswith("embed.")


def build_optimiser(model: nn.Module, config: OptimiserConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters, one group for each (rate, decay).

    Raises ConfigError where an entry of `rates` matches no parameter.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    unused = set(config.rates)
    fused = False
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        matches = [end for end in config.rates if name.endswith(end)]
        unused.difference_update(matches)
        rate = config.rates[max(matches, key=len)] if matches else 1.0
        decay = config.weight_decay if decays(name, parameter) else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
        fused = fused or parameter.is_cuda
    if unused:
        raise ConfigError(f"rates name no parameter of this model: {', '.join(sorted(unused))}")
    return torch.optim.AdamW(
        [
            {"params": parameters, "rate": rate, "weight_decay": decay}
            for (rate, decay), parameters in groups.items()
        ],
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        fused=fused,
        foreach=not fused,
    )


def take_step(optimiser: torch.optim.Optimizer) -> None:
    """One step; what is kept of the parameters elsewhere learns of it, which torch's fused kernels
    do not see to."""
    optimiser.step()
    if optimiser.defaults.get("fused"):
        for group in optimiser.param_groups:
            torch.autograd.graph.increment_version(group["params"])


def set_rate(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Set every group's learning rate to `lr` times the group's own rate."""
    for group in optimiser.param_groups:
        group["lr"] = lr * group["rate"]
