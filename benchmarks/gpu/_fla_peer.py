"""flash-linear-attention's own RWKV-7 as a peer: the same weights in its layout, with its cache."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

PACKAGE = "fla"


def installed() -> bool:
    return importlib.util.find_spec(PACKAGE) is not None


class Peer:
    """The package's model of a BlinkDL file, and where a text stands."""

    def __init__(self, path: Path, dtype: torch.dtype, device: str) -> None:
        from fla.models import RWKV7ForCausalLM

        from laminogram.convert.write import convert

        folder = path.with_suffix(".fla")
        if not folder.exists():
            convert(path, folder, layout="fla", verify=False)
        # One token at a time; its chunks are for texts, and take a minute to be tuned.
        model: Any = RWKV7ForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_mode="fused_recurrent"
        )
        self.model, self.past = model.to(device).eval(), None

    @torch.no_grad()
    def read(self, ids: Tensor) -> Tensor:
        """Tokens (1, T) after those before: the last one's logits (1, V)."""
        out = self.model(ids, past_key_values=self.past, use_cache=True, logits_to_keep=1)
        self.past = out.past_key_values
        logits: Tensor = out.logits[:, -1]
        return logits

    def begin(self, prompt: list[int]) -> Tensor:
        """`read` a prompt from the start."""
        self.past = None
        return self.read(torch.tensor([prompt], device=self.model.device))
