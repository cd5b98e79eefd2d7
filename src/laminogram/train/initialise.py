"""Weights to start training from, drawn for each mixer of a stack.

Attention and MLPs: normal, sqrt(2 / (5 fan_in)) wide (Nguyen and Salazar 2019), the products that
write to the residual stream narrower by sqrt(2 layers) (GPT-2).
RWKV-4: ramps over the channels for decay and token shift that differ from layer to layer, zero for
every product that opens a gate or writes to the residual stream, orthogonal for the rest, and a
very small embedding under a norm (Peng et al. 2023, appendix on initialisation).
RWKV-5 and 6: the same ramps, the gate orthogonal and narrow, low-rank products that begin at zero
(Peng et al. 2024, and the training code of the published models).
RWKV-7: the same ideas, with ramps and a zigzag inside each head for the offsets of decay and rate,
and low-rank products that begin at zero: first factor zero, second orthogonal (Peng et al. 2025).
Axes: C hidden size, A attention width, F feed-forward width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from laminogram.errors import ConfigError

if TYPE_CHECKING:
    from laminogram.stack.stack import Stack

Draw = Callable[[dict[str, Tensor], int, int, torch.Generator], None]


@torch.no_grad()
def initialise(stack: Stack, seed: int) -> None:
    """Draw all weights of `stack` in place, in the order of its layers, from one CPU generator.

    The stack must lie on the CPU, so that a seed gives the same weights on every machine.
    Raises ConfigError for a mixer without an initialisation, or a parameter that none reached.
    """
    if next(stack.parameters()).device.type != "cpu":
        raise ConfigError("initialise draws on the CPU; move the stack to its device afterwards")
    generator = torch.Generator().manual_seed(seed)
    config = stack.config
    names = dict(stack.named_parameters())
    for parameter in names.values():
        parameter.fill_(math.nan)  # so that a parameter which nothing draws is found at the end
    _norms(names)
    normed = config.embedding.norm is not None and not config.head.tied
    if normed:
        names["embed.tokens.weight"].uniform_(-1e-4, 1e-4, generator=generator)
    else:
        names["embed.tokens.weight"].normal_(std=0.02, generator=generator)
    for index, layer in enumerate(config.layers):
        for part, mixer in (("attn", layer.attn), ("ffn", layer.ffn)):
            if mixer.kind not in _DRAWS:
                known = ", ".join(_DRAWS)
                raise ConfigError(f"no initialisation for mixer {mixer.kind!r}; there are {known}")
            prefix = f"layers.{index}.{part}."
            own: dict[str, Tensor] = {
                name.removeprefix(prefix): parameter
                for name, parameter in names.items()
                if name.startswith(prefix)
            }
            _DRAWS[mixer.kind](own, index, config.num_layers, generator)
    if "head.weight" in names:
        _orthogonal(names["head.weight"], 0.5, generator)
    missed = [name for name, parameter in names.items() if parameter.isnan().any()]
    if missed:
        raise ConfigError(f"no initialisation for {', '.join(missed)}")


def _norms(names: dict[str, nn.Parameter]) -> None:
    for name, parameter in names.items():
        if name.endswith("bias"):
            parameter.zero_()
        elif name.endswith("norm.weight"):
            parameter.fill_(1.0)


def _normal(own: dict[str, Tensor], _: int, layers: int, generator: torch.Generator) -> None:
    for name in sorted(own):
        if not name.endswith("weight"):
            continue
        std = math.sqrt(2.0 / (5.0 * own[name].shape[1]))
        if name in ("o.weight", "down.weight"):
            std /= math.sqrt(2.0 * layers)
        own[name].normal_(std=std, generator=generator)


def _orthogonal(weight: Tensor, scale: float, generator: torch.Generator) -> None:
    rows, columns = weight.shape
    gain = scale * math.sqrt(max(1.0, rows / columns))
    nn.init.orthogonal_(weight, gain=gain, generator=generator)


def _rwkv4_time(
    own: dict[str, Tensor], index: int, layers: int, generator: torch.Generator
) -> None:
    deep, shallow = index / max(1, layers - 1), 1.0 - index / layers
    channel = torch.arange(own["mix_k"].numel()) / own["mix_k"].numel()
    own["mix_k"].copy_(channel**shallow)
    own["mix_v"].copy_(channel**shallow + 0.3 * deep)
    own["mix_r"].copy_(channel ** (0.5 * shallow))
    width = own["decay"].numel()
    place = torch.arange(width)
    own["decay"].copy_(-5.0 + 8.0 * (place / max(1, width - 1)) ** (0.7 + 1.3 * deep))
    # Neighbouring channels favour the present token by different amounts.
    own["bonus"].copy_(math.log(0.3) + 0.5 * ((place + 1) % 3 - 1))
    for name in ("k.weight", "r.weight", "o.weight"):
        own[name].zero_()
    _orthogonal(own["v.weight"], 1.0, generator)


def _rwkv4_channel(
    own: dict[str, Tensor], index: int, layers: int, generator: torch.Generator
) -> None:
    channel = torch.arange(own["mix_k"].numel()) / own["mix_k"].numel()
    for name in ("mix_k", "mix_r"):
        own[name].copy_(channel ** (1.0 - index / layers))
    _orthogonal(own["up.weight"], 1.0, generator)
    own["down.weight"].zero_()
    own["r.weight"].zero_()


def _rwkv5_time(
    own: dict[str, Tensor], index: int, layers: int, generator: torch.Generator
) -> None:
    deep, shallow = index / max(1, layers - 1), 1.0 - index / layers
    channel = torch.arange(own["mix_k"].numel()) / own["mix_k"].numel()
    own["mix_k"].copy_(channel**shallow)
    own["mix_v"].copy_(channel**shallow + 0.3 * deep)
    for name in ("mix_r", "mix_g"):
        if name in own:
            own[name].copy_(channel ** (0.5 * shallow))
    own["decay"].copy_(_decay_ramp(own["decay"], deep))
    _eagle_products(own, deep, generator)


def _rwkv6_time(
    own: dict[str, Tensor], index: int, layers: int, generator: torch.Generator
) -> None:
    deep, shallow = index / max(1, layers - 1), 1.0 - index / layers
    channel = torch.arange(own["mix_k"].numel()) / own["mix_k"].numel()
    for name in ("mix_x", "mix_w", "mix_k"):
        own[name].copy_(1.0 - channel**shallow)
    own["mix_v"].copy_(1.0 - (channel**shallow + 0.3 * deep))
    for name in ("mix_r", "mix_g"):
        own[name].copy_(1.0 - channel ** (0.5 * shallow))
    own["w0"].copy_(_decay_ramp(own["w0"], deep))
    for first, second in (("mix1", "mix2"), ("w1", "w2")):
        own[first].zero_()
        own[second].uniform_(-0.01, 0.01, generator=generator)
    _eagle_products(own, deep, generator)


def _decay_ramp(like: Tensor, deep: float) -> Tensor:
    """From slow to fast over heads and channels; deeper layers keep more slow ones."""
    place = torch.arange(like.numel()) / max(1, like.numel() - 1)
    return (-6.0 + 5.0 * place ** (0.7 + 1.3 * deep)).view(like.shape)


def _eagle_products(own: dict[str, Tensor], deep: float, generator: torch.Generator) -> None:
    """The bonus and the products that RWKV-5 and 6 share."""
    count = own["bonus"].numel()
    place = torch.arange(count)
    zigzag = 0.1 * ((place + 1) % 3 - 1)
    own["bonus"].copy_((deep * (1.0 - place / max(1, count - 1)) + zigzag).view_as(own["bonus"]))
    for name in ("k.weight", "r.weight", "o.weight"):
        own[name].zero_()
    _orthogonal(own["v.weight"], 1.0, generator)
    if "g.weight" in own:
        _orthogonal(own["g.weight"], 0.1, generator)
    _empty_state(own)


def _rwkv6_channel(
    own: dict[str, Tensor], index: int, layers: int, generator: torch.Generator
) -> None:
    _rwkv4_channel(own, index, layers, generator)
    for name in ("mix_k", "mix_r"):
        own[name].copy_(1.0 - own[name])


def _empty_state(own: dict[str, Tensor]) -> None:
    """A state that is there to be tuned starts as an empty one."""
    if "initial_state" in own:
        own["initial_state"].zero_()


_SHIFTS_7 = {"r": 0.2, "w": 0.9, "k": 0.7, "v": 0.7, "a": 0.9, "g": 0.2}  # exponents of the ramps


def _rwkv7_time(
    own: dict[str, Tensor], index: int, layers: int, generator: torch.Generator
) -> None:
    deep, shallow = index / max(1, layers - 1), 1.0 - index / layers
    size, head = own["k_k"].numel(), own["r_k"].shape[1]
    place = torch.arange(size)
    for name, exponent in _SHIFTS_7.items():
        own[f"mix_{name}"].copy_(1.0 - (place / size) ** (exponent * shallow))
    ramp = place / max(1, size - 1)
    middle = (head - 1) / 2
    zigzag = (place % head - middle) / max(0.5, middle)  # -1 to 1 inside each head
    zigzag = zigzag * zigzag.abs()
    own["w0"].copy_(-5.5 + 6.0 * ramp ** (1.0 + deep**0.3) + 2.5 * zigzag)
    own["a0"].copy_(-0.19 + 0.3 * zigzag + 0.4 * (ramp - 0.5))
    own["k_k"].copy_(0.71 - 0.1 * (ramp - 0.5))
    own["k_a"].fill_(1.02)
    own["r_k"].fill_(-0.04)
    if "v0" in own:
        own["v0"].copy_(0.73 - 0.4 * (ramp - 0.5))
    for name in ("w", "a", "v", "g"):
        if f"{name}1" in own:
            own[f"{name}1"].zero_()
            _orthogonal(own[f"{name}2"], 0.1, generator)
    for name, width in (("r", 0.5), ("k", 0.05), ("v", 0.5)):
        _uniform(own[f"{name}.weight"], width, generator)
    own["o.weight"].zero_()
    own["out_norm.weight"].fill_(((1 + index) / layers) ** 0.7)
    _empty_state(own)


def _rwkv7_channel(
    own: dict[str, Tensor], index: int, layers: int, generator: torch.Generator
) -> None:
    size = own["mix_k"].numel()
    own["mix_k"].copy_(1.0 - (torch.arange(size) / size) ** ((1.0 - index / layers) ** 4))
    _uniform(own["up.weight"], 0.5, generator)
    own["down.weight"].zero_()


def _uniform(weight: Tensor, width: float, generator: torch.Generator) -> None:
    """Uniform in +-`width` / sqrt(inputs)."""
    bound = width / math.sqrt(weight.shape[1])
    weight.uniform_(-bound, bound, generator=generator)


_DRAWS: dict[str, Draw] = {
    "attention": _normal,
    "mlp": _normal,
    "rwkv4_time": _rwkv4_time,
    "rwkv4_channel": _rwkv4_channel,
    "rwkv5_time": _rwkv5_time,
    "rwkv6_time": _rwkv6_time,
    "rwkv6_channel": _rwkv6_channel,
    "rwkv7_time": _rwkv7_time,
    "rwkv7_channel": _rwkv7_channel,
}
