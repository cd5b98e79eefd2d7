"""The same weights in another stack: for a head more, a longer vocabulary, another precision."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from laminogram.stack.config import StackConfig
from laminogram.stack.quantise import described, packed_weights, place
from laminogram.stack.stack import Stack


def rebuild(stack: Stack, config: StackConfig, replaced: Mapping[str, Tensor]) -> Stack:
    """A stack of `config` with the tensors of `replaced` by name, and for the rest the very
    parameters of `stack`, shared with it. KeyError where neither has a tensor that it needs."""
    other = Stack(config, device="meta")
    for path, packed in packed_weights(stack):
        if path not in replaced:
            place(other, path, packed)
    own = dict(stack.named_parameters())
    for path in [name for name, _ in other.named_parameters()]:
        owner, _, name = path.rpartition(".")
        kept = own.get(path)
        if path in replaced:
            grad = kept is None or kept.requires_grad
            kept = nn.Parameter(replaced[path], requires_grad=grad)
        if kept is None:
            raise KeyError(path)
        setattr(other.get_submodule(owner), name, kept)
    other.short = stack.short
    if stack.quantised is not None:
        other.quantised = described(other, stack.quantised.scheme)
    return other
