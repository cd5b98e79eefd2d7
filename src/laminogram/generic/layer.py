"""One layer of a model of `transformers` in the place of a layer of the house.

It is called with what its own model would give it, and hooks hand over what its two halves add to
the residual. Only hooks set here are removed, as soon as the call ends.

Axes: B rows, T tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from laminogram.errors import CacheError
from laminogram.generic.anatomy import Anatomy, Sublayer, first, with_first
from laminogram.plans import Part
from laminogram.stack.cache import AttentionSlot, StepSlot
from laminogram.stack.config import WrappedLayerConfig
from laminogram.stack.context import Context
from laminogram.stack.taps import Taps

if TYPE_CHECKING:
    from laminogram.generic.frame import Frames

Shapes = tuple[tuple[int, int], tuple[int, int]]
"""Heads and sizes (K, D) of the keys and of the values that a layer remembers."""


@dataclass(frozen=True)
class Found:
    """What was found of a layer: its sublayers, and what it remembers (`refusal`: why nothing)."""

    anatomy: Anatomy
    memory: Shapes | None = None
    refusal: str = ""


class WrappedLayer(nn.Module):
    """`x (B, T, C) -> x (B, T, C)` through a layer of `transformers`; `part` runs one half.

    Its modules are registered under `attn`, `ffn` and `norms`, so that weights have a part.
    """

    def __init__(
        self,
        config: WrappedLayerConfig,
        module: nn.Module,
        found: Found,
        frames: Frames,
        index: int,
    ) -> None:
        super().__init__()
        self.config, self.found = config, found
        # Not registered: every weight shall have one name, that of its part.
        self.__dict__["module"] = module
        self._frames, self._index = frames, index
        self.attn, self.ffn, self.norms = _parts(module, found.anatomy)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def attn_norm(self) -> nn.Module:
        """The norm over the first half of a post-norm layer."""
        return self._at(cast(str, self.found.anatomy.attn_norm))

    @property
    def ffn_norm(self) -> nn.Module:
        """The norm over the second half of a post-norm layer."""
        return self._at(cast(str, self.found.anatomy.ffn_norm))

    def new_slot(self, batch: int, capacity: int, part: Part) -> StepSlot:
        """Memory for one step of this layer; empty where it has none to give."""
        if self.found.memory is None or part == "ffn":
            return StepSlot()
        dtype = next(self.parameters()).dtype
        k, v = (
            torch.zeros(batch, heads, capacity, size, device=self.device, dtype=dtype)
            for heads, size in self.found.memory
        )
        return StepSlot(AttentionSlot(k, v))

    def forward(
        self, x: Tensor, ctx: Context, slot: StepSlot | None, taps: Taps, part: Part = "both"
    ) -> Tensor:
        """The residual `x (B, T, C)` after the wrapped layer or one half of it, its own code called
        under hooks where taps name something inside; the slot, where there is one, moves on.

        Raises CacheError for a slot where the layer's memory was not found.
        """
        if slot is not None and self.found.memory is None:
            raise CacheError(f"{self.found.refusal}: run it without a cache (use_cache=False)")
        if slot is not None and part == "ffn":  # the first half runs, unheard: it wants its columns
            slot = self.new_slot(x.shape[0], ctx.columns, "both")
        call = self._frames.at(ctx).call(self._index, ctx, None if slot is None else slot.attn)
        x = taps.entering(x)
        with ExitStack() as handles:
            for path, hook in self._hooks(x, taps, part):
                handles.callback(self._at(path).register_forward_hook(hook).remove)
            out = first(call(cast(nn.Module, self.module), x))
        return taps("resid_post", out)

    def _hooks(self, x: Tensor, taps: Taps, part: Part) -> list[tuple[str, Callable[..., Any]]]:
        """The hooks that this call needs: none where nothing inside is named."""
        found, hooks = self.found.anatomy, []
        between = taps.wants("resid_mid")
        pre = found.block == "pre" and found.ffn is not None
        if found.attn is not None and (
            part == "ffn" or taps.wants("attn_out") or (between and pre)
        ):
            silent, mid = part == "ffn", between and pre
            hook = _hook("attn_out", found.attn, taps, x, silent=silent, mid=mid)
            hooks.append((found.attn.path, hook))
        if found.attn_norm is not None and between:
            norm = Sublayer(found.attn_norm)
            hooks.append((norm.path, _hook("resid_mid", norm, taps, x)))
        if found.ffn is not None and (part == "attn" or taps.wants("ffn_out")):
            silent = part == "attn"
            hooks.append((found.ffn.path, _hook("ffn_out", found.ffn, taps, x, silent=silent)))
        return hooks

    def _at(self, path: str) -> nn.Module:
        return cast(nn.Module, self.module).get_submodule(path)


def _hook(
    site: str,
    part: Sublayer,
    taps: Taps,
    x: Tensor,
    *,
    silent: bool = False,
    mid: bool = False,
) -> Callable[..., Any]:
    """A hook that hands a module's answer, as it is added to the residual, to the taps.

    x (B, T, C): what enters the layer. silent: add nothing instead. mid: x + answer is `resid_mid`.
    """

    def read_and_edit(module: nn.Module, args: Any, output: Any) -> Any:
        """What torch calls after the module; what it returns stands for the module's output."""
        if silent:
            return with_first(output, torch.zeros_like(x))
        answer = first(output).view(x.shape)
        said = answer if part.scale == 1 else answer * part.scale
        edited = taps(site, said)
        if mid:
            between = x + edited
            wanted = taps("resid_mid", between)
            if wanted is not between:  # the stream passes by: what it lacks is added here
                edited = torch.where(wanted == between, edited, wanted - x)
        if part.scale == 1:
            answer = edited
        elif edited is not said:
            answer = torch.where(edited == said, answer, edited / part.scale)
        # A layer may go on in place in what it is given back; what was read must stay.
        return with_first(output, answer.clone())

    return read_and_edit


def _parts(module: nn.Module, found: Anatomy) -> tuple[nn.ModuleDict, nn.ModuleDict, nn.ModuleDict]:
    """The children of a layer by part: norms are those with vectors alone, and the token mixer is
    what its answer was found in."""
    parts = attn, ffn, norms = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
    for name, child in module.named_children():
        weights = list(child.parameters())
        if all(weight.dim() < 2 for weight in weights):
            norms[name] = child
        else:
            (attn if name == found.mixer else ffn)[name] = child
    for name, weight in module.named_parameters(recurse=False):
        norms.register_parameter(name, weight)
    return parts
