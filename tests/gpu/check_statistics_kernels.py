"""Gathers statistics with the one-read kernels on a GPU, and compares with the plain code.

    python tests/gpu/check_statistics_kernels.py [--device cuda]

Every bf16 and fp16 pattern; fp32, bf16 and fp16 over several batches with pads, NaN, infinity,
zeros, equals, odd widths and more tokens than a span; a small Llama measured with graphs and
without. Counts, extrema, histograms and largest values must be equal, moments to 1e-9. Prints a
line a check and exits with 1 if one failed. On a CPU, where no kernel runs, it only says so.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import torch
from torch import Tensor

from laminogram import families
from laminogram.probe.gathering import Gatherer
from laminogram.probe.kernels import one_read
from laminogram.probe.statistics import Measurement
from laminogram.probe.statistics.exceedances import Exceedances
from laminogram.probe.statistics.histogram import LogHistogram
from laminogram.probe.statistics.moments import Moments
from laminogram.probe.statistics.topk import TopK
from laminogram.stack.stack import Stack
from laminogram.view import View

_TOLERANCE = 1e-9


def kinds() -> list:
    return [Moments(), LogHistogram(), TopK(17), Exceedances(2.3, 5)]


def differences(found: Measurement, plain: Measurement, near: bool = True) -> list[str]:
    """What is not as it should be, by name. near: powers too, which must not be out of range."""
    wrong = [] if set(found) == set(plain) else ["addresses"]
    for key in set(found) & set(plain):
        here = found[key].result()
        for name, value in plain[key].result().items():
            if value.dtype.kind in "iu" or key[0] != "moments":
                same = np.array_equal(here[name], value, equal_nan=value.dtype.kind == "f")
            elif name in ("min", "max", "absmax"):
                same = np.array_equal(here[name], value, equal_nan=True)
            else:
                close = {"rtol": _TOLERANCE, "atol": _TOLERANCE, "equal_nan": True}
                same = not near or np.allclose(here[name], value, **close)
            if not same:
                wrong.append(f"{key} {name}: {_worst(here[name], value)}")
    return wrong


def _worst(a: np.ndarray, b: np.ndarray) -> str:
    if a.shape != b.shape:
        return f"shapes {a.shape} and {b.shape}"
    far = np.abs(a.astype(np.float64) - b.astype(np.float64))
    return f"{int((far > 0).sum())} of {far.size} differ, by up to {np.nanmax(far):.3g}"


def gathered(
    batches: list[tuple[Tensor, list[int], list[int]]], device: torch.device, near: bool = True
) -> list[str]:
    """Compare over batches (x, lengths, documents)."""
    rows = max(x.shape[0] for x, _, _ in batches)
    plain, found = Measurement(kinds()), Measurement(kinds())
    gatherer = Gatherer(found, {0: ["site"]}, rows, device)
    for x, lengths, documents in batches:
        mask = torch.arange(x.shape[1])[None] < torch.tensor(lengths)[:, None]
        plain.observe("site", 0, x.cpu(), mask, torch.tensor(documents))
        gatherer.begin(lengths, documents)
        if not gatherer.take("site", 0, x.to(device)):
            return [f"not read: {gatherer.reasons}"]
        gatherer.end()
    gatherer.finish()
    return differences(found, plain, near)


def spoiled(dtype: torch.dtype, rows: int, tokens: int, channels: int, number: int) -> list:
    """Batches with everything that is not usual."""
    torch.manual_seed(number)
    out = []
    for batch in range(number):
        x = (torch.randn(rows, tokens, channels) * 1.5 + 0.3).to(dtype)
        x[0, :, 1] += 100
        x[-1, 0, 0], x[0, tokens // 2, 2] = float("nan"), -float("inf")
        x[:, ::3, 3] = 0
        x[:, 0, 5], x[0, 0, 6] = 9.5, 1e-13 if dtype != torch.float16 else 1e-7
        lengths = [tokens - 7 * row % tokens for row in range(rows)]
        documents = [batch * rows + (3 * row + 1) % rows for row in range(rows)]
        out.append((x, lengths, documents))
    return out


def patterns(dtype: torch.dtype) -> list:
    """One batch with every bit pattern of a half type."""
    every = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16).view(dtype)
    return [(every.view(1, 128, 512).clone(), [128], [0])]


def measured(device: torch.device, fast: bool) -> list[str]:
    """A Llama of four layers, measured with and without graphs, against the same tensors' plain
    statistics."""
    torch.manual_seed(1)
    config = families.get("llama").config(
        {
            "vocab_size": 512,
            "hidden_size": 256,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "model_type": "llama",
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "hidden_act": "silu",
            "tie_word_embeddings": False,
        }
    )
    stack = Stack(config, device=device, dtype=torch.float32).eval().requires_grad_(False)
    for weight in stack.parameters():
        weight.normal_(std=0.05) if weight.dim() == 2 else weight.fill_(1.0)
    view = View(stack, None, "check", stack.full_plan())
    ids = torch.randint(0, 512, (26, 96))
    if fast:
        view.fast()
    one = view.measure(ids, kinds(), ("ffn_out", "resid_post"), batch_size=4, progress=False)
    if "plain_statistics" in one.manifest:
        return [str(one.manifest["plain_statistics"])]
    plain = Measurement(kinds())
    for start in range(0, 26, 4):  # the same shapes, so the same tensors to the last bit
        gram = view.record(ids[start : start + 4], sites=["ffn_out", "resid_post"])
        documents = torch.arange(start, min(start + 4, 26))
        for site in ("ffn_out", "resid_post"):
            for step in range(4):
                plain.observe(site, step, torch.tensor(gram[site, step]), None, documents)
    return differences(one, plain)


def main() -> int:
    """Run every check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(parser.parse_args().device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    why = one_read.missing(device)
    if why:
        print(why)
        return 1 if device.type == "cuda" else 0
    checks = {f"every pattern of {dtype}": lambda d=dtype: gathered(patterns(d), device, False)
              for dtype in (torch.bfloat16, torch.float16)}  # fmt: skip
    for dtype in one_read.DTYPES:
        for shape in ((3, 70, 36), (8, 600, 256), (1, 5, 8), (5, 33, 1028)):
            name = f"{dtype} {shape}"
            checks[name] = lambda d=dtype, s=shape: gathered(spoiled(d, *s, 3), device)
    checks["Llama"] = lambda: measured(device, False)
    checks["Llama, fast"] = lambda: measured(device, True)
    failed = 0
    for name, check in checks.items():
        with torch.no_grad():
            wrong = check()
        failed += bool(wrong)
        print(f"{'FAILED' if wrong else 'ok':6} {name}" + "".join(f"\n    {w}" for w in wrong[:6]))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
