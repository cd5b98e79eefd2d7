"""Compares the recurrences' Triton kernels with their references in fp64: values and gradients.

    python tests/gpu/check_recurrence_kernels.py

Long and odd lengths, ragged rows, states given and not, the hardest system of RWKV-7, each in fp32,
bf16 and fp16; and a compiled function over several lengths. Prints a line a check and exits with 1
if one failed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import torch
from tests.stack.kernels.kernel_cases import wkv4_case, wkv7_case, worst
from torch import Tensor

from laminogram.stack.kernels import wkv4_empty_state, wkv4_triton, wkv7_triton
from laminogram.stack.kernels.wkv4 import wkv4 as wkv4_reference
from laminogram.stack.kernels.wkv7 import wkv7 as wkv7_reference

CUDA = "cuda"
HALF, SHORT, FULL = torch.float16, torch.bfloat16, torch.float32
# Relative to the largest value. RWKV-7 multiplies in TF32 where an input has 16 bits.
OF_WKV4 = {FULL: 3e-5, SHORT: 4e-3, HALF: 1e-3}
OF_WKV7 = {FULL: 4e-6, SHORT: 1e-2, HALF: 4e-3}

Results = dict[str, Tensor]
_failed: list[str] = []


def judge(name: str, got: Results, wanted: Results, limit: float) -> None:
    """Print the largest difference of each result, and remember a failure."""
    errors = {key: worst(got[key].double(), wanted[key].double()) for key in wanted}
    passed = max(errors.values()) <= limit  # False for nan
    if not passed:
        _failed.append(name)
    shown = " ".join(f"{key} {error:.0e}" for key, error in errors.items())
    print(f"{'PASS' if passed else 'FAIL'}  {name:<46} {shown} (at most {limit:.0e})", flush=True)


def mask(tokens: int, lengths: Tensor | None) -> Tensor:
    """Real tokens (B or 1, T)."""
    columns = torch.arange(tokens, device=CUDA)[None]
    return columns >= 0 if lengths is None else columns < lengths[:, None]


def of(lengths: Sequence[int] | None) -> Tensor | None:
    return None if lengths is None else torch.tensor(lengths, device=CUDA)


def check_wkv4(
    rows: int,
    tokens: int,
    width: int,
    dtype: torch.dtype,
    real: Sequence[int] | None = None,
    empty: bool = False,
) -> None:
    """y, the sums after the last real token, and the gradients of k, v, w and u."""
    case = [x.to(CUDA) for x in wkv4_case(1, rows, tokens, width, empty=empty)]
    inputs = [x.to(dtype if i < 2 else FULL) for i, x in enumerate(case[:4])]
    state, lengths = None if empty else case[4].to(FULL), of(real)
    kept = mask(tokens, lengths)[..., None]
    by_y = torch.randn(rows, tokens, width, device=CUDA)

    def results(run: Callable[..., tuple[Tensor, Tensor]], wide: torch.dtype | None) -> Results:
        leaves = [x.detach().to(wide or x.dtype).requires_grad_() for x in inputs]
        given = state
        if wide:
            given = wkv4_empty_state(rows, width, device=CUDA, dtype=wide)
            given = given if state is None else state.to(wide)
        y, after = run(*leaves, given, lengths)
        y = torch.where(kept, y, 0)
        grads = torch.autograd.grad((y * by_y).sum(), leaves)
        num, den, scale = after.double().unbind(1)  # the scale itself is anybody's choice
        sums = torch.stack((num / den, den.log() + scale))
        return {"y": y, "after": sums, **dict(zip("kvwu", grads, strict=True))}

    name = f"wkv4 {rows}x{tokens}x{width} {str(dtype)[6:]}{' empty' if empty else ''} {real or ''}"
    judge(name, results(wkv4_triton, None), results(wkv4_reference, torch.float64), OF_WKV4[dtype])


def check_wkv7(
    rows: int,
    tokens: int,
    heads: int,
    size: int,
    dtype: torch.dtype,
    real: Sequence[int] | None = None,
    repeat: bool = False,
) -> None:
    """o, the state after the last real token, and all seven gradients."""
    case = [x.to(CUDA) for x in wkv7_case(3, rows, tokens, heads, size, repeat=repeat)]
    inputs = [x.to(FULL if i in (1, 6) else dtype) for i, x in enumerate(case)]
    lengths = of(real)
    kept = mask(tokens, lengths)[..., None, None]
    by_o, by_state = torch.randn_like(case[0]), torch.randn_like(case[6])

    def results(run: Callable[..., tuple[Tensor, Tensor]], wide: torch.dtype | None) -> Results:
        leaves = [x.detach().to(wide or x.dtype).requires_grad_() for x in inputs]
        o, after = run(*leaves, lengths)
        o = torch.where(kept, o, 0)
        grads = torch.autograd.grad((o * by_o).sum() + (after * by_state).sum(), leaves)
        return {"o": o, "after": after, **dict(zip("rwkvabS", grads, strict=True))}

    name = f"wkv7 {rows}x{tokens}x{heads}x{size} {str(dtype)[6:]} {real or ''}"
    name += " one key" if repeat else ""
    judge(name, results(wkv7_triton, None), results(wkv7_reference, torch.float64), OF_WKV7[dtype])


@torch.no_grad()
def check_lengths() -> None:
    """A compiled caller over three lengths, the later ones by its graph for any length."""
    torch._dynamo.reset()
    fours = torch.compile(lambda k, v, w, u, s: wkv4_triton(2 * k, v, w, u, s), fullgraph=True)
    sevens = torch.compile(lambda r, *rest: wkv7_triton(2 * r, *rest), fullgraph=True)
    for tokens in (100, 333, 1000):
        four = [x.to(CUDA, FULL) for x in wkv4_case(2, 2, tokens, 96)]
        seven = [x.to(CUDA, FULL) for x in wkv7_case(2, 2, tokens, 3, 64)]
        y, after = fours(*four)
        wanted_y, wanted_after = wkv4_triton(2 * four[0], *four[1:])
        o, state = sevens(*seven)
        wanted_o, wanted_state = wkv7_triton(2 * seven[0], *seven[1:])
        got = {"y": y, "after": after, "o": o, "S": state}
        wanted = {"y": wanted_y, "after": wanted_after, "o": wanted_o, "S": wanted_state}
        judge(f"compiled, {tokens} tokens", got, wanted, 1e-6)


def main() -> int:
    if not torch.cuda.is_available():
        print("no CUDA device is visible to torch", file=sys.stderr)
        return 2
    torch.backends.cuda.matmul.allow_tf32 = False
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    check_wkv4(1, 2048, 2048, FULL)
    check_wkv4(2, 333, 100, FULL, [333, 64])
    check_wkv4(8, 512, 768, SHORT, empty=True)
    check_wkv4(3, 65, 40, HALF, [0, 64, 65])
    check_wkv7(1, 333, 2, 64, SHORT)
    check_wkv7(3, 65, 1, 64, HALF, [0, 64, 17])
    check_wkv7(3, 65, 1, 64, FULL, [0, 64, 17])
    check_wkv7(1, 130, 2, 32, FULL, repeat=True)
    check_wkv7(2, 50, 3, 16, FULL)
    check_lengths()
    print(f"{len(_failed)} checks FAILED: {_failed}" if _failed else "all passed")
    return 1 if _failed else 0


if __name__ == "__main__":
    sys.exit(main())
