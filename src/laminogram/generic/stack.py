"""A model of `transformers` as a stack: the same forward walks its layers, taps its sites and keeps
its caches.

Axes: B rows, T tokens, C channels, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, cast

import torch
from torch import Tensor, nn

from laminogram.errors import ConfigError, FamilyError, TokenError
from laminogram.generic.frame import Frames
from laminogram.generic.layer import Found, WrappedLayer
from laminogram.generic.spine import Log, Spine
from laminogram.stack.config import StackConfig, WrappedLayerConfig
from laminogram.stack.context import Rotary, mask_keys
from laminogram.stack.kernels.shortened import Reader
from laminogram.stack.layer import run_layer
from laminogram.stack.stack import Stack
from laminogram.stack.together import Together


class WrappedStack(Stack):
    """A stack whose layers, norms and head are computed by a model of `transformers`.

    longest: tokens a row beyond which the model has no positions, or other rotary frequencies.
    """

    def __init__(
        self, config: StackConfig, spine: Spine, found: Sequence[Found], longest: int | None
    ) -> None:
        nn.Module.__init__(self)
        self.config, self.spine = config, spine
        self.rotary, self.mask_keys = Rotary(config), mask_keys(config)
        cached = any(one.memory is not None for one in found)
        frames = Frames(spine, causal=config.causal, cached=cached)
        before, norms, after = _sorted_around(spine)
        self.embed = cast(Any, WrappedEmbedding(frames, longest, before))
        self.layers = nn.ModuleList(
            WrappedLayer(cast(WrappedLayerConfig, layer), module, one, frames, index)
            for index, (layer, module, one) in enumerate(
                zip(config.layers, spine.layers, found, strict=True)
            )
        )
        self.final_norm = cast(Any, _Around(spine.final, norms))
        self.head = cast(Any, _Around(spine.head, after))
        self.run_layer: Callable[..., Tensor] = run_layer
        self.together = Together(self)

    @property
    def dtype(self) -> torch.dtype:
        return self.spine.model.dtype

    @property
    def residual_dtype(self) -> torch.dtype:
        """The weights' own: the layers take no other."""
        return self.dtype

    @property
    def device(self) -> torch.device:
        return self.spine.model.device

    @property
    def head_device(self) -> torch.device:
        return self.device

    @property
    def tied_table(self) -> Tensor:
        return self.spine.table.weight

    def place(self, devices: Sequence[torch.device | str]) -> Stack:
        """ConfigError for more than one device."""
        if len(devices) != 1:
            raise ConfigError(f"{self.config.family} is run by transformers on one device")
        return cast(Stack, self.to(devices[0]))

    def compile_layers(self, backend: str | Callable = "inductor") -> Stack:
        """FamilyError: hooks and foreign layers make no one graph."""
        raise FamilyError(f"{self.config.family} is run by transformers: its layers do not compile")

    def converted(self, dtype: torch.dtype) -> WrappedStack:
        """A copy with its parameters in another precision; what else it holds stays as it is."""
        memo: dict[int, Any] = {
            id(one): nn.Parameter(one.detach().to(dtype), one.requires_grad)
            for one in self.spine.model.parameters()
        }
        other = copy.deepcopy(self, memo)
        other.spine.model.config.dtype = dtype
        return other

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Stack:
        self.spine.model._apply(fn, recurse)  # the same modules, and those without a weight
        return self


class WrappedEmbedding(nn.Module):
    """Tokens (B, T) to what enters the first layer, (B, T, C)."""

    def __init__(self, frames: Frames, longest: int | None, modules: dict[str, nn.Module]) -> None:
        super().__init__()
        self.frames, self.longest = frames, longest
        _register(self, modules)

    def forward(self, tokens: Tensor, positions: Tensor, types: Tensor | None) -> Tensor:
        return self.frames.embed(tokens, positions, types)

    def check_length(self, length: int) -> None:
        """TokenError for more tokens than the model has positions for."""
        if self.longest is not None and length > self.longest:
            raise TokenError(
                f"{length} tokens in a row: run by transformers, this model keeps its positions up "
                f"to {self.longest} tokens; beyond, it has none or turns earlier ones anew"
            )


class _Around(nn.Module):
    """A part of the model that is not a layer, under the name of the house."""

    def __init__(self, compute: Callable[[Tensor], Tensor], modules: dict[str, nn.Module]) -> None:
        super().__init__()
        self._compute = compute
        _register(self, modules)

    def forward(
        self, x: Tensor, tied: Tensor | None = None, reader: Reader | None = None
    ) -> Tensor:
        """`tied` and `reader` are what a head of the house may multiply with and how; this one
        knows its own."""
        return self._compute(x)


def _register(owner: nn.Module, modules: dict[str, nn.Module]) -> None:
    for path, module in modules.items():
        name = path.split(".")[-1]
        owner.add_module(path.replace(".", "_") if name in owner._modules else name, module)


def _sorted_around(spine: Spine) -> tuple[dict[str, nn.Module], ...]:
    """The modules beside the layers: those that run before them, norms after them, and the rest.

    What is never run, or has no weight, counts as before.
    """
    log, late = Log(), set()
    with ExitStack() as handles:
        for path, module in spine.around.items():

            def note(*_: Any, path: str = path) -> None:
                if log.entered:
                    late.add(path)

            handles.callback(module.register_forward_pre_hook(note).remove)
        ids = torch.zeros(1, 1, dtype=torch.long, device=spine.model.device)
        spine.head(spine.front(log, input_ids=ids, use_cache=False))
    before: dict[str, nn.Module] = {}
    norms: dict[str, nn.Module] = {}
    after: dict[str, nn.Module] = {}
    for path, module in spine.around.items():
        weights = list(module.parameters())
        if path not in late or not weights:
            before[path] = module
        elif "." in path and all(weight.dim() < 2 for weight in weights):
            norms[path] = module
        else:
            after[path] = module
    return before, norms, after
