"""Compares the recurrences' Triton kernels with their references in fp64: values and gradients.

    python tests/gpu/check_recurrence_kernels.py

Long and odd lengths, ragged rows, states given and not, the hardest system of RWKV-7, each in fp32,
bf16 and fp16; and a compiled function over several lengths. Prints a line a check and exits with 1
if one failed.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence

import torch
from tests.stack.kernels.kernel_cases import wkv4_case, wkv6_case, wkv7_case, worst
from torch import Tensor

from laminogram.stack.kernels import wkv4_empty_state, wkv4_triton, wkv6_triton, wkv7_triton
from laminogram.stack.kernels.wkv4 import wkv4 as wkv4_reference
from laminogram.stack.kernels.wkv6 import wkv6 as wkv6_reference
from laminogram.stack.kernels.wkv7 import wkv7 as wkv7_reference

CUDA = "cuda"
HALF, SHORT, FULL = torch.float16, torch.bfloat16, torch.float32
# Relative to the largest value. RWKV-6 and 7 multiply in TF32 where an input has 16 bits.
OF_WKV4 = {FULL: 3e-5, SHORT: 4e-3, HALF: 1e-3}
OF_MATRIX_STATES = {FULL: 4e-6, SHORT: 1e-2, HALF: 4e-3}

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


def check_matrix_state(
    name: str,
    case: Sequence[Tensor],
    dtype: torch.dtype,
    real: Sequence[int] | None = None,
    chunk: int = 32,
) -> None:
    """o, the state after the last real token, and all gradients: RWKV-6 (r w k v u S) or RWKV-7
    (r w k v a b S)."""
    kernel, reference, limits, names = _MATRIX_STATES[len(case)]
    wide_ones = "wuS"  # never in 16 bits
    case = [x.to(CUDA) for x in case]
    inputs = [x.to(FULL if n in wide_ones else dtype) for n, x in zip(names, case, strict=True)]
    lengths = of(real)
    kept = mask(case[0].shape[1], lengths)[..., None, None]
    by_o, by_state = torch.randn_like(case[0]), torch.randn_like(case[-1])

    def results(run: Callable[..., tuple[Tensor, Tensor]], wide: torch.dtype | None) -> Results:
        leaves = [x.detach().to(wide or x.dtype).requires_grad_() for x in inputs]
        o, after = run(*leaves, lengths)
        o = torch.where(kept, o, 0)
        grads = torch.autograd.grad((o * by_o).sum() + (after * by_state).sum(), leaves)
        return {"o": o, "after": after, **dict(zip(names, grads, strict=True))}

    sizes = "x".join(map(str, case[0].shape))
    label = f"{name} {sizes} L{chunk} {str(dtype)[6:]} {real or ''}"
    got = results(functools.partial(kernel, chunk=chunk), None)
    judge(label, got, results(reference, torch.float64), limits[dtype])


_MATRIX_STATES = {
    6: (wkv6_triton, wkv6_reference, OF_MATRIX_STATES, "rwkvuS"),
    7: (wkv7_triton, wkv7_reference, OF_MATRIX_STATES, "rwkvabS"),
}


@torch.no_grad()
def check_lengths() -> None:
    """A compiled caller over three lengths, the later ones by its graph for any length."""
    torch._dynamo.reset()
    fours = torch.compile(lambda k, v, w, u, s: wkv4_triton(2 * k, v, w, u, s), fullgraph=True)
    sixes = torch.compile(lambda r, *rest: wkv6_triton(2 * r, *rest), fullgraph=True)
    sevens = torch.compile(lambda r, *rest: wkv7_triton(2 * r, *rest), fullgraph=True)
    for tokens in (100, 333, 1000):
        four = [x.to(CUDA, FULL) for x in wkv4_case(2, 2, tokens, 96)]
        six = [x.to(CUDA, FULL) for x in wkv6_case(2, 2, tokens, 3, 64)]
        seven = [x.to(CUDA, FULL) for x in wkv7_case(2, 2, tokens, 3, 64)]
        y, after = fours(*four)
        wanted_y, wanted_after = wkv4_triton(2 * four[0], *four[1:])
        got, wanted = {"y": y, "after": after}, {"y": wanted_y, "after": wanted_after}
        got["o6"], got["S6"] = sixes(*six)
        wanted["o6"], wanted["S6"] = wkv6_triton(2 * six[0], *six[1:])
        got["o7"], got["S7"] = sevens(*seven)
        wanted["o7"], wanted["S7"] = wkv7_triton(2 * seven[0], *seven[1:])
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
    for dtype, mean in ((SHORT, -2.0), (HALF, 0.0), (FULL, 6.0)):
        check_matrix_state("wkv6", wkv6_case(3, 3, 65, 1, 64, mean=mean), dtype, [0, 64, 17])
    for chunk in (16, 32, 64):
        check_matrix_state("wkv6", wkv6_case(3, 1, 333, 2, 64, mean=-4.0), SHORT, chunk=chunk)
    r, w, *rest = wkv6_case(4, 2, 130, 2, 32)
    check_matrix_state("wkv5", (r, w[0, 0], *rest), FULL)
    check_matrix_state("wkv6", wkv6_case(3, 2, 50, 3, 16), FULL)
    check_matrix_state("wkv7", wkv7_case(3, 1, 333, 2, 64), SHORT)
    check_matrix_state("wkv7", wkv7_case(3, 3, 65, 1, 64), HALF, [0, 64, 17])
    check_matrix_state("wkv7", wkv7_case(3, 3, 65, 1, 64), FULL, [0, 64, 17])
    check_matrix_state("wkv7 one key", wkv7_case(3, 1, 130, 2, 32, repeat=True), FULL)
    check_matrix_state("wkv7", wkv7_case(3, 2, 50, 3, 16), FULL)
    check_lengths()
    print(f"{len(_failed)} checks FAILED: {_failed}" if _failed else "all passed")
    return 1 if _failed else 0


if __name__ == "__main__":
    sys.exit(main())
