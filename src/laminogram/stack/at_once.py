"""What a decoded token passes without stopping on the way, where nothing there is seen or changed:
layers, on a CPU in one call, on a GPU with sums that the next layer finishes; and on a CPU the
whole way to the logits (`Passage`), from the token's number where no layer asks for its place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from laminogram.plans import Item, Plan, Step
from laminogram.stack.batch import Batch
from laminogram.stack.cache import Cache, StepSlot
from laminogram.stack.context import V_FIRST, Context
from laminogram.stack.ends_fused import embed_stage, head_stage, is_one_product
from laminogram.stack.hooks import is_hooked
from laminogram.stack.kernels.shortened import AFTER
from laminogram.stack.layer import Layer, passes_rows
from laminogram.stack.mixers import fused, row_decode, rows_decode
from laminogram.stack.mixers.fused import FusedDecoder, Stage, Watch
from laminogram.stack.mixers.matrix_state_fused import first_values_stage

if TYPE_CHECKING:
    from laminogram.stack.stack import Stack


class Way(NamedTuple):
    """Which layers take part, and what runs several of them."""

    takes: Callable[[Layer, Tensor, Context, StepSlot], bool]
    run: Callable[[list[tuple[Layer, StepSlot]], Tensor, Context], Tensor]


def way(x: Tensor, ctx: Context) -> Way | None:
    """How `x (B, T, C)` may pass several layers; None but for one token a row."""
    if fused.is_one_row(x, ctx):
        return Way(Layer.takes_row, fused.several_layers)
    if x.shape[0] > 1 and row_decode.is_one_token(x, ctx):
        return Way(Layer.takes_rows, rows_decode.several_layers)
    return None


def token(stack: Stack, batch: Batch, plan: Plan, cache: Cache) -> Tensor | None:
    """Logits (1, 1, V) of one more token by the passage that the cache keeps, where that begins
    with the number of a token; None where there is none such, or it must go the usual way."""
    kept: Passage | None = cache.passage
    if kept is None or not kept.takes_numbers or batch.lengths != (1,):
        return None
    number = int(batch.tokens)
    if not 0 <= number < stack.config.vocab_size or torch.compiler.is_compiling():
        return None
    if not kept.serves(stack, plan.items, cache, stack.residual_dtype):
        return None
    with cache.being_written():
        return kept.of(number)


def logits(
    stack: Stack, items: tuple[Item, ...], cache: Cache, x: Tensor, ctx: Context
) -> Tensor | None:
    """From `x (1, 1, C)`, which enters the first step of a plan, to logits (1, 1, V) in one call,
    by the passage that the cache keeps; None where the token must go step by step."""
    if not fused.is_one_row(x, ctx):
        return None
    kept: Passage | None = cache.passage
    if kept is None or not kept.serves(stack, items, cache, x.dtype):
        kept = cache.passage = _passage(stack, items, cache, x.dtype, ctx)
    return None if kept is None else kept(x, ctx)


def _passage(
    stack: Stack, items: tuple[Item, ...], cache: Cache, dtype: torch.dtype, ctx: Context
) -> Passage | None:
    if not passes_rows(stack.run_layer) or not is_one_product(stack) or is_hooked(stack.head):
        return None
    layers, decoders = [], []
    for item, slot in zip(items, cache.slots):
        if not isinstance(item, Step) or item.part != "both":
            return None
        layer: Any = stack.layer(item.layer)
        if not isinstance(layer, Layer) or is_hooked(layer):
            return None
        decoder = layer.row_decoder(slot, dtype, ctx)
        if not isinstance(decoder, FusedDecoder):
            return None
        layers.append(layer)
        decoders.append(decoder)
    head = head_stage(stack, dtype, cache.reader is not None)
    if head is None:
        return None
    return Passage(stack, items, cache, layers, decoders, head, dtype)


class Passage:
    """The stages of all steps of a plan and of the head, with the memory of one cache, for as long
    as nothing of it changes."""

    def __init__(
        self,
        stack: Stack,
        items: tuple[Item, ...],
        cache: Cache,
        layers: Sequence[Layer],
        decoders: Sequence[FusedDecoder],
        head: Stage,
        dtype: torch.dtype,
    ) -> None:
        self._stack, self._items, self._run_layer = stack, items, stack.run_layer
        self._decoders, self._dtype, self._tokens = decoders, dtype, 0
        self._stages: list[Stage] = [*decoders, head]
        self._table = fused.table_of(self._stages)
        self._last = cache.streams.get(V_FIRST)
        self._entrance = _entrance(stack, self._last, dtype)
        if self._entrance is not None:
            self._whole = fused.table_of([*self._entrance, *self._stages])
        self._anywhere = _anywhere(stack)
        distinct = list(dict.fromkeys([*layers, *_providers(stack)]))
        ends = (stack.final_norm, stack.head, stack.embed)
        tables: list[Any] = [stack._modules, stack.layers._modules]
        self._watch = Watch([*distinct, *ends], tables)
        self._hooks = _hooks([stack.head, *distinct, *(x.attn for x in distinct)])
        self._hooks += _hooks([x.ffn for x in distinct])
        self._hooks_before = _hooks(stack.embed.modules())

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()  # as a stage

    def serves(
        self, stack: Stack, items: tuple[Item, ...], cache: Cache, dtype: torch.dtype
    ) -> bool:
        """Whether it was made for this plan of this stack, both as they are now, for the memory of
        this cache and a residual stream in this dtype."""
        return (
            stack is self._stack
            and items == self._items
            and dtype is self._dtype
            and stack.run_layer is self._run_layer
            and not any(self._hooks)
            and cache.streams.get(V_FIRST) is self._last
            and all(map(FusedDecoder.remembers, self._decoders, cache.slots))
            and self._watch.unchanged()
        )

    @property
    def takes_numbers(self) -> bool:
        """Whether it can begin with the number of a token: no layer asks at which place it stands,
        and nobody waits for the embedding to be called."""
        return self._entrance is not None and not any(self._hooks_before)

    def of(self, number: int) -> Tensor:
        """Logits (1, 1, V) after the token of this number; what the cache remembers moves on."""
        x = torch.empty(1, 1, self._stack.config.hidden_size, dtype=self._dtype)
        return self._through(self._whole, x, self._anywhere, number)

    def __call__(self, x: Tensor, ctx: Context) -> Tensor:
        """The same of `x (1, 1, C)`, which enters the first layer."""
        return self._through(self._table, x.clone(memory_format=torch.contiguous_format), ctx)

    def _through(self, table: np.ndarray, x: Tensor, ctx: Context, number: int = 0) -> Tensor:
        if self._tokens <= AFTER:
            self._tokens += 1
            fused.count(self._stages)
        weights = self._stages[-1].weights
        assert weights is not None
        scores = x.new_empty(1, 1, weights.outputs)
        fused.pass_through(table, x, ctx, scores, number)
        return scores


def _anywhere(stack: Stack) -> Context:
    """The context of a token for layers that do not ask for its place, with room for what passes
    between them."""
    found = Context(torch.zeros(1, 1, dtype=torch.long), None, 0, 1, {}, [])
    for provider in _providers(stack):
        norm: Any = provider.attn.out_norm
        found.streams[V_FIRST] = torch.empty(norm.weight.numel())
    return found


def _providers(stack: Stack) -> list[Layer]:
    """The layer of which all others read the first values, where there is one."""
    return [] if stack.provider is None else [stack.provider]


def _entrance(stack: Stack, last: Tensor | None, dtype: torch.dtype) -> list[Stage] | None:
    """What leads from a token's number to what enters the first step; None where that depends on
    the place where the token stands, or kernels do not take it. last: what the cache remembers for
    the first values."""
    if stack.mask_keys or stack.rotary.ropes:
        return None
    stages = [embed_stage(stack.embed, dtype)]
    for provider in _providers(stack):
        stages.append(None if last is None else first_values_stage(provider, last, dtype))
    found = [stage for stage in stages if stage is not None]
    return found if len(found) == len(stages) else None


def _hooks(modules: Iterable[nn.Module]) -> list[dict[int, Any]]:
    """The tables of hooks of modules, which are empty where nobody waits for a call."""
    return [x for m in modules for x in (m._forward_hooks, m._forward_pre_hooks)]
