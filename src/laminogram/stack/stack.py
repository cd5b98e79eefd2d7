"""The stack: embedding, layers, final norm and head of any family, and its one forward path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from laminogram.plans import Plan
from laminogram.stack.batch import Batch
from laminogram.stack.cache import Cache, StepSlot
from laminogram.stack.conditions import KeysAndValues, check_plan, share_averages
from laminogram.stack.config import StackConfig, TimeMix7Config
from laminogram.stack.context import V_FIRST, Rotary, mask_keys
from laminogram.stack.ends import Embedding, Head, ScoreHead
from laminogram.stack.forward import run
from laminogram.stack.forward_graph import FastForward
from laminogram.stack.kernels.shortened import Reader, forget
from laminogram.stack.layer import CompiledRunLayer, Layer, run_layer
from laminogram.stack.linear import Linear
from laminogram.stack.norms import Norm
from laminogram.stack.skipping import lay
from laminogram.stack.together import Together

if TYPE_CHECKING:
    from laminogram.stack.quantise import Quantised


class Stack(nn.Module):
    """A language model as data and parameters.

    `stack(tokens (B, T)) -> logits (B, T, V)` runs the full plan; `forward.run` runs any plan with
    caches and taps. Built on the meta device it takes no memory until a checkpoint fills it.
    `quantised` says what of it is packed (`stack.quantise`), None for nothing; `fast` what
    makes its forwards fast (`accelerate`); `short` whether one token on a CPU may read fp32 weights
    that are numbers of 16 bits from copies in bf16 (`read_short`).
    """

    quantised: Quantised | None = None
    fast: FastForward | None = None
    short: bool = True

    def __init__(
        self,
        config: StackConfig,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.rotary = Rotary(config)
        self.mask_keys = mask_keys(config)
        with torch.device(device or "cpu"):
            self.embed = Embedding(config)
            self.layers = nn.ModuleList(
                Layer(layer, config.hidden_size, self.rotary) for layer in config.layers
            )
            if config.final_norm is not None:
                self.final_norm = Norm(config.final_norm, config.hidden_size)
            self.head = Head(config)
            if config.head.pooler:
                self.pooler = Linear(config.hidden_size, config.hidden_size, bias=True)
            if config.score is not None:
                self.score = ScoreHead(config.score, config.hidden_size)
        if dtype is not None:
            self.to(dtype)
        self.run_layer: Callable[..., Tensor] = run_layer
        self.together = Together(self)

    def layer(self, index: int) -> Layer:
        """Layer `index`, typed. Asked at every step: entries of tables, for an attribute of a
        module and an entry of a list of modules take several times as long."""
        layers: Any = self._modules["layers"]
        found: Layer | None = layers._modules.get(str(index))
        layer: Layer = layers[index] if found is None else found
        return layer

    @property
    def dtype(self) -> torch.dtype:
        return self.embed.tokens.weight.dtype

    @property
    def residual_dtype(self) -> torch.dtype:
        """fp32 above fp16 weights, so that the stream cannot overflow; else the weights' own."""
        return torch.float32 if self.dtype == torch.float16 else self.dtype

    @property
    def device(self) -> torch.device:
        """Where tokens enter; layers may lie elsewhere (`place`)."""
        return self.embed.tokens.weight.device

    @property
    def head_device(self) -> torch.device:
        """Where logits are made."""
        weight = next(self.head.parameters(), None)
        last = self.final_norm.weight if self.config.final_norm else weight
        return self.device if last is None else last.device

    @property
    def tied_table(self) -> Tensor:
        """The token table (V, C) where logits are made: what a tied head multiplies with."""
        table = self.embed.tokens.weight
        return table if not self.config.head.tied else table.to(self.head_device)

    def full_plan(self) -> Plan:
        """Every layer once, in order."""
        return Plan.full(len(self.layers))

    def place(self, devices: Sequence[torch.device | str]) -> Stack:
        """Spread the layers over devices in order, by equal numbers; ends go to the outer ones.

        A tied head stays with the table that it shares.
        """
        found = [torch.device(device) for device in devices]
        self.embed.to(found[0])
        for i, layer in enumerate(self.layers):
            layer.to(found[layer_place(i, len(self.layers), len(found))])
        for name in ("final_norm", "head", "pooler", "score"):
            if hasattr(self, name):
                getattr(self, name).to(found[0 if self.config.head.tied else -1])
        return self

    def compile_layers(self, backend: str | Callable = "inductor") -> Stack:
        """Compile the layer function: one graph for each tap signature, no break allowed.

        Lengths that change make one more graph with free sizes. Only RWKV-4's scan in plain torch
        is bound to its length: without its CUDA kernel give texts of one length there (a captured
        decode step is one anyway).
        """
        self.together.allowed = False  # every number of layers would be a graph of its own
        self.run_layer = CompiledRunLayer(backend)
        return self

    def accelerate(self) -> Stack:
        """Make forwards over whole texts on a GPU fast, for as long as the weights stay where they
        are: layers compiled, products of one input joined, a CUDA graph for each shape. See
        `FastForward`. ConfigError where the stack is not on one CUDA device."""
        self.fast = self.fast or FastForward(self)
        return self

    def skip_zero_rows(self, skip: bool = True) -> Stack:
        """Let a decoded token leave out what a squared ReLU has set to zero, for as long as the
        weights are laid so; False lays them back. It pays for large layers of trained weights, and
        changes sums by their order. See `skipping.lay`."""
        lay(self, by_inputs=skip)
        return self

    def read_short(self, allowed: bool = True) -> Stack:
        """Whether caches made from now on may read fp32 weights that are numbers of 16 bits from
        copies in bf16, for the same results in half of the time; False also lets go of the copies.
        They are made while a token runs on a CPU with numba, half as large as the weights, where a
        quarter of memory stays free. A cache does not see `weight.data[...] = 0` after that."""
        self.short = allowed
        if not allowed:
            for weight in self.parameters():
                forget(weight)
        return self

    def new_cache(
        self,
        batch: int,
        plan: Plan,
        conditions: str,
        capacity: int = 0,
        kv: KeysAndValues = "exact",
    ) -> Cache:
        """An empty cache with one slot for each step of the plan.

        kv "averaged" gives the branches of each parallel group one slot, `AveragedSlot`.
        """
        slots: list[StepSlot] = [
            self.layer(step.layer).new_slot(batch, 0, step.part) for step in plan
        ]
        if kv == "averaged":
            share_averages(slots, plan)
        else:
            self.together.join_slots(slots, plan)
        for slot in slots:
            slot.short = self.short
        cache = Cache(slots, [0] * batch, conditions, reader=Reader() if self.short else None)
        cache.reserve(capacity)
        if self.provider is not None:
            size = self.config.hidden_size
            cache.streams[V_FIRST] = torch.zeros(batch, size, device=self.device, dtype=self.dtype)
        return cache

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Stack:
        """What `to`, `cuda`, `half` and their kind do: it moves every weight."""
        if "together" in self.__dict__:
            self.together.forget()
        return super()._apply(fn, recurse)

    @property
    def provider(self) -> Layer | None:
        """The layer that provides the side stream `v_first`, where the family has one."""
        for index, layer in enumerate(self.config.layers):
            if isinstance(layer.attn, TimeMix7Config) and layer.attn.provides_v_first:
                return self.layer(index)
        return None

    def forward(self, tokens: Tensor, plan: Plan | None = None) -> Tensor:
        """Logits (B, T, V) of full rows of tokens (B, T), nothing tapped; None: the full plan.

        PlanError for a plan that does not fit.
        """
        if plan is not None:
            check_plan(plan, self.config)
        rows, width = tokens.shape
        batch = Batch(tokens, (width,) * rows, (0,) * rows, width)
        return run(self, batch, self.full_plan() if plan is None else plan)


def layer_place(index: int, layers: int, devices: int) -> int:
    """The device number of a layer when `layers` are spread evenly over `devices`."""
    return index * devices // layers
