"""What a model of `transformers` hands to each of its layers, computed once for a forward.

Positions, masks and rotary tables depend on how many tokens each row has and had, and not on which:
so they are made by the model from a row of zeros, and belong to the forward's context.

Axes: B rows, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from laminogram.errors import FamilyError
from laminogram.generic.memory import Memory, Placeholder
from laminogram.generic.spine import Call, Log, Spine
from laminogram.stack.cache import AttentionSlot
from laminogram.stack.context import Context

_STREAM = "wrapped"


@dataclass(frozen=True)
class Frame:
    """The arguments of every layer; `cache` stands in them where a step's memory belongs."""

    calls: list[Call]
    cache: Placeholder | None
    shift: Tensor | None

    def call(self, index: int, ctx: Context, slot: AttentionSlot | None) -> Call:
        """The arguments of a layer at a step with this memory."""
        if self.cache is None:
            return self.calls[index]
        cache = self.cache
        memory = None if slot is None else Memory(slot, ctx, self.shift, cache)
        return self.calls[index].mapped(lambda value: memory if value is cache else value)


class Frames:
    """Makes frames. `cached` False: the model is never given a cache."""

    def __init__(self, spine: Spine, *, causal: bool, cached: bool) -> None:
        self.spine, self.causal, self.cached = spine, causal, cached

    def at(self, ctx: Context) -> Frame:
        """The frame of a forward: made when its first layer asks."""
        streams = cast(dict[str, Any], ctx.streams)
        if _STREAM not in streams:
            streams[_STREAM] = self._make(ctx)
        frame: Frame = streams[_STREAM]
        return frame

    def embed(self, tokens: Tensor, positions: Tensor, types: Tensor | None) -> Tensor:
        """What enters the first layer, (B, T, C)."""
        log = Log()
        inputs, _, _ = self._inputs(positions)
        self.spine.front(log, input_ids=tokens, token_type_ids=types, **inputs)
        return log.entered[0]

    def _make(self, ctx: Context) -> Frame:
        log = Log()
        inputs, cache, shift = self._inputs(ctx.positions)
        if cache is not None and ctx.columns != cache.get_seq_length() + ctx.positions.shape[1]:
            raise FamilyError(
                "a step with static buffers looks at a whole cache of a fixed size; layers that "
                "transformers runs look at what is filled: use generate"
            )
        if not self.causal and ctx.lengths is not None:
            columns = torch.arange(ctx.positions.shape[1], device=ctx.lengths.device)
            inputs["attention_mask"] = (columns < ctx.lengths[:, None]).long()
        table = self.spine.table
        start = table.weight.new_zeros(*ctx.positions.shape, table.embedding_dim)
        self.spine.front(log, inputs_embeds=start, **inputs)
        return Frame(log.calls, cache, shift)

    def _inputs(
        self, positions: Tensor
    ) -> tuple[dict[str, Any], Placeholder | None, Tensor | None]:
        """The model's inputs for tokens at `positions` (B, T): rows that began earlier than others
        are shown as if padded on the left by `shift` (B,)."""
        starts = positions[:, 0]
        past = int(starts.max())
        shift = None if bool((starts == past).all()) else past - starts
        # An encoder numbers its positions itself, from where its table begins.
        inputs: dict[str, Any] = {"use_cache": False}
        if self.causal:
            inputs["position_ids"] = positions
        if shift is not None:
            columns = torch.arange(past + positions.shape[1], device=positions.device)
            inputs["attention_mask"] = (columns >= shift[:, None]).long()
        cache = None
        if self.cached:
            cache = Placeholder(len(self.spine.layers), past)
            inputs |= {"past_key_values": cache, "use_cache": True}
        return inputs, cache, shift
