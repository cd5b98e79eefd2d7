"""What `recordings` brings from a GPU to the host, batch after batch: by hand, not by pytest.

    PYTHONPATH=src:. python tests/gpu/check_recordings.py

Five batches, the last of another shape, at several sites of a small Llama, fast and as it is. Every
gram is kept while the next batches run, and must still hold what it held when it came; it must
equal, bit for bit, what `record` leaves on the device for the same texts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from laminogram import families
from laminogram.probe.gram import Gram
from laminogram.stack.stack import Stack
from laminogram.view import View

SITES = ("attn_out", "ffn_out", "resid_post", "final", "logits")
CONFIG = {
    "model_type": "llama",
    "vocab_size": 4096,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 8,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 1024,
}
ROWS, TOKENS, BATCH = 36, 256, 8


def main() -> None:
    """Command line: see the top of the file."""
    torch.manual_seed(0)
    ids = torch.randint(0, CONFIG["vocab_size"], (ROWS, TOKENS))
    ragged = [row[: TOKENS - 3 * i] for i, row in enumerate(ids.tolist())]
    view = _view()
    for how in ("as it is", "fast"):
        for name, texts in (("texts of one length", ids), ("of many lengths", ragged)):
            for turn in range(3):  # again, in memory that was used before
                worst = _check(view, texts)
                print(f"{how}, {name}, turn {turn}: largest difference {worst}")
                assert worst == 0
        view.fast()
    print("all equal")


def _check(view: View, texts: Tensor | list[list[int]]) -> float:
    """The largest difference of anything kept from what it should be."""
    kept: list[tuple[Gram, dict[tuple[str, int], Tensor]]] = []
    for gram in view.recordings(texts, SITES, batch_size=BATCH):
        kept.append((gram, {key: gram.tensor(*key).clone() for key in gram}))
    worst = 0.0
    for number, (gram, then) in enumerate(kept):
        alone = view.record(texts[number * BATCH : (number + 1) * BATCH], SITES, to="cuda")
        assert isinstance(alone, Gram)
        assert set(gram) == set(alone)
        for key, x in then.items():
            worst = max(worst, _apart(gram.tensor(*key), x), _apart(x, alone.tensor(*key).cpu()))
    return worst


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a.float() - b.float()).abs().max())


def _view() -> View:
    stack = Stack(families.get("llama").config(CONFIG), device="cuda", dtype=torch.bfloat16)
    stack = stack.eval().requires_grad_(False)
    for weight in stack.parameters():
        if weight.dim() == 2:
            weight.normal_(std=weight.shape[1] ** -0.5)
        else:
            weight.fill_(1.0)
    return View(stack, None, "llama", stack.full_plan())


if __name__ == "__main__":
    main()
