"""Run by test_row_triton in a process of its own, for Triton reads TRITON_INTERPRET on import.

Decodes small stacks by the fused kernels, interpreted on the CPU, and by the usual path (which
reading a hidden site asks for), and single kernels beside their naive references; prints one line
each.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from tests.stacks import ids_of, relative, view_of
from torch import Tensor

from laminogram.infer.decode_graph import DecodeGraph, StaticReads
from laminogram.stack.cache import grows
from laminogram.stack.joined import joining
from laminogram.stack.kernels import (
    attention_row_triton,
    row_naive,
    row_triton,
    rows_product_triton,
    rows_triton,
    skip_triton,
    wkv7_row_triton,
)
from laminogram.stack.kernels.row_naive import RowNorm, RowProduct, RowShift
from laminogram.stack.kernels.rows_triton import Stream, Update
from laminogram.stack.mixers import rows_decode
from laminogram.view import View

TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-2}
SHOWN = ("resid_pre", "attn_out", "resid_mid", "ffn_out", "resid_post")
HIDDEN = "ffn_act"
LAUNCHED: list[str] = []


def decoded(view: View, rows: int, sites: tuple[str, ...]) -> tuple[Tensor, StaticReads, dict]:
    """Logits of a step after prompts of different lengths, what was read, and the memory."""
    layers = range(view.config.num_layers)
    reads = StaticReads()
    observer = view.program(reads=dict.fromkeys(layers, sites), sink=reads)
    graph = DecodeGraph(view, rows, 100, observer, capture=False)
    logits = [graph.start([[1, 2, 3] * (1 + 24 * row) for row in range(rows)])]
    logits += [graph.step(column) for column in ids_of(rows, 2).T]
    memory = {
        name: x[:, :, : min(graph.lengths)] if grows(name) else x
        for name, x in graph.cache.tensors().items()
    }
    return torch.stack(logits), reads, memory


@torch.no_grad()
def compare_layers(kind: str, rows: int, dtype: torch.dtype, *, skip: bool = False) -> None:
    """Whole layers: logits, every site that is shown, every memory."""
    view = view_of(kind, layers=2)  # RWKV-7's second reads what its first provides
    view.stack.to(dtype).requires_grad_(False)
    if skip:
        view.stack.skip_zero_rows()
    for layer in view.stack.layers:
        layer._find_row_decoder = None  # that of the CPU would come first
    LAUNCHED.clear()
    with joining(view.stack):
        found, reads, memory = decoded(view, rows, SHOWN)
    wanted, usual, usual_memory = decoded(view, rows, (*SHOWN, HIDDEN))
    assert relative(found.float(), wanted.float()) < TOLERANCE[dtype]
    for layer in range(view.config.num_layers):
        for site in SHOWN:
            one, other = reads[site, layer], usual[site, layer]
            assert one.shape == other.shape and one.dtype == other.dtype, site
            assert relative(one.float(), other.float()) < TOLERANCE[dtype], site
    for name, x in memory.items():
        assert relative(x.float(), usual_memory[name].float()) < TOLERANCE[dtype], name
    compare_unread(view, rows, wanted, usual_memory)
    assert LAUNCHED
    assert ("skip" in LAUNCHED) == (skip and rows == 1)
    print(f"{kind} {rows} {dtype}: equal")


def compare_unread(view: View, rows: int, wanted: Tensor, memory: dict[str, Tensor]) -> None:
    """The same with nothing read between layers, which several rows pass without stopping."""
    stretches = []
    real = rows_decode.several_layers

    def noted(layers: list, *rest: Any) -> Tensor:
        stretches.append(len(layers))
        return real(layers, *rest)

    rows_decode.several_layers = noted
    found, _, other = decoded(view, rows, ())
    rows_decode.several_layers = real
    tolerance = TOLERANCE[view.stack.dtype]
    assert relative(found.float(), wanted.float()) < tolerance
    for name, x in other.items():
        assert relative(x.float(), memory[name].float()) < tolerance, name
    assert stretches == ([] if rows == 1 else [view.config.num_layers] * 2)


@torch.no_grad()
def compare_rows_of_one_length(kind: str) -> None:
    """Steps of a usual cache, whose rows share one position."""
    view = view_of(kind, layers=2)
    view.stack.requires_grad_(False)
    ids = ids_of(3, 7)
    wanted = view.logits(ids)
    LAUNCHED.clear()
    cache = view.new_cache(3)
    found = [view.run(view.tokens(part), cache=cache) for part in ids.split((5, 1, 1), 1)]
    assert relative(torch.cat(found, 1), wanted) < TOLERANCE[torch.float32]
    assert "rows" in LAUNCHED
    print(f"{kind}, rows of one length: equal")


@torch.no_grad()
def compare_products() -> None:
    """Products, gates and sums beside their references, sizes that fit no tile."""
    make = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=make)

    x, mix = draw(1, 1, 40), draw(40)
    norm = RowNorm("layer", draw(40), draw(40), 1e-5)
    products = [
        RowProduct(draw(70, 40), draw(70), mix, "relu2"),
        RowProduct(draw(5, 40), None, mix, "sigmoid"),
    ]
    for kind in ("lerp", "moved"):
        shift, other = (RowShift(torch.ones(1, 40), torch.empty(1, 40), kind) for _ in range(2))
        found = row_triton.project(x, products, norm, shift)
        wanted = row_naive.project_naive(x, products, norm, other)
        assert all(relative(a, b) < 1e-5 for a, b in zip(found, wanted, strict=True))
        assert relative(shift.fresh, other.fresh) < 1e-5
    rms = RowNorm("rms", draw(40), None, 1e-6, offset=1.0)
    for name in ("silu", "gelu", "gelu_new"):
        pair = RowProduct(draw(70, 40), draw(70), None, name), RowProduct(draw(70, 40))
        assert (
            relative(row_triton.gated(x, *pair, rms), row_naive.gated_naive(x, *pair, rms)) < 1e-5
        )
    z, gate, down = draw(70), draw(40), RowProduct(draw(40, 70), draw(40))
    out, added = row_triton.add_back(z, down, x, gate, keep=True)
    wanted_out, wanted_added = row_naive.add_back_naive(z, down, x, gate)
    assert relative(out, wanted_out) < 1e-5 and relative(added, wanted_added) < 1e-5
    print("products: equal")


@torch.no_grad()
def compare_products_of_rows() -> None:
    """Products of few rows, shared by several programs and not, beside torch in fp32."""
    make = torch.Generator().manual_seed(1)
    act = row_naive._ACTIVATIONS

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=make)

    def counter(size: int, device: torch.device) -> Tensor:
        return torch.zeros(size, dtype=torch.int32)

    for rows, inputs, outputs in ((2, 40, 70), (3, 520, 33), (17, 1024, 5), (2, 1152, 70)):
        x = [draw(rows, inputs).half() for _ in range(2)]
        weights = [(draw(n, inputs) / inputs**0.5).half() for n in (outputs, 2 * outputs)]
        products = [
            RowProduct(weights[0], draw(outputs), None, "relu2"),
            RowProduct(weights[1], None, None, "sigmoid"),
        ]
        sums = [a.float() @ w.float().T for a, w in zip(x, weights, strict=True)]
        wanted = [act["relu2"](sums[0] + products[0].bias), act["sigmoid"](sums[1])]
        found = rows_product_triton.product_rows(x, products, counter)
        assert all(relative(a.float(), b) < 3e-3 for a, b in zip(found, wanted, strict=True))
        gate, up = products[0]._replace(activation="silu"), RowProduct(weights[1][:outputs])
        wanted = act["silu"](sums[0] + gate.bias) * (x[0].float() @ up.weight.float().T)
        assert relative(rows_product_triton.gated_rows(x[0], gate, up).float(), wanted) < 3e-3
        residual, scales = draw(rows, outputs), draw(rows).exp2()
        other = (draw(outputs, inputs // 2 // 8 * 8) / inputs**0.5).half()
        entering = [x[0], x[1], draw(rows, other.shape[1]).half()]
        shared = weights[0], weights[1][outputs:].contiguous(), other
        parts, *more = rows_product_triton.share_rows(entering, shared)
        for found, a, w in zip((parts, *more), entering, shared, strict=True):
            assert relative(found.sum(0), a.float() @ w.float().T) < 1e-5
        parts, gate = rows_product_triton.share_rows(entering[::2], shared[::2])
        stream = Stream(residual, Update(parts, scales, draw(outputs), gate))
        wanted = sums[0] * scales[:, None] + stream.update.bias
        wanted = wanted * (entering[2].float() @ other.float().T).sigmoid()
        out, added = rows_triton.add_rows(stream, keep=True)
        assert relative(added, wanted) < 1e-5 and relative(out, residual + wanted) < 1e-5
        norm = RowNorm("layer", draw(outputs), draw(outputs), 1e-5)
        out, (h,) = rows_triton.norm_rows(stream, norm, torch.float32)
        assert relative(out, residual + wanted) < 1e-5
        again, (other,) = rows_triton.norm_rows(Stream(out), norm, torch.float32)
        assert again is out and relative(h, other) < 1e-5
    print("products of rows: equal")


@torch.no_grad()
def compare_skipping() -> None:
    """Rows of zeros left out: none, some, all of them, in sizes that fit no tile."""
    make = torch.Generator().manual_seed(0)
    counts = torch.zeros(8, dtype=torch.int32)
    tiles = skip_triton.SkipTiles(32, 16, 32, 4)
    for zeros in (0.0, 0.87, 1.0):
        for dtype in (torch.float32, torch.float16):
            z, gate = torch.randn(70, generator=make), torch.randn(40, generator=make)
            z[torch.rand(70, generator=make) < zeros] = 0.0
            x = torch.randn(1, 1, 40, generator=make).to(dtype)
            weight = torch.randn(40, 70, generator=make).to(dtype)
            shift, other = (RowShift(torch.ones(40), torch.zeros(40), "lerp") for _ in range(2))
            product = RowProduct(weight.t().contiguous().t())
            out, added = skip_triton.add_back_skipping(
                z, product, x, lambda *_: counts, gate, shift, keep=True, tiles=tiles
            )
            wanted_out, wanted_added = row_naive.add_back_naive(z, product, x, gate, other)
            assert relative(out.float(), wanted_out.float()) < TOLERANCE[dtype]
            assert (added.float() - wanted_added.float()).abs().max() <= TOLERANCE[dtype] * 30
            assert torch.equal(shift.last, other.last) and not counts.any()
            assert zeros < 1 or torch.equal(out, x)
    print("skipping: equal")


def watch() -> None:
    """Note each kernel that is launched, and cut them into few large tiles for the interpreter."""
    for name in row_triton.TILES:
        row_triton.TILES[name] = row_triton.Tiles(64, 64, 4)
    wkv7_row_triton.BLOCK_R = 32
    real = row_triton._kernels

    def noted(name: str) -> ModuleType:
        LAUNCHED.append(name)
        return real(name)

    for module in (
        row_triton,
        rows_triton,
        rows_product_triton,
        attention_row_triton,
        skip_triton,
        wkv7_row_triton,
    ):
        module._kernels = noted


if __name__ == "__main__":
    watch()
    compare_products()
    compare_products_of_rows()
    compare_skipping()
    for kind, rows, dtype in (
        ("llama", 1, torch.float32),
        ("llama", 2, torch.float16),
        ("rwkv4", 1, torch.float16),
        ("rwkv4", 2, torch.float16),
        ("rwkv7", 1, torch.float32),
    ):
        compare_layers(kind, rows, dtype)
    for kind in ("llama", "rwkv4"):
        compare_rows_of_one_length(kind)
    # The interpreter multiplies no bfloat16, so its kernels are fed these models' small fp16.
    rows_decode._in_range = rows_product_triton.serves
    for kind in ("llama", "rwkv4"):
        compare_layers(kind, 2, torch.float16)
    for kind, rows in (("rwkv4", 1), ("rwkv4", 2), ("rwkv7", 1)):
        compare_layers(kind, rows, torch.float16, skip=True)
