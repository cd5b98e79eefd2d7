"""What the outlier definitions take beside a 7B model, measured on a GPU: by hand, not by pytest.

    PYTHONPATH=src:. python tests/gpu/check_outlier_memory.py [--documents 100] [--tokens 2048]

A Llama of 32 layers and 4096 channels with random bf16 weights reads documents of random ids. The
statistics stand at attn_out, ffn_out and resid_post of every layer, with intervals by bootstrap.
Peak memory beyond the model must stay below 1 GB in all: what is held, and what a forward needs.
"""

from __future__ import annotations

import argparse
import json
import time

import torch

from laminogram import families, outliers
from laminogram.outliers.needs import memory, needs
from laminogram.stack.stack import Stack
from laminogram.view import View

SITES = ("attn_out", "ffn_out", "resid_post")
DEFINITIONS = ("dispersion", "massive_activations", "six_sigma_channels")
CONFIG = {
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 4096,
}


def main() -> None:
    """Command line: see the top of the file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--documents", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--replicates", type=int, default=32)
    parser.add_argument("--null", choices=["gaussian", "channels", "permutation"])
    parser.add_argument("--definitions", nargs="*", default=list(DEFINITIONS))
    args = parser.parse_args()
    view = _view()
    ids = torch.randint(0, 32000, (args.documents, args.tokens), device="cuda")
    _plain(view, ids[: args.batch])
    model, plain = _peak(lambda: _plain(view, ids[: args.batch]))
    definitions = [outliers.create(name) for name in args.definitions]
    held = memory(view, needs(view, definitions, SITES, None, args.replicates), args.documents)
    begin = time.perf_counter()
    _, peak = _peak(
        lambda: outliers.verdicts(
            view,
            ids,
            definitions,
            SITES,
            null=args.null,
            replicates=args.replicates,
            batch_size=args.batch,
        )
    )
    found = {
        "definitions": args.definitions,
        "model_GB": model / 1e9,
        "forward_GB": plain / 1e9,
        "told_GB": held / 1e9,
        "beyond_model_GB": peak / 1e9,
        "seconds": time.perf_counter() - begin,
        "below_1_GB": peak < 1e9,
    }
    print(json.dumps(found, indent=2), flush=True)


def _view() -> View:
    stack = Stack(families.find(CONFIG).config(CONFIG), device="meta", dtype=torch.bfloat16)
    stack = stack.to_empty(device="cuda")
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.normal_(0, 0.02)
    return View(stack, None, "7b", stack.full_plan())


@torch.no_grad()
def _plain(view: View, ids: torch.Tensor) -> None:
    view.run(view.tokens(ids), logits="none")


def _peak(work: object) -> tuple[int, int]:
    """Bytes before, and the most beyond them while `work` runs."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()  # type: ignore[operator]
    torch.cuda.synchronize()
    return before, torch.cuda.max_memory_allocated() - before


if __name__ == "__main__":
    main()
