"""Decodes 64 tokens by the fused kernels, captured and not, and by the usual path, and compares.

    python tests/gpu/check_decode_kernels.py [--tokens 64] [--kinds llama] [--rows 1 2]
    python tests/gpu/check_decode_kernels.py --kinds rwkv4 rwkv7 --skip-zeros

For a Llama, an RWKV-4 and an RWKV-7 with random weights of odd sizes, in fp32, fp16 and bf16, for
1, 2, 5 and 64 rows of different lengths: logits, the sites that the kernels show, and memories.
--skip-zeros leaves out rows of zeros after the squared ReLU. Prints a line a check and exits with 1
if one failed. Needs a GPU and Triton.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

import torch
from tests.gpu.check_decode_graph import Checks, layer_of
from torch import Tensor

from laminogram.infer.decode_graph import DecodeGraph, StaticReads
from laminogram.stack import config as c
from laminogram.stack.cache import grows
from laminogram.stack.stack import Stack
from laminogram.view import View

LAYERS, VOCABULARY, CAPACITY = 3, 1000, 320
SHOWN = ("resid_pre", "attn_out", "resid_mid", "ffn_out", "resid_post")
HIDDEN = "ffn_act"
TOLERANCE = {torch.float32: 2e-4, torch.float16: 1e-2, torch.bfloat16: 6e-2}
SIZES = {"llama": 384, "rwkv4": 328, "rwkv7": 320}


def view_of(kind: str, dtype: torch.dtype) -> View:
    """A random model on the GPU."""
    norm = c.NormConfig(kind="rms" if kind == "llama" else "layer", bias=kind != "llama")
    size = SIZES[kind]
    config = c.StackConfig(
        family=kind,
        hidden_size=size,
        vocab_size=VOCABULARY,
        layers=tuple(layer_of(kind, size, i == 0) for i in range(LAYERS)),
        embedding=c.EmbeddingConfig(norm=None if kind == "llama" else norm),
        final_norm=norm,
    )
    stack = Stack(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in stack.named_parameters():
            if ".mix_" in name:
                parameter.uniform_(0, 1, generator=generator)
            elif parameter.dim() > 1:
                parameter.normal_(0, parameter.shape[-1] ** -0.5, generator=generator)
            else:
                mean = float("norm" in name and name.endswith("weight"))
                parameter.normal_(mean, 0.3, generator=generator)
    stack = stack.to("cuda", dtype).requires_grad_(False)
    return View(stack, None, kind, stack.full_plan())


@dataclass
class Decoded:
    """Logits of every step, the sites of the last one, and the memory after it."""

    logits: Tensor
    sites: dict[tuple[str, int], Tensor]
    memory: dict[str, Tensor]


@torch.no_grad()
def decoded(view: View, tokens: Tensor, capture: bool, hidden: bool, shown: bool) -> Decoded:
    """`tokens (B, T)` after prompts of different lengths; a hidden site asks for the usual path."""
    sites = (SHOWN if shown else ()) + ((HIDDEN,) if hidden else ())
    reads = StaticReads()
    observer = (
        view.program(reads=dict.fromkeys(range(LAYERS), sites), sink=reads) if sites else None
    )
    rows = tokens.shape[0]
    graph = DecodeGraph(view, rows, CAPACITY, observer, capture=capture)
    prompts = [[(3 * i + j) % VOCABULARY for j in range(1 + 17 * i % 90)] for i in range(rows)]
    logits = [graph.start(prompts)] + [graph.step(column) for column in tokens.T]
    found = {
        (site, step): reads[site, step].clone()
        for site in (SHOWN if shown else ())
        for step in range(LAYERS)
    }
    memory = {}
    for name, x in graph.cache.tensors().items():
        memory[name] = x[:, :, : min(graph.lengths)].clone() if grows(name) else x.clone()
    return Decoded(torch.stack(logits), found, memory)


def error(found: Tensor, wanted: Tensor) -> float:
    """max|a - b| / max|b|."""
    return float((found.double() - wanted.double()).abs().max() / wanted.double().abs().max())


def check(
    kind: str, dtype: torch.dtype, rows: int, count: int, checks: Checks, *, skip: bool
) -> None:
    """The fused paths against the usual one."""
    view, limit = view_of(kind, dtype), TOLERANCE[dtype]
    if skip:
        view.stack.skip_zero_rows()
    generator = torch.Generator().manual_seed(rows)
    tokens = torch.randint(0, VOCABULARY, (rows, count), generator=generator).cuda()
    usual = decoded(view, tokens, capture=False, hidden=True, shown=True)
    for name, capture, shown in (
        ("captured", True, False),
        ("captured, sites read", True, True),
        ("not captured", False, True),
    ):
        fused = decoded(view, tokens, capture, hidden=False, shown=shown)
        checks.below(f"logits, {name}", error(fused.logits, usual.logits), limit)
        kept = [error(x, usual.memory[key]) for key, x in fused.memory.items()]
        checks.below(f"memory, {name}", max(kept), limit)
        for site in SHOWN if shown else ():
            apart = [error(fused.sites[site, i], usual.sites[site, i]) for i in range(LAYERS)]
            checks.below(f"{site}, {name}", max(apart), limit)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--kinds", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 2, 5, 64])
    parser.add_argument("--skip-zeros", action="store_true")
    given = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    checks = Checks()
    for kind in given.kinds:
        for dtype in TOLERANCE:
            for rows in given.rows:
                checks.model = f"{kind} {str(dtype).removeprefix('torch.')} {rows}"
                check(kind, dtype, rows, given.tokens, checks, skip=given.skip_zeros)
    print("all passed" if not checks.failed else f"{checks.failed} checks FAILED")
    return 1 if checks.failed else 0


if __name__ == "__main__":
    sys.exit(main())
