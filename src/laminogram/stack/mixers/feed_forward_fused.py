"""What compiled kernels take of a feed-forward network (`kernels/token/feed_forward.py`) or a
mixture of experts (`kernels/token/experts.py`) that follows an attention, for `block_fused`.

The experts' weights are read as they are: a copy of all of them in 16 bits would have to be made
for the few that a text meets.

Axes: C channels, E experts, F ffn width.
"""

from __future__ import annotations

import importlib
from functools import cache
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from laminogram.stack.config import FfnConfig, MLPConfig, MoEConfig
from laminogram.stack.kernels.matvec import dtype_kind
from laminogram.stack.linear import Linear
from laminogram.stack.mixers.fused import (
    Called,
    Entries,
    Value,
    Watch,
    Weights,
    bias_of,
    is_readable,
    stored,
    vector,
)
from laminogram.stack.mixers.mlp import MLP
from laminogram.stack.mixers.moe import MoE

_ACTIVATIONS = {
    "silu": "SILU",
    "swish": "SILU",
    "gelu": "GELU",
    "gelu_fast": "GELU_TANH",
    "gelu_new": "GELU_TANH",
    "gelu_pytorch_tanh": "GELU_TANH",
    "relu": "RELU",
    "relu2": "RELU2",
}
"""What the kernels call an activation."""
_met: WeakKeyDictionary[MoE, tuple[Watch, Weights]] = WeakKeyDictionary()
"""By mixture: what its experts were when a decoder was made, and what a kernel takes of them."""


@cache
def _kernel(name: str) -> ModuleType:
    return importlib.import_module(f"laminogram.stack.kernels.token.{name}")


def is_known(config: FfnConfig) -> bool:
    """Whether a kernel knows all that networks of this configuration do."""
    return isinstance(config, MLPConfig | MoEConfig) and config.activation in _ACTIVATIONS


def dense_products(ffn: nn.Module) -> list[Linear] | None:
    """The products that every token meets, in the kernel's order (none where there are experts
    only); None for a module of another kind."""
    if type(ffn) is MLP:
        return [ffn.gate, ffn.up, ffn.down] if ffn.config.gated else [ffn.up, ffn.down]
    if type(ffn) is not MoE:
        return None
    return [] if ffn.config.shared_intermediate_size is None else dense_products(ffn.shared)


def network(ffn: Any, weights: Weights, place: int) -> Called | None:
    """What the kernel takes of a network whose dense products are in `weights` from `place` on;
    None where it does not take the experts."""
    values = _mixture(ffn, weights, place) if type(ffn) is MoE else _plain(ffn, weights, place)
    if values is None:
        return None
    kernel = _kernel("experts" if type(ffn) is MoE else "feed_forward")
    return Called(kernel.step.address, Entries(kernel, values))


def _plain(ffn: MLP, weights: Weights, place: int) -> dict[str, Value]:
    products = dense_products(ffn) or []
    biases = [bias_of(product) for product in products] if ffn.config.bias else []
    return {
        "ACTIVATION": _activation(ffn.config),
        "WEIGHTS": weights.address_of(place),
        "PARTS": len(products),
        "BIASES": np.concatenate(biases[:-1]) if biases else 0,
        "DOWN_BIAS": biases[-1] if biases else 0,
    }


def _mixture(ffn: MoE, weights: Weights, place: int) -> dict[str, Value] | None:
    config, enters = ffn.config, ffn.router.weight.dtype
    router, experts = stored([ffn.router], is_readable), _experts(ffn)
    if router is None or experts is None:
        return None
    gate = getattr(ffn, "shared_gate", None)
    if gate is not None and not isinstance(gate.weight, Tensor):
        return None
    shared = config.shared_intermediate_size is not None
    kernel = _kernel("experts")
    return {
        "ENTERS": dtype_kind(enters),
        "ROUTED": dtype_kind(torch.float32 if config.router_fp32 else enters),
        "ROUTER": Weights([ffn.router], router, short=False),
        "WEIGHTS": experts,
        "NUMBER": config.num_experts,
        "CHOSEN": config.num_experts_per_tok,
        "SCORING": kernel.SOFTMAX if config.scoring == "softmax" else kernel.SIGMOID,
        "NORMED": int(config.norm_topk_prob),
        "CORRECTION": vector(ffn.correction) if config.correction_bias else 0,
        "GROUPS": config.n_group,
        "BEST_GROUPS": config.topk_group,
        "BEST_OF": config.best_of_group,
        "ACTIVATION": _activation(config),
        "FACTOR": np.array([config.routed_scaling_factor], np.float32),
        "SHARED": _shared(ffn.shared, weights, place) if shared else 0,
        "SHARED_GATE": 0 if gate is None else vector(gate.weight).reshape(-1),
    }


def _shared(ffn: MLP, weights: Weights, place: int) -> Entries:
    return Entries(_kernel("feed_forward"), _plain(ffn, weights, place))


def _experts(ffn: MoE) -> Weights | None:
    """The products of all experts, one after the other: gate, up, down. They are many, so what was
    found for one cache serves the next, for as long as nothing of it changes."""
    known = _met.get(ffn)
    if known is not None and known[0].unchanged():
        return known[1]
    products = [
        product
        for index in range(ffn.config.num_experts)
        for product in dense_products(ffn.expert(index)) or []
    ]
    if any(type(product) is not Linear for product in products):
        return None
    found = stored(products)
    if found is None:
        return None
    weights = Weights(products, found, short=False)
    _met[ffn] = Watch([ffn.experts]), weights
    return weights


def _activation(config: MLPConfig | MoEConfig) -> int:
    kind: int = getattr(_kernel("feed_forward"), _ACTIVATIONS[config.activation])
    return kind
