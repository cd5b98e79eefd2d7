"""What a plan means, stated a second time: over `Plan.items`, by mixers and norms alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from laminogram.plans import Item, Plan, Step
from laminogram.stack import context
from laminogram.stack.batch import Batch
from laminogram.stack.taps import NO_TAPS
from laminogram.view import View

Streams = dict[str, Tensor]


@dataclass
class Meaning:
    """One reading of a batch. `trace` fills with (step, its input, its output), in order.

    after: what is made of each step's output, by its number; edits are restated by it.
    """

    view: View
    batch: Batch
    after: Callable[[int, Step, Tensor], Tensor] = lambda number, step, x: x
    trace: list[tuple[Step, Tensor, Tensor]] = field(default_factory=list)

    def logits(self, plan: Plan) -> Tensor:
        """Scores (B, T, V), rows left-aligned."""
        stack, batch = self.view.stack, self.batch
        rows, width = batch.shape
        self.ctx = context.build(
            stack.rotary, stack.mask_keys, batch.lengths, width, (0,) * rows, batch.lengths,
            device=stack.device,
            dtype=stack.dtype,
        )  # fmt: skip
        x = stack.embed(batch.tokens, self.ctx.positions, batch.types)
        streams: Streams = {}
        if self.view.config.family == "rwkv7" and self.view.v_first == "embedding":
            streams["v_first"] = self._first_values(x)
        x = self.over(plan.items, x, streams)
        x = stack.final_norm(x) if stack.config.final_norm else x
        return stack.head(x, stack.tied_table)

    def over(self, items: Iterable[Item], x: Tensor, streams: Streams) -> Tensor:
        """Items one after the other; a group is its input plus what its branches add to it."""
        for item in items:
            if isinstance(item, Step):
                x = self._step(item, x, streams)
                continue
            added = torch.stack([self.over(b.items, x, dict(streams)) - x for b in item.branches])
            x = x + (added.mean(0) if item.kind == "mean" else added.sum(0))
        return x

    def _step(self, step: Step, x: Tensor, streams: Streams) -> Tensor:
        number = len(self.trace)
        out = self.after(number, step, self._layer(step, x, streams))
        self.trace.append((step, x, out))
        return out

    def _layer(self, step: Step, x: Tensor, streams: Streams) -> Tensor:
        layer, ctx = self.view.stack.layer(step.layer), replace(self.ctx, streams=streams)
        halves = {
            "attn": (layer.attn_norm, lambda h: layer.attn(h, ctx, None, NO_TAPS)),
            "ffn": (layer.ffn_norm, lambda h: layer.ffn(h, ctx, None, NO_TAPS)),
        }
        if layer.config.block == "sandwich":
            after = {"attn": layer.attn_post_norm, "ffn": layer.ffn_post_norm}
            halves = {
                name: (norm, lambda h, mixer=mixer, post=after[name]: post(mixer(h)))
                for name, (norm, mixer) in halves.items()
            }
        chosen = halves.values() if step.part == "both" else [halves[step.part]]
        if layer.config.block == "parallel":
            return x + sum(mixer(norm(x)) for norm, mixer in chosen)
        for norm, mixer in chosen:
            x = norm(x + mixer(x)) if layer.config.block == "post" else x + mixer(norm(x))
        return x

    def _first_values(self, x: Tensor) -> Tensor:
        """RWKV-7's side stream: the values that layer 0 computes from the embedding."""
        layer = self.view.stack.layer(0)
        h = layer.attn_norm(x)
        before = torch.cat((torch.zeros_like(h[:, :1]), h[:, :-1]), 1)
        values = (h + (before - h) * layer.attn.mix_v) @ layer.attn.v.weight.t()
        return values.unflatten(-1, (layer.attn.config.num_attention_heads, -1))


def meaning(view: View, plan: Plan, ids: Tensor) -> Tensor:
    """The logits (B, T, V) of rows of one length under a plan."""
    with torch.no_grad():
        return Meaning(view, view.tokens(ids)).logits(plan)
