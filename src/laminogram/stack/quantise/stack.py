"""A stack with its weights in a format: what is packed, what never is, and what is said of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from laminogram.errors import ConfigError
from laminogram.stack.linear import Linear, kept_dtype
from laminogram.stack.mixers.moe import MoE
from laminogram.stack.quantise.activations import Activations, Rounded
from laminogram.stack.quantise.int8 import Int8
from laminogram.stack.quantise.packed import Packed
from laminogram.stack.quantise.scheme import Scheme
from laminogram.stack.stack import Stack

LEAST_OUTPUTS = 8
"""A product with fewer outputs stays dense: it is small, and decides much (gates of one number)."""


@dataclass(frozen=True)
class Quantised:
    """What a stack was quantised to: `weights` are the paths that are packed, `dense` the other
    products' and tables' that are not, `entries` those of the packed weights and `nbytes` what they
    take. Vectors (norms, biases, token shifts) and RWKV's thin matrices are never quantised."""

    scheme: Scheme
    weights: tuple[str, ...]
    dense: tuple[str, ...]
    entries: int
    nbytes: int

    def __str__(self) -> str:
        return str(self.scheme)

    def facts(self) -> dict[str, Any]:
        """What a manifest says: layers are written `*`, with how many weights a name stands for."""
        activations = self.scheme.activations
        return {
            "format": self.scheme.name,
            "weights": "packed",
            "quantised": _by_pattern(self.weights),
            "not_quantised": _by_pattern(self.dense),
            "entries": self.entries,
            "bytes": self.nbytes,
            "activations": _about(activations, self.scheme),
            "rows_independent": activations is None or activations.alone,
            "embeddings": "simulated" if self.scheme.embeddings else "not quantised",
        }


def quantised(stack: Stack, scheme: Scheme) -> Stack:
    """A stack of the same configuration whose products are packed; parameters that stay as they are
    are shared with it. Weights are read one at a time, from their own precision.

    ConfigError for a stack that is quantised already, is run by another library, or whose head
    cannot be.
    """
    if stack.quantised is not None:
        raise ConfigError(
            f"the weights are {stack.quantised} already: quantise the model they were made from"
        )
    if hasattr(stack, "converted"):
        raise ConfigError(
            f"{stack.config.family} is run by another library, whose weights are not packed here; "
            "there are fp32, bf16 and fp16"
        )
    if scheme.head:
        _check_head(stack)
    scheme = replace(scheme, dtype=scheme.dtype or stack.dtype)
    paths = set(_products(stack, scheme))
    other = Stack(stack.config, device="meta")
    for path, parameter in stack.named_parameters():
        if path in paths:
            place(other, path, _packed(parameter, scheme))
        else:
            place(other, path, _plain(stack, path, parameter, scheme))
    if scheme.head and stack.head.weight is None:  # tied: the table stays, the head has its own
        place(other, "head.weight", _packed(stack.tied_table, scheme))
    other.quantised = described(other, scheme)
    return other


def described(stack: Stack, scheme: Scheme) -> Quantised:
    """What of a stack is packed, and what is not."""
    packed = dict(packed_weights(stack))
    return Quantised(
        scheme,
        tuple(packed),
        tuple(
            path
            for path, parameter in stack.named_parameters()
            if parameter.dim() > 1 and path.rpartition(".")[0] not in packed
        ),
        sum(one.numel() for one in packed.values()),
        sum(one.nbytes for one in packed.values()),
    )


def packed_weights(module: nn.Module) -> Iterator[tuple[str, Packed]]:
    """The packed weights of a module, by the path of the parameter that each stands for."""
    for path, part in module.named_modules():
        if isinstance(part, Packed):
            yield path, part


def weights_of(module: nn.Module) -> Iterator[tuple[str, nn.Parameter | Packed]]:
    """Every weight of a module by path, dense or packed: both have `shape`, `dtype`, `numel()` and
    `nbytes`, the bytes that are stored."""
    packed = dict(packed_weights(module))
    yield from packed.items()
    for path, parameter in module.named_parameters():
        if path.rpartition(".")[0] not in packed:
            yield path, parameter


def _products(stack: Stack, scheme: Scheme) -> Iterator[str]:
    """The paths of the weights that are to be packed."""
    places = ("layers.", "head.") if scheme.head else ("layers.",)
    for path, module in stack.named_modules():
        if not path.startswith(places) or not isinstance(module, Linear):
            continue
        owner, _, name = path.rpartition(".")
        routes = name == "router" and isinstance(stack.get_submodule(owner), MoE)
        if not routes and module.weight.shape[0] >= LEAST_OUTPUTS:
            yield f"{path}.weight"
    if scheme.head and stack.head.weight is not None:
        yield "head.weight"


def _packed(weight: Tensor, scheme: Scheme) -> Packed:
    return Packed(weight, scheme.weights, scheme.activations, scheme.dtype)


def _plain(stack: Stack, path: str, parameter: nn.Parameter, scheme: Scheme) -> nn.Parameter:
    """A parameter that stays dense: itself where its dtype stays, a token table rounded if asked
    for."""
    assert scheme.dtype is not None
    dtype = kept_dtype(stack, path, scheme.dtype)
    if scheme.embeddings and path == "embed.tokens.weight":
        rounded = Packed(parameter, scheme.weights, dtype=dtype).dense()
        return nn.Parameter(rounded, parameter.requires_grad)
    if parameter.dtype == dtype:
        return parameter
    return nn.Parameter(parameter.detach().to(dtype), parameter.requires_grad)


def place(stack: Stack, path: str, weight: nn.Parameter | Packed) -> None:
    """Put a weight where a parameter of that path stands."""
    owner, _, name = path.rpartition(".")
    module = stack.get_submodule(owner)
    if isinstance(weight, Packed):
        del module._parameters[name]  # a module cannot take a parameter's name otherwise
    setattr(module, name, weight)


def _check_head(stack: Stack) -> None:
    head = stack.config.head
    if not head.present:
        raise ConfigError(f"{stack.config.family} has no language-model head to quantise")
    if head.normalised:
        raise ConfigError(
            f"the head of {stack.config.family} brings its rows to unit length, which needs them "
            "dense; leave +head out"
        )


def _about(activations: Activations | None, scheme: Scheme) -> str:
    if activations is None:
        return "not quantised"
    if isinstance(activations, Rounded) and isinstance(scheme.weights, Int8):
        return "int8, in products of whole numbers where torch has them; straight-through gradient"
    return "simulated: rounded, then multiplied in fp32; straight-through gradient"


def _by_pattern(paths: tuple[str, ...]) -> dict[str, int]:
    return dict(Counter(re.sub(r"\.\d+(?=\.)", ".*", path) for path in paths))
