"""Other people's hooks. What computes a module's answer without calling the module asks here first,
and steps aside for the usual path, which calls them. A captured step cannot: `generate` captures
none where there are hooks, and a `DecodeGraph` refuses to go on.

Products and norms are plain functions (`Linear`, `Norm`), so a fused layer hides the calls of its
two mixers only.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle


def is_hooked(module: nn.Module) -> bool:
    """Whether somebody waits for this module to be called."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def has_hooked_mixer(layer: nn.Module) -> bool:
    """Whether somebody waits for a mixer of this layer to be called. Asked at every token: entries
    of tables, for an attribute of a module takes several times as long."""
    parts: dict[str, Any] = layer._modules
    return is_hooked(parts["attn"]) or is_hooked(parts["ffn"])


def hooked_modules(model: nn.Module) -> list[str]:
    """The names of the modules for whose calls somebody waits."""
    return [name for name, module in model.named_modules() if is_hooked(module)]


def hooks_so_far() -> int:
    """How many hooks were put on anything in this process. Modules need be asked again only where
    it has changed."""
    return RemovableHandle.next_id
