"""One layer: two mixers around the residual stream, joined by a block equation.

A layer is a pure function of its parameters, `x`, the context, its slot and its taps; it knows
neither its index nor its place in a plan.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from laminogram.plans import Part
from laminogram.stack.cache import StepSlot
from laminogram.stack.config import LayerConfig, TimeMix7Config
from laminogram.stack.context import V_FIRST, Context, Rotary
from laminogram.stack.hooks import has_hooked_mixer, is_hooked
from laminogram.stack.mixers import Mixer, RowDecoder, channel_mixer, row_decoder, token_mixer
from laminogram.stack.mixers.fused import FusedDecoder, is_one_row
from laminogram.stack.mixers.row_decode import decoded, has_row_kernels, serves
from laminogram.stack.norms import Norm
from laminogram.stack.taps import Signature, Taps

MOST_FORMS = 64
"""Compiled forms of a layer that torch keeps, where it lets one say so; its own limit is 8."""
_NOTHING = StepSlot()


class Layer(nn.Module):
    """`x (B, T, C) -> x (B, T, C)`; `part` runs one half alone."""

    def __init__(self, config: LayerConfig, size: int, rotary: Rotary) -> None:
        super().__init__()
        self.config, self._size, self._rotary = config, size, rotary
        self.attn_norm, self.ffn_norm = Norm(config.norm, size), Norm(config.norm, size)
        if config.block == "sandwich":
            self.attn_post_norm = Norm(config.norm, size)
            self.ffn_post_norm = Norm(config.norm, size)
        self.attn = token_mixer(config.attn, size, rotary)
        self.ffn = channel_mixer(config.ffn, size)
        self._find_row_decoder = row_decoder(config)
        self._reads_first_values = isinstance(config.attn, TimeMix7Config)
        self._has_row_kernels = has_row_kernels(config)

    @property
    def device(self) -> torch.device:
        norm: Any = self._modules["attn_norm"]  # asked at every step, as `has_hooked_mixer` is
        weight: Tensor | None = norm._parameters.get("weight")
        return (norm.weight if weight is None else weight).device

    def shell(self) -> Layer:
        """A layer built like this one, without its weights."""
        with torch.device("meta"):
            return Layer(self.config, self._size, self._rotary)

    def new_slot(self, batch: int, capacity: int, part: Part) -> StepSlot:
        """Memory for one step of this layer: `batch` rows of up to `capacity` tokens."""
        attn, ffn = cast(Mixer, self.attn), cast(Mixer, self.ffn)
        shape = (batch, capacity, self.device, self.attn_norm.weight.dtype)
        return StepSlot(
            attn=attn.new_slot(*shape) if part != "ffn" else None,
            ffn=ffn.new_slot(*shape) if part != "attn" else None,
        )

    def forward(
        self, x: Tensor, ctx: Context, slot: StepSlot | None, taps: Taps, part: Part = "both"
    ) -> Tensor:
        """The residual `x (B, T, C)` after this layer or one half of it, by the shortest path that
        serves; the slot, where there is one, moves on by T tokens, and taps see every site."""
        if slot is not None and part == "both" and not taps.names and is_one_row(x, ctx):
            decoder = self.row_decoder(slot, x.dtype, ctx)
            if decoder is not None:
                return decoder(x, ctx)
        out = self.by_row_kernels(x, ctx, slot, taps, part)
        if out is not None:
            return out
        x = taps.entering(x)
        equation = _parallel if self.config.block == "parallel" else _in_turn
        return taps("resid_post", equation(self, x, ctx, slot or _NOTHING, taps, part))

    def row_decoder(self, slot: StepSlot, dtype: torch.dtype, ctx: Context) -> RowDecoder | None:
        """What takes one token of one row through this layer on a CPU, with this memory; None where
        it goes the usual way."""
        if self._find_row_decoder is None or has_hooked_mixer(self):
            return None
        if self._reads_first_values and V_FIRST not in ctx.streams:
            return None  # it provides them
        return self._find_row_decoder(self, slot, dtype)

    def by_row_kernels(
        self, x: Tensor, ctx: Context, slot: StepSlot | None, taps: Taps, part: Part
    ) -> Tensor | None:
        """`forward` of one token a row by fused kernels; None where they do not serve."""
        if not self._has_row_kernels or slot is None or part != "both":
            return None
        return decoded(self, x, ctx, slot, taps)

    def takes_row(self, x: Tensor, ctx: Context, slot: StepSlot) -> bool:
        """Whether a compiled kernel takes one token of one row, and nobody waits for this module to
        be called."""
        decoder = None if is_hooked(self) else self.row_decoder(slot, x.dtype, ctx)
        return isinstance(decoder, FusedDecoder)

    def takes_rows(self, x: Tensor, ctx: Context, slot: StepSlot) -> bool:
        """Whether fused kernels take one token of these rows, and nobody waits for this module to
        be called."""
        return self._has_row_kernels and not is_hooked(self) and serves(self, x, ctx, slot)


def _in_turn(
    layer: Layer, x: Tensor, ctx: Context, slot: StepSlot, taps: Taps, part: Part
) -> Tensor:
    """Pre-norm: x += f(norm(x)); post-norm: x = norm(x + f(x)); sandwich: x += norm(f(norm(x)));
    token mixer first."""
    post, sandwich = layer.config.block == "post", layer.config.block == "sandwich"
    if part != "ffn":
        h = taps("attn_in", _as_input(layer, x) if post else layer.attn_norm(x))
        out = layer.attn(h, ctx, slot.attn, taps)
        x = x + taps("attn_out", layer.attn_post_norm(out) if sandwich else out)
        x = layer.attn_norm(x) if post else x
        x = taps("resid_mid", x)
    if part != "attn":
        h = taps("ffn_in", _as_input(layer, x) if post else layer.ffn_norm(x))
        out = layer.ffn(h, ctx, slot.ffn, taps)
        x = x + taps("ffn_out", layer.ffn_post_norm(out) if sandwich else out)
        x = layer.ffn_norm(x) if post else x
    return x


def _as_input(layer: Layer, x: Tensor) -> Tensor:
    """What a post-norm mixer reads: the stream itself, as a tensor with a gradient of its own."""
    dtype = layer.attn_norm.weight.dtype
    return x.view_as(x) if x.dtype == dtype else x.to(dtype)


def _parallel(
    layer: Layer, x: Tensor, ctx: Context, slot: StepSlot, taps: Taps, part: Part
) -> Tensor:
    """Both mixers read the same x: x += attn(norm_a(x)) + ffn(norm_f(x))."""
    out = x
    if part != "ffn":
        h = taps("attn_in", layer.attn_norm(x))
        out = out + taps("attn_out", layer.attn(h, ctx, slot.attn, taps))
    if part != "attn":
        h = taps("ffn_in", layer.ffn_norm(x))
        out = out + taps("ffn_out", layer.ffn(h, ctx, slot.ffn, taps))
    return out


def run_layer(
    layer: Layer, x: Tensor, ctx: Context, slot: StepSlot | None, taps: Taps, part: Part
) -> Tensor:
    """`layer(...)` as a function: the unit that is compiled, once for each tap signature."""
    return layer(x, ctx, slot, taps, part)


class CompiledRunLayer:
    """`run_layer` compiled. One token a row goes to the fused kernels first, which are faster than
    what a compiler makes of the layer.

    torch keeps a limited number of compiled forms of one function, those of all stacks together; a
    signature that comes when it is reached runs as it is, with a warning.
    """

    def __init__(self, backend: str | Callable) -> None:
        known = inspect.signature(torch.compile).parameters
        more: Any = {"recompile_limit": MOST_FORMS} if "recompile_limit" in known else {}
        self._compiled = torch.compile(run_layer, fullgraph=True, backend=backend, **more)
        self._refused: set[tuple[Signature, Part]] = set()

    def __call__(
        self, layer: Layer, x: Tensor, ctx: Context, slot: StepSlot | None, taps: Taps, part: Part
    ) -> Tensor:
        if is_hooked(layer) or has_hooked_mixer(layer):  # what is compiled knows no later hooks
            return run_layer(layer, x, ctx, slot, taps, part)
        out = layer.by_row_kernels(x, ctx, slot, taps, part)
        if out is not None:
            return out
        asked = (taps.signature, part)
        if asked not in self._refused:
            try:
                made: Tensor = self._compiled(layer, x, ctx, slot, taps, part)
            except Exception as error:
                if not _is_limit(error):
                    raise
                self._refused.add(asked)
                warnings.warn(
                    "torch keeps no more compiled forms of a layer (torch._dynamo.config."
                    f"recompile_limit), so one with taps at {sorted(taps.names)} runs uncompiled",
                    stacklevel=2,
                )
            else:
                return made
        return run_layer(layer, x, ctx, slot, taps, part)


def _is_limit(error: Exception) -> bool:
    """Whether torch refused to compile once more; then nothing of the layer has run."""
    from torch._dynamo.exc import FailOnRecompileLimitHit  # takes long, and compiling has it

    return isinstance(error, FailOnRecompileLimitHit)


def passes_rows(run: Callable[..., Tensor]) -> bool:
    """Whether a stack's `run_layer` is one of those above, which give one token of a row to fused
    kernels, and not somebody's own."""
    return run is run_layer or isinstance(run, CompiledRunLayer)
