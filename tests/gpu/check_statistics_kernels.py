"""Gathers statistics with the one-read kernels on a GPU, and compares with the plain code.

    python tests/gpu/check_statistics_kernels.py [--device cuda] [--kernels]

Every bf16 and fp16 pattern; fp32, bf16 and fp16 over several batches with pads, NaN, infinity,
zeros, equals, odd widths and more tokens than a span; batches that grow, where blocks hold more
large values than are kept; a small Llama measured with graphs and without (not with --kernels).
Counts, extrema, histograms and largest values must be equal, moments to 1e-9. Prints a line a
check and exits with 1 if one failed. On a CPU, where no kernel runs, it only says so.
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


def kinds(threshold: float = 2.3) -> list:
    return [Moments(), LogHistogram(), TopK(17), Exceedances(threshold, 5)]


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
    batches: list[tuple[Tensor, list[int], list[int]]],
    device: torch.device,
    near: bool = True,
    threshold: float = 2.3,
) -> list[str]:
    """Compare over batches (x, lengths, documents)."""
    rows = max(x.shape[0] for x, _, _ in batches)
    plain, found = Measurement(kinds(threshold)), Measurement(kinds(threshold))
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


def growing(dtype: torch.dtype, rows: int, tokens: int, channels: int) -> list:
    """Batches in which ever more values are among the largest, equal ones too: of one block more
    than are kept, then of every block, then of none, then a few; the last documents come first."""
    torch.manual_seed(rows)
    out = []
    for batch, scale in enumerate((1, 1, 20, 1, 20)):
        x = (torch.randn(rows, tokens, channels) * scale).to(dtype)
        x[:, :, channels // 2] = 0
        if batch == 1:
            x[-1, tokens // 3 :, : channels // 3] = 7.5
            x[0, :4, 1] = -7.5
        if batch == 4:
            x[0, ::5, 2] = 150
            x[-1, 2, 3:] = 151
        lengths = [max(1, tokens - 11 * row) for row in range(rows)]
        out.append((x, lengths, [(4 - batch) * rows + row for row in reversed(range(rows))]))
    return out


def outlying(dtype: torch.dtype) -> list:
    """Sizes of every octave, some beyond the histogram and some of them alone in their block."""
    torch.manual_seed(2)
    x = torch.randn(2, 90, 260)
    x[0] *= torch.exp2(torch.randint(-45, 45, (90, 260)).float())
    x[1, 7, 9], x[1, 8, 200], x[1, 80, 10] = 1e-11, 3e5, 1e-30
    return [(x.to(dtype), [90, 90], [0, 1])]


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
    # Compiled layers change their kernels where a size changes: then bits differ, and counts.
    count = 28 if fast else 26
    ids = torch.randint(0, 512, (count, 96))
    if fast:
        view.fast()
    one = view.measure(ids, kinds(), ("ffn_out", "resid_post"), batch_size=4, progress=False)
    if "plain_statistics" in one.manifest:
        return [str(one.manifest["plain_statistics"])]
    plain = Measurement(kinds())
    for start in range(0, count, 4):  # the same shapes, so the same tensors to the last bit
        gram = view.record(ids[start : start + 4], sites=["ffn_out", "resid_post"])
        documents = torch.arange(start, min(start + 4, count))
        for site in ("ffn_out", "resid_post"):
            for step in range(4):
                plain.observe(site, step, torch.tensor(gram[site, step]), None, documents)
    return differences(one, plain)


def main() -> int:
    """Run every check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--kernels", action="store_true", help="no model")
    options = parser.parse_args()
    device = torch.device(options.device)
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
        for shape in ((8, 300, 256), (2, 40, 132)):
            name = f"growing {dtype} {shape}"
            checks[name] = lambda d=dtype, s=shape: gathered(growing(d, *s), device)
        checks[f"outlying {dtype}"] = lambda d=dtype: gathered(outlying(d), device, False)
        for threshold in (0.0, 1e300):
            name = f"{dtype}, threshold {threshold}"
            checks[name] = lambda d=dtype, t=threshold: gathered(
                growing(d, 3, 30, 36), device, threshold=t
            )
    if not options.kernels:
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
