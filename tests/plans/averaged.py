"""The averaged cache of "Transformer Layers as Painters", naively: one row, from weights alone.

One memory for each place of the plan. Reading tokens, every layer of a parallel group attends to
the memory of its group for what came before and to its own keys and values for what is read now;
then the mean over the group goes into the memory. A loop has a memory for each time around.
Axes: T tokens read now, S tokens known, C channels, H heads, K key heads, D head size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from laminogram.plans import Plan, Step
from laminogram.stack.layer import Layer
from laminogram.view import View


class Painter:
    """Reads one row, as many tokens at a time as one likes, through whole Transformer layers."""

    def __init__(self, view: View, plan: Plan) -> None:
        self.stack = view.stack
        self.places = [
            [item.layer] if isinstance(item, Step) else [b.steps[0].layer for b in item.branches]
            for item in plan.items
        ]
        self.memory: dict[int, tuple[Tensor, Tensor]] = {}
        self.length = 0

    @torch.no_grad()
    def read(self, tokens: list[int]) -> Tensor:
        """Logits (T, V) of the next tokens of the row."""
        x = self.stack.embed.tokens.weight[tokens]
        for place, layers in enumerate(self.places):
            ends, keys, values = zip(
                *(self._layer(self.stack.layer(layer), x, place) for layer in layers)
            )
            x = torch.stack(ends).mean(0)
            own = torch.stack(keys).mean(0), torch.stack(values).mean(0)
            self.memory[place] = tuple(map(torch.cat, zip(self._past(place, own), own)))  # type: ignore[assignment]
        self.length += len(tokens)
        return _norm(self.stack.final_norm, x) @ self.stack.head.weight.t()

    def _past(self, place: int, like: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        empty = like[0][:0], like[1][:0]
        return self.memory.get(place, empty)

    def _layer(self, layer: Layer, x: Tensor, place: int) -> tuple[Tensor, Tensor, Tensor]:
        """A layer's output (T, C), and its own keys and values (T, K, D)."""
        h, attn, size = _norm(layer.attn_norm, x), layer.attn, layer.attn.config.head_dim
        q, k, v = (_linear(one, h).unflatten(-1, (-1, size)) for one in (attn.q, attn.k, attn.v))
        q, k = self._turned(q, attn.config.rope), self._turned(k, attn.config.rope)
        past = self._past(place, (k, v))
        keys, values = torch.cat((past[0], k)), torch.cat((past[1], v))
        share = q.shape[1] // k.shape[1]
        z = torch.zeros_like(q)
        for t in range(len(x)):
            seen = self.length + t + 1
            for head in range(q.shape[1]):
                scores = keys[:seen, head // share] @ q[t, head] / math.sqrt(size)
                z[t, head] = scores.softmax(0) @ values[:seen, head // share]
        out = _linear(attn.o, z.flatten(1))
        middle = x if layer.config.block == "parallel" else x + out
        return x + out + _feed(layer.ffn, _norm(layer.ffn_norm, middle)), k, v

    def _turned(self, x: Tensor, rope) -> Tensor:
        """Rotary: channel j of the first half with channel j of the second, by its own angle."""
        half, turned = rope.rotary_dims // 2, x.clone()
        for t in range(len(x)):
            for j in range(half):
                angle = (self.length + t) * rope.theta ** (-2 * j / rope.rotary_dims)
                cos, sin = math.cos(angle), math.sin(angle)
                turned[t, :, j] = x[t, :, j] * cos - x[t, :, j + half] * sin
                turned[t, :, j + half] = x[t, :, j + half] * cos + x[t, :, j] * sin
        return turned


def _linear(one, h: Tensor) -> Tensor:
    out = h @ one.weight.t()
    return out if one.bias is None else out + one.bias


def _norm(norm, x: Tensor) -> Tensor:
    if norm.kind == "layer":
        x = x - x.mean(-1, keepdim=True)
    x = x / (x.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight
    return x if norm.bias is None else x + norm.bias


def _feed(ffn, h: Tensor) -> Tensor:
    up = _linear(ffn.up, h)
    if ffn.config.gated:
        gate = _linear(ffn.gate, h)
        return _linear(ffn.down, gate / (1 + (-gate).exp()) * up)
    return _linear(ffn.down, up * 0.5 * (1 + torch.erf(up / math.sqrt(2))))
