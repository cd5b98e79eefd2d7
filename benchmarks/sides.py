"""The sides: this package and its peers behind one face, each used in its fastest plain way.

A side loads a checkpoint directory and answers `forward(ids)` (all logits), `last(ids)` (logits of
the last token), `decode(prompt, count)` (greedy, token by token, with its cache).
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

PEERS = {"llama": ("transformers",), "rwkv4": ("rwkv", "transformers")}


class Side(Protocol):
    """One implementation with one model loaded."""

    def forward(self, ids: Tensor) -> Tensor:
        """All logits of rows of ids (B, T): (B, T, V)."""
        ...

    def last(self, ids: Tensor) -> Tensor:
        """The last token's logits of one row (1, T), with what decoding needs kept: (V,)."""
        ...

    def decode(self, prompt: Tensor, count: int) -> list[int]:
        """`count` greedy tokens after a prompt (1, T)."""
        ...


class Laminogram:
    """This package."""

    def __init__(self, folder: Path, dtype: torch.dtype, device: str) -> None:
        from laminogram.checkpoint.load import open_model

        self._hold(open_model(folder, dtype=dtype, device=device).stack)

    @classmethod
    def of(cls, stack: Any) -> Laminogram:
        """The same around a stack that exists."""
        side = cls.__new__(cls)
        side._hold(stack)
        return side

    def _hold(self, stack: Any) -> None:
        from laminogram.probe.subject import Subject

        self.stack = stack.eval()
        self.plan = self.stack.full_plan()
        self.view = Subject(self.stack, None, "benchmark", self.plan)

    def run(self, ids: Tensor, **how: object) -> Tensor:
        from laminogram.stack.batch import Batch
        from laminogram.stack.forward import run as forward

        rows, width = ids.shape
        batch = Batch(ids, (width,) * rows, (0,) * rows, width)
        return forward(self.stack, batch, self.plan, **how)

    def forward(self, ids: Tensor) -> Tensor:
        return self.run(ids)

    def last(self, ids: Tensor) -> Tensor:
        cache = self.stack.new_cache(1, self.plan, "benchmark", capacity=ids.shape[1])
        return self.run(ids, cache=cache, logits="last")[0, 0]

    def decode(self, prompt: Tensor, count: int) -> list[int]:
        from laminogram.infer.sampling import largest

        cache = self.stack.new_cache(1, self.plan, "benchmark", capacity=prompt.shape[1] + count)
        found, ids = [], prompt
        for _ in range(count):
            ids = largest(self.run(ids, cache=cache, logits="last")[:, -1])[:, None]
            found.append(ids)
        return torch.cat(found, 1)[0].tolist()


class Transformers:
    """Hugging Face transformers, scaled_dot_product_attention, a loop without `generate`."""

    def __init__(self, folder: Path, dtype: torch.dtype, device: str) -> None:
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        kind = transformers.AutoConfig.from_pretrained(folder).model_type
        attention = {"attn_implementation": "sdpa"} if kind == "llama" else {}
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **attention)
        self.model = model.to(device).eval()
        self.recurrent = kind == "rwkv"

    def forward(self, ids: Tensor) -> Tensor:
        return self.model(ids, use_cache=False).logits

    def last(self, ids: Tensor) -> Tensor:
        if self.recurrent:  # its forward knows no shorter way
            return self.model(ids, use_cache=True).logits[0, -1]
        return self.model(ids, use_cache=True, logits_to_keep=1).logits[0, -1]

    def generate(self, prompt: Tensor, count: int) -> list[int]:
        """The same tokens by its own `generate`."""
        how = {"min_new_tokens": count, "max_new_tokens": count, "do_sample": False}
        return self.model.generate(prompt, **how)[0, prompt.shape[1] :].tolist()

    def decode(self, prompt: Tensor, count: int) -> list[int]:
        found, ids, memory = [], prompt, None
        for _ in range(count):
            if self.recurrent:
                out = self.model(ids, use_cache=True, state=memory)
                memory = out.state
            else:
                out = self.model(ids, use_cache=True, past_key_values=memory, logits_to_keep=1)
                memory = out.past_key_values
            ids = out.logits[:, -1].argmax(-1, keepdim=True)
            found.append(ids)
        return torch.cat(found, 1)[0].tolist()


class Rwkv:
    """The `rwkv` package, its scripted path, no compiled CUDA kernel."""

    def __init__(self, path: Path, dtype: torch.dtype, device: str, version: int = 4) -> None:
        """path: a checkpoint directory, or a `.pth` file."""
        os.environ.setdefault("RWKV_JIT_ON", "1")
        os.environ.setdefault("RWKV_CUDA_ON", "0")
        os.environ["RWKV_V7_ON"] = str(int(version == 7))  # asked when it is imported
        for name in [name for name in sys.modules if name.split(".")[0] == "rwkv"]:
            del sys.modules[name]
        word = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]
        file = path / "blink.pth" if path.is_dir() else path
        with contextlib.redirect_stdout(io.StringIO()):
            from rwkv.model import RWKV

            name = str(file.with_suffix("")) if version == 7 else str(file)
            self.model = RWKV(model=name, strategy=f"{device} {word}")

    def forward(self, ids: Tensor) -> Tensor:
        rows = [self.model.forward(row, None, full_output=True)[0] for row in ids.tolist()]
        return torch.stack(rows)

    def last(self, ids: Tensor) -> Tensor:
        return self.model.forward(ids[0].tolist(), None)[0]

    def decode(self, prompt: Tensor, count: int) -> list[int]:
        logits, state = self.model.forward(prompt[0].tolist(), None)
        found = [int(logits.argmax())]
        while len(found) < count:
            logits, state = self.model.forward(found[-1:], state)
            found.append(int(logits.argmax()))
        return found


SIDES: dict[str, Callable[[Path, torch.dtype, str], Side]] = {
    "laminogram": Laminogram,
    "transformers": Transformers,
    "rwkv": Rwkv,
}
