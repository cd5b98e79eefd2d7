"""Layers of RWKV-5, 6 and 7 for one token in one call: the numbers of the usual path, and of the
memory."""

from dataclasses import replace

import pytest
import torch
from tests.stacks import config_of, relative
from torch import nn

from laminogram.stack.kernels import matvec
from laminogram.stack.mixers import fused
from laminogram.stack.mixers.fused import FusedDecoder
from laminogram.stack.quantise.int8 import Int8
from laminogram.stack.quantise.packed import Packed
from laminogram.stack.stack import Stack
from laminogram.view import View

pytest.importorskip("numba")

CLOSE = {torch.float32: 1e-5, torch.bfloat16: 5e-2}
TEXT = [5, 9, 2, 7, 1, 8]
FIVE = [
    {},
    {"gate": False, "initial_state": False},
    {"per_channel": False},
    {"log_bonus": True},
    {"per_channel": False, "log_bonus": True, "gate": False},
]
KINDS = [*(("rwkv5", changes) for changes in FIVE), ("rwkv6", {}), ("rwkv7", {})]
EVERY = pytest.mark.parametrize(("kind", "changes"), KINDS, ids=str)


@pytest.fixture(autouse=True)
def small_too(monkeypatch):
    monkeypatch.setattr(matvec, "LEAST_ENTRIES", 1)


def view_of(kind, changes=(), dtype=torch.float32):
    config = config_of(kind)
    layers = (replace(layer, attn=replace(layer.attn, **dict(changes))) for layer in config.layers)
    stack = Stack(replace(config, layers=tuple(layers)))
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in stack.named_parameters():
            parameter.normal_(0, 0.3, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1)
    stack.to(dtype).requires_grad_(False)
    return View(stack, None, kind, stack.full_plan())


class Bench:
    """A view, and two caches that go through both paths."""

    def __init__(self, view, monkeypatch):
        self.view, self.monkeypatch = view, monkeypatch
        self.cache, self.usual = view.new_cache(1), view.new_cache(1)
        self.close = CLOSE[view.stack.dtype]

    @torch.no_grad()
    def tokens(self, text=TEXT):
        for one in text:
            batch = self.view.tokens([[one]])
            found = self.view.run(batch, cache=self.cache)
            with self.monkeypatch.context() as patch:
                patch.setattr(fused, "is_one_row", lambda x, ctx: False)
                expected = self.view.run(batch, cache=self.usual)
            assert found.dtype is expected.dtype and relative(found, expected) < self.close
            assert all(isinstance(slot.decoder, FusedDecoder) for slot in self.cache.slots)
            memory = self.usual.tensors()
            for name, own in self.cache.tensors().items():
                assert relative(own, memory[name]) < self.close, name


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_paths_agree(monkeypatch, kind, changes, dtype):
    bench = Bench(view_of(kind, changes, dtype), monkeypatch)
    bench.tokens()
    kept = [slot.decoder for slot in bench.cache.slots]
    bench.tokens()
    assert [slot.decoder for slot in bench.cache.slots] == kept


@EVERY
@torch.no_grad()
def test_a_text_token_after_token_and_at_once(kind, changes):
    view = view_of(kind, changes)
    cache = view.new_cache(1)
    steps = [view.run(view.tokens([[one]]), cache=cache)[0] for one in TEXT]
    assert cache.passage.takes_numbers
    assert relative(torch.cat(steps), view.logits([TEXT])[0]) < 1e-5


@pytest.mark.parametrize("kind", ["rwkv5", "rwkv6", "rwkv7"])
@pytest.mark.parametrize("plan", ["2, 0, 1, 1", "1-2", "0, mean(1-2), 0", "0.attn, 1, 2.ffn"])
@torch.no_grad()
def test_any_plan(kind, plan):
    view = view_of(kind).using(plan=plan)
    cache = view.new_cache(1)
    steps = [view.run(view.tokens([[one]]), cache=cache)[0] for one in TEXT]
    assert relative(torch.cat(steps), view.logits([TEXT])[0]) < 1e-5


@torch.no_grad()
def test_values_that_the_first_step_provides_go_the_usual_way():
    view = view_of("rwkv7").using(plan="1, 0, 2", v_first="first-step")
    cache = view.new_cache(1)
    steps = [view.run(view.tokens([[one]]), cache=cache)[0] for one in TEXT]
    assert relative(torch.cat(steps), view.logits([TEXT])[0]) < 1e-5
    assert cache.passage is None and cache.slots[0].decoder is None
    assert all(isinstance(slot.decoder, FusedDecoder) for slot in cache.slots[1:])


@pytest.mark.parametrize("kind", ["rwkv5", "rwkv6", "rwkv7"])
def test_int8_weights(monkeypatch, kind):
    view = view_of(kind)
    for layer in view.stack.layers:
        mixers = (layer.attn, layer.ffn)
        for product in (child for mixer in mixers for child in mixer.children()):
            if (
                isinstance(getattr(product, "weight", None), nn.Parameter)
                and product.weight.dim() == 2
            ):
                packed = Packed(product.weight, Int8("row"))
                del product.weight
                product.weight = packed
    Bench(view, monkeypatch).tokens()


@pytest.mark.parametrize("kind", ["rwkv5", "rwkv6", "rwkv7"])
@pytest.mark.parametrize("how", ["written", "replaced", "moved"])
def test_a_change_of_any_parameter_is_seen(monkeypatch, kind, how):
    bench = Bench(view_of(kind), monkeypatch)
    bench.tokens(TEXT[:1])
    stack = bench.view.stack
    for name, parameter in list(stack.named_parameters()):
        if name.endswith("initial_state"):
            continue  # of a cache that begins
        owner, _, last = name.rpartition(".")
        new = parameter * 0.9 + 0.01
        if how == "written":
            parameter.copy_(new)
        elif how == "replaced":
            setattr(stack.get_submodule(owner), last, nn.Parameter(new, requires_grad=False))
        else:
            parameter.data = new
        bench.tokens(TEXT[:1])


@pytest.mark.parametrize("kind", ["rwkv6", "rwkv7"])
@torch.no_grad()
def test_what_is_not_a_number_stays_so(kind):
    view = view_of(kind)
    view.stack.layers[1].attn.k.weight[0, 0] = torch.nan
    assert view.run(view.tokens([[3]]), cache=view.new_cache(1)).isnan().all()


@pytest.mark.parametrize("kind", ["rwkv5", "rwkv6", "rwkv7"])
@torch.no_grad()
def test_a_fork_goes_on_by_itself(kind):
    view = view_of(kind)
    cache, expected = view.new_cache(1), view.logits([TEXT])[0]
    for one in TEXT[:3]:
        view.run(view.tokens([[one]]), cache=cache)
    fork = cache.fork()
    for kept in (cache, fork):
        steps = [view.run(view.tokens([[one]]), cache=kept)[0] for one in TEXT[3:]]
        assert relative(torch.cat(steps), expected[3:]) < 1e-5
