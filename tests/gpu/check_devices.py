"""Runs models on a second GPU, and with their layers over both, and compares with the first.

    python tests/gpu/check_devices.py [--tokens 24] [--models rwkv7]

For a Llama, an RWKV-4 and an RWKV-7 with random weights: logits, sites of every layer, statistics
and gradients in fp32 and bf16; in fp32 texts of one and of three rows, generated uncaptured and
captured. The current device is the first throughout, as it is where nobody sets it. Prints a line a
check and exits with 1 if one failed. Needs two GPUs and Triton.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Iterator

import torch
from tests.gpu.check_decode_graph import Checks
from tests.gpu.check_decode_kernels import LAYERS, SIZES, TOLERANCE, VOCABULARY, error, view_of
from torch import Tensor

from laminogram.infer.generate import generate
from laminogram.probe.measuring import measure
from laminogram.train.loop import row_losses
from laminogram.view import View

FIRST, SECOND = torch.device("cuda", 0), torch.device("cuda", 1)
SITES = ("attn_out", "ffn_out", "resid_post")
PLACES = {"second": [SECOND] * LAYERS, "spread": [FIRST, SECOND, FIRST]}
DTYPES = (torch.float32, torch.bfloat16)


def placed(view: View, devices: list[torch.device]) -> View:
    """A copy of a view with its layers on those devices, its ends beside the first and last."""
    stack = copy.deepcopy(view.stack)
    stack.place(devices)
    return View(stack, None, view.name, stack.full_plan())


def results(view: View, texts: list[list[int]], count: int) -> Iterator[tuple[str, Tensor]]:
    """Everything that is compared, by name, on the CPU."""
    gram = view.record(texts, sites=SITES)
    yield "logits", view.logits(texts)
    for site in SITES:
        yield site, torch.tensor([gram[site, layer].tolist() for layer in range(LAYERS)])
    found = measure(view, texts, "moments", SITES, progress=False)
    yield "statistics", torch.cat([torch.tensor(x.result()["absmax"]) for x in found.values()])
    with torch.enable_grad():
        for parameter in view.stack.parameters():
            parameter.requires_grad_(True)
        ids = torch.tensor(texts, device=view.device)
        row_losses(view.stack, ids).mean().backward()
        yield "gradients", torch.cat([p.grad.flatten().cpu() for p in view.stack.parameters()])
        for parameter in view.stack.parameters():
            parameter.requires_grad_(False).grad = None
    if view.stack.dtype != torch.float32:
        return  # nearly equal logits may give another token
    for rows in (1, 3):
        for new in (count, 2 * count):  # the shorter ones are not captured
            done = generate(view, texts[:rows], max_new_tokens=new, stop_at_eos=False)
            yield f"{new} tokens of {rows}", torch.tensor([one.tokens for one in done])


def check(kind: str, dtype: torch.dtype, count: int, checks: Checks) -> None:
    view = view_of(kind, dtype)
    texts = [[(7 * i + j) % VOCABULARY for j in range(40)] for i in range(3)]
    wanted = dict(results(placed(view, [FIRST] * LAYERS), texts, count))
    for name, devices in PLACES.items():
        checks.model = f"{kind} {str(dtype).removeprefix('torch.')} {name}"
        for what, found in results(placed(view, devices), texts, count):
            limit = 0.0 if "tokens" in what else TOLERANCE[dtype]
            checks.below(what, error(found.cpu(), wanted[what].cpu()), limit)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--models", nargs="+", choices=list(SIZES), default=list(SIZES))
    given = parser.parse_args()
    if torch.cuda.device_count() < 2:
        print("two GPUs are needed", file=sys.stderr)
        return 2
    checks = Checks()
    for kind in given.models:
        for dtype in DTYPES:
            check(kind, dtype, given.tokens, checks)
    print("all passed" if not checks.failed else f"{checks.failed} checks FAILED")
    return 1 if checks.failed else 0


if __name__ == "__main__":
    sys.exit(main())
