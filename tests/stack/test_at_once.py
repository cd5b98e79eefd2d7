"""Layers that one token passes in one call: which they are, and that the numbers are the usual."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from tests.stack.test_shortened import stack_of
from tests.stacks import relative
from torch import nn

from laminogram.errors import CacheError
from laminogram.infer.decode_graph import StaticReads
from laminogram.plans import Plan
from laminogram.stack import context, ends_fused
from laminogram.stack.batch import Batch
from laminogram.stack.config import NormConfig
from laminogram.stack.forward import run
from laminogram.stack.kernels import matvec
from laminogram.stack.mixers import fused, matrix_state_fused
from laminogram.stack.stack import Stack
from laminogram.view import View

pytest.importorskip("numba")

TEXT = [5, 9, 2, 7, 1, 8]


@pytest.fixture
def calls(monkeypatch):
    """How many layers each call had, and the head; what leads to them is not counted."""
    found, real = [], fused.pass_through
    kernels = ends_fused._kernel("embed"), matrix_state_fused._kernel("token.first_values")
    before = [kernel.step.address for kernel in kernels]

    def noted(table, *given):
        found.append(sum(int(function) not in before for function in table[:, 0]))
        return real(table, *given)

    monkeypatch.setattr(matvec, "LEAST_ENTRIES", 1)
    monkeypatch.setattr(fused, "pass_through", noted)
    return found


def view_of(kind):
    stack = stack_of(kind)
    return View(stack, None, "test", stack.full_plan())


@torch.no_grad()
def decode(view, **how):
    """Logits (T, V) of a text, token after token."""
    cache = view.new_cache(1)
    return torch.cat([view.run(view.tokens([[one]]), cache=cache, **how)[0] for one in TEXT])


@pytest.mark.parametrize("kind", ["llama", "rwkv4", "rwkv6", "rwkv7"])
@pytest.mark.parametrize(
    ("plan", "at_once"), [("0-2", [4]), ("0, 1, 0, 2", [5]), ("1, 2.ffn, 0, 1, 2", [1, 3])]
)
def test_logits_are_those_of_the_whole_text(calls, kind, plan, at_once):
    view = view_of(kind).using(plan=plan)
    assert relative(decode(view), view.logits([TEXT])[0]) < 1e-5
    assert calls == at_once * len(TEXT)


@pytest.mark.parametrize("kind", ["llama", "rwkv4", "rwkv6", "rwkv7"])
@torch.no_grad()
def test_a_call_ends_where_somebody_looks(calls, kind):
    view = view_of(kind).using(plan="0, 1, 0, 1, 0")
    whole = torch.tensor(view.record([TEXT], ["attn_out"], steps=[2])["attn_out", 2])
    assert not calls  # a text is no token
    reads, cache, found = StaticReads(), view.new_cache(1), []
    observer = view.program(reads={2: ("attn_out",)}, sink=reads)
    for one in TEXT:
        view.run(view.tokens([[one]]), cache=cache, observer=observer)
        found.append(reads["attn_out", 2].clone())
    assert relative(torch.cat(found, 1), whole) < 1e-5
    assert calls == [2, 2] * len(TEXT)


@pytest.mark.parametrize("kind", ["llama", "rwkv4", "rwkv6", "rwkv7"])
def test_a_layer_with_a_hook_is_called(calls, kind):
    view, heard = view_of(kind), []
    plain = decode(view)
    calls.clear()
    handle = view.stack.layer(1).register_forward_hook(lambda *_: heard.append(1))
    hooked = decode(view)
    handle.remove()
    assert relative(hooked, plain) < 1e-5 and len(heard) == len(TEXT)
    assert calls == [1] * 3 * len(TEXT)
    calls.clear()
    own = view.stack.run_layer
    view.stack.run_layer = lambda *given: own(*given)  # somebody's own way to run a layer
    assert relative(decode(view), plain) < 1e-5 and calls == [1] * 3 * len(TEXT)


def with_head(kind, norm, **head):
    config = stack_of(kind).config
    size = replace(config.final_norm, kind=norm, bias=norm == "layer")
    stack = Stack(replace(config, final_norm=size, head=replace(config.head, **head)))
    generator = torch.Generator().manual_seed(5)
    for name, x in stack.named_parameters():
        x.data = 0.3 * torch.randn(x.shape, generator=generator) + name.endswith("norm.weight")
    return stack.requires_grad_(False)


@pytest.mark.parametrize("kind", ["llama", "rwkv4", "rwkv6", "rwkv7"])
@pytest.mark.parametrize("norm", ["rms", "layer"])
@pytest.mark.parametrize("head", [{}, {"tied": True}, {"bias": True}], ids=str)
def test_heads(calls, kind, norm, head):
    stack = with_head(kind, norm, **head)
    view = View(stack, None, "test", stack.full_plan())
    expected = view.logits([TEXT])[0]
    assert relative(decode(view), expected) < 1e-5
    assert relative(decode(view, logits="last"), expected) < 1e-5
    assert calls == [4] * 2 * len(TEXT)
    narrow = View(stack.bfloat16(), None, "test", stack.full_plan())
    assert relative(decode(narrow).float(), expected) < 0.05
    assert calls == [4] * 3 * len(TEXT)


@pytest.mark.parametrize("kind", ["llama", "rwkv4", "rwkv6", "rwkv7"])
def test_heads_that_are_no_single_product_go_the_usual_way(calls, kind):
    stack = with_head(kind, "rms", normalised=True)
    view = View(stack, None, "test", stack.full_plan())
    assert relative(decode(view), view.logits([TEXT])[0]) < 1e-5
    assert calls == [3] * len(TEXT)


@pytest.mark.parametrize("kind", ["llama", "rwkv4", "rwkv6", "rwkv7"])
def test_int8(calls, kind):
    view = view_of(kind).using(precision="int8")
    assert relative(decode(view), view.logits([TEXT])[0]) < 1e-5
    assert calls == [4] * len(TEXT)


def doubled(path):
    def change(stack):
        stack.get_parameter(path).mul_(2)

    return change


def moved(path):
    def change(stack):
        parameter = stack.get_parameter(path)
        parameter.data = parameter * 2

    return change


def replaced(path):
    def change(stack):
        owner, _, name = path.rpartition(".")
        parts = owner.rpartition(".")
        module = copy.deepcopy(stack.get_submodule(owner))
        setattr(module, name, nn.Parameter(module.get_parameter(name) * 2, requires_grad=False))
        setattr(stack.get_submodule(parts[0]), parts[2], module)

    return change


def swapped(stack):
    first, second = stack.layers[0], stack.layers[1]
    stack.layers[0], stack.layers[1] = second, first


PATHS = ["final_norm.weight", "head.weight", "layers.1.ffn_norm.weight", "layers.2.ffn.down.weight"]
CHANGES = [change(path) for change in (doubled, moved, replaced) for path in PATHS]
TIED = [change("embed.tokens.weight") for change in (doubled, moved, replaced)]


@pytest.mark.parametrize("kind", ["llama", "rwkv4", "rwkv6", "rwkv7"])
@pytest.mark.parametrize("number", range(len(CHANGES) + len(TIED) + 1))
@torch.no_grad()
def test_a_change_is_seen_at_the_next_token(calls, monkeypatch, number, kind):
    stack = stack_of(kind, tied=number > len(CHANGES))
    view = View(stack, None, "test", stack.full_plan())
    cache = view.new_cache(1)
    for one in TEXT:
        view.run(view.tokens([[one]]), cache=cache)
    stale, other = cache.passage, cache.fork()
    [*CHANGES, swapped, *TIED][number](stack)
    found = view.run(view.tokens([[3]]), cache=cache)
    assert cache.passage is not stale and calls == [4] * (len(TEXT) + 1)
    monkeypatch.setattr(fused, "is_one_row", lambda x, ctx: False)
    assert relative(found, view.run(view.tokens([[3]]), cache=other)) < 1e-5


@pytest.mark.parametrize("kind", ["llama", "rwkv4", "rwkv6", "rwkv7"])
@torch.no_grad()
def test_another_plan_or_way_to_run_a_layer_is_seen(calls, monkeypatch, kind):
    stack, heard = stack_of(kind), []
    batch, first, second = (
        Batch(torch.tensor([[5]]), (1,), (0,), 1),
        Plan.parse("0, 1"),
        Plan.parse("0, 2"),
    )
    cache = stack.new_cache(1, first, "test", capacity=8)
    run(stack, batch, first, cache=cache)
    other = cache.fork()
    found = run(stack, batch, second, cache=cache)
    real = fused.is_one_row
    monkeypatch.setattr(fused, "is_one_row", lambda x, ctx: False)
    assert relative(found, run(stack, batch, second, cache=other)) < 1e-5
    monkeypatch.setattr(fused, "is_one_row", real)
    own = stack.run_layer
    stack.run_layer = lambda *given: heard.append(1) or own(*given)
    run(stack, batch, second, cache=cache)
    assert len(heard) == 2


@pytest.mark.parametrize("kind", ["llama", "rwkv4", "rwkv6", "rwkv7"])
@torch.no_grad()
def test_a_head_with_a_hook_is_called(calls, kind):
    view, heard = view_of(kind), []
    cache = view.new_cache(1)
    view.run(view.tokens([[5]]), cache=cache)
    handle = view.stack.head.register_forward_hook(lambda *_: heard.append(1))
    view.run(view.tokens([[9]]), cache=cache)
    handle.remove()
    assert heard == [1] and calls == [4, 3]


@pytest.mark.parametrize("kind", ["llama", "rwkv4", "rwkv6", "rwkv7"])
@torch.no_grad()
def test_a_copied_cache_goes_on_by_itself(calls, kind):
    view = view_of(kind)
    cache = view.new_cache(1)
    for one in TEXT[:3]:
        view.run(view.tokens([[one]]), cache=cache)
    twin = copy.deepcopy(cache)
    expected = view.logits([TEXT])[0, 3:]
    for kept in (cache, twin):
        steps = [view.run(view.tokens([[one]]), cache=kept)[0] for one in TEXT[3:]]
        assert relative(torch.cat(steps), expected) < 1e-5


@pytest.mark.parametrize(("kind", "made"), [("llama", len(TEXT)), ("rwkv4", 1), ("rwkv7", 1)])
@torch.no_grad()
def test_a_context_is_made_where_a_place_matters(calls, monkeypatch, kind, made):
    view, places, heard = view_of(kind), [], []
    expected, build = view.logits([TEXT])[0], context.build
    monkeypatch.setattr(
        context, "build", lambda *given, **how: places.append(1) or build(*given, **how)
    )
    assert relative(decode(view), expected) < 1e-5 and len(places) == made
    cache = view.new_cache(1)
    view.run(view.tokens([[1]]), cache=cache)
    handle = view.stack.embed.register_forward_hook(lambda *_: heard.append(1))
    view.run(view.tokens([[2]]), cache=cache)
    handle.remove()
    view.run(view.tokens([[3, 4]]), cache=cache)
    view.run(view.tokens([[5]]), cache=cache)
    assert heard == [1] and cache.lengths == [5]


@pytest.mark.parametrize("kind", ["llama", "rwkv4", "rwkv6", "rwkv7"])
@torch.no_grad()
def test_a_token_that_breaks_off_breaks_the_cache(monkeypatch, kind):
    view = view_of(kind)
    monkeypatch.setattr(matvec, "LEAST_ENTRIES", 1)
    cache = view.new_cache(1)
    view.run(view.tokens([[1]]), cache=cache)

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(fused, "pass_through", stopped)
    with pytest.raises(KeyboardInterrupt):
        view.run(view.tokens([[2]]), cache=cache)
    monkeypatch.undo()
    with pytest.raises(CacheError, match="half-way"):
        view.run(view.tokens([[2]]), cache=cache)


def with_embedding(kind, **embedding):
    config = stack_of(kind).config
    stack = Stack(replace(config, embedding=replace(config.embedding, **embedding)))
    generator = torch.Generator().manual_seed(6)
    for name, x in stack.named_parameters():
        x.data = 0.3 * torch.randn(x.shape, generator=generator) + name.endswith("norm.weight")
    return stack.requires_grad_(False)


KINDS = [("layer", False), ("layer", True), ("rms", False)]
NORMS = [None, *(NormConfig(kind=kind, bias=bias) for kind, bias in KINDS)]


@pytest.mark.parametrize("norm", NORMS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@torch.no_grad()
def test_a_token_begins_with_its_number(calls, monkeypatch, norm, dtype):
    stack = with_embedding("rwkv4", norm=norm)
    expected = View(stack, None, "test", stack.full_plan()).logits([TEXT])[0]
    view = View(stack.to(dtype), None, "test", stack.full_plan())
    found, looked_up = decode(view), []
    assert relative(found.float(), expected) < (1e-5 if dtype is torch.float32 else 0.05)
    cache = view.new_cache(1)
    view.run(view.tokens([[TEXT[0]]]), cache=cache)
    monkeypatch.setattr(nn.functional, "embedding", lambda *given: looked_up.append(1))
    later = [view.run(view.tokens([[one]]), cache=cache)[0] for one in TEXT[1:]]
    assert not looked_up and torch.equal(torch.cat(later), found[1:])


@torch.no_grad()
def test_embeddings_that_go_the_usual_way(calls):
    stack = with_embedding("rwkv4", scale=3.0)
    view, heard = View(stack, None, "test", stack.full_plan()), []
    assert relative(decode(view), view.logits([TEXT])[0]) < 1e-5
    stack = with_embedding("rwkv4", norm=NormConfig(kind="layer"))
    view = View(stack, None, "test", stack.full_plan())
    cache = view.new_cache(1)
    view.run(view.tokens([[1]]), cache=cache)
    kept = cache.passage
    for module in (stack.embed, stack.embed.tokens):
        handle = module.register_forward_hook(lambda *_: heard.append(1))
        view.run(view.tokens([[2]]), cache=cache)
        handle.remove()
    assert heard == [1, 1] and cache.passage is kept
    for odd in (-1, stack.config.vocab_size):
        with pytest.raises(IndexError):
            run(stack, Batch(torch.tensor([[odd]]), (1,), (0,), 1), view.plan, cache=cache)


@pytest.mark.parametrize("change", [doubled, moved, replaced])
@pytest.mark.parametrize("path", ["embed.tokens.weight", "embed.norm.weight"])
@torch.no_grad()
def test_a_change_of_the_embedding_is_seen_at_the_next_token(calls, monkeypatch, path, change):
    stack = with_embedding("rwkv4", norm=NormConfig(kind="layer"))
    view = View(stack, None, "test", stack.full_plan())
    cache = view.new_cache(1)
    for one in TEXT:
        view.run(view.tokens([[one]]), cache=cache)
    other = cache.fork()
    change(path)(stack)
    found = view.run(view.tokens([[3]]), cache=cache)
    monkeypatch.setattr(fused, "is_one_row", lambda x, ctx: False)
    assert relative(found, view.run(view.tokens([[3]]), cache=other)) < 1e-5
