"""Keeping what every layer adds and leaves: this package's taps against hand-written hooks.

Three tensors a layer, by reference and on the model's device: attn_out, ffn_out, resid_post.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

SITES = ("attn_out", "ffn_out", "resid_post")
Captured = dict[tuple[str, int], Tensor]


class Keep:
    """An observer that keeps references."""

    def __init__(self) -> None:
        self.kept: Captured = {}

    def taps(self, step: int) -> Any:
        from laminogram.stack.sites import STACK_STEP
        from laminogram.stack.taps import NO_TAPS, Taps

        return NO_TAPS if step == STACK_STEP else Taps(SITES)

    def begin(self, run: object) -> None:
        """Nothing depends on the rows."""

    def take(self, site: str, step: int, x: Tensor) -> None:
        self.kept[site, step] = x


def capture_by_taps(side: Any, ids: Tensor) -> Captured:
    """The three sites of every layer from this package."""
    keep = Keep()
    side.run(ids, observer=keep)
    return keep.kept


def capture_by_hooks(side: Any, ids: Tensor) -> Captured:
    """The same from transformers, with forward hooks."""
    kept: Captured = {}

    def hook(site: str, layer: int) -> Any:
        def keep(module: object, inputs: object, output: Any) -> None:
            kept[site, layer] = output[0] if isinstance(output, tuple) else output

        return keep

    handles = []
    for i, layer in enumerate(side.model.model.layers):
        modules = (layer.self_attn, layer.mlp, layer)
        handles += [
            module.register_forward_hook(hook(site, i))
            for site, module in zip(SITES, modules, strict=True)
        ]
    try:
        side.forward(ids)
    finally:
        for handle in handles:
            handle.remove()
    return kept
