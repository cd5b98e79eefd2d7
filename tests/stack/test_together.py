"""Layers of a group that run together equal the same layers one by one."""

import copy
from dataclasses import replace

import pytest
import torch
from tests.stacks import CAUSAL, KINDS, config_of, ids_of, relative, view_of

from laminogram.probe import edits
from laminogram.stack import together
from laminogram.stack.cache import AttentionBlock, BlockSlot
from laminogram.stack.stack import Stack
from laminogram.view import View

PLANS = ["0, mean(1-4), 5", "sum(0-2), 3-5", "0, 3x(mean(1-4)), 5", "0, mean(mean(1-3) | 4), 5"]
TRANSFORMERS = ("llama", "gpt_neox", "alibi", "bert")
DTYPES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 1e-2}


@pytest.fixture
def calls(monkeypatch):
    """How many rows each layer call had, by whether it was a joint one."""
    found: list[bool] = []

    def watch(view):
        run = view.stack.run_layer

        def counted(layer, *rest):
            found.append(not any(layer is own for own in view.stack.layers))
            return run(layer, *rest)

        monkeypatch.setattr(view.stack, "run_layer", counted)
        return found

    return watch


def apart(monkeypatch):
    monkeypatch.setattr(together, "MOST_TOKENS", {})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_together_equals_one_by_one(kind, dtype, calls, monkeypatch):
    view = view_of(kind, layers=6).using(precision=dtype)
    found = calls(view)
    batch = view.tokens([ids_of(1, 7)[0].tolist(), [3, 1, 4]])
    with torch.no_grad():
        joint = [view.using(plan=plan).run(batch) for plan in PLANS]
        assert sum(found) == 1 + 1 + 3 + 1
        apart(monkeypatch)
        del found[:]
        for plan, logits in zip(PLANS, joint, strict=True):
            alone = view.using(plan=plan).run(batch)
            assert relative(logits[0], alone[0]) < DTYPES[dtype]
            assert relative(logits[1, :3], alone[1, :3]) < DTYPES[dtype]
    assert not any(found)


@pytest.mark.parametrize("kind", [kind for kind in CAUSAL if kind in TRANSFORMERS])
def test_the_cache_serves_both_ways(kind, monkeypatch):
    view = view_of(kind, layers=6).using(plan="0, 2x(mean(1-4)), 5")
    rows = [ids_of(1, 5)[0].tolist(), [3, 1, 4]]
    later = ids_of(2, 4, seed=3)

    def answers(switch: bool):
        cache = view.new_cache(2)
        found = [view.run(view.tokens(rows), cache=cache)]
        for t in range(4):
            if switch and t == 2:
                apart(monkeypatch)
                cache = cache.fork()
            found.append(view.run(view.tokens(later[:, t : t + 1]), cache=cache))
        return cache, found

    with torch.no_grad():
        cache, joint = answers(switch=True)
        monkeypatch.undo()
        _, alone = answers(switch=False)
        apart(monkeypatch)
        whole = view.run(view.tokens(torch.cat((torch.tensor(rows[:1]), later[:1]), 1)))
    for a, b in zip(joint[1:], alone[1:], strict=True):
        assert relative(a, b) < 1e-5
    assert relative(torch.cat([x[:1] for x in alone], 1), whole) < 1e-5
    slots = [cache.slots[step].attn for step in range(1, 5)]
    assert all(isinstance(slot, BlockSlot) and slot.block is slots[0].block for slot in slots)
    assert isinstance(slots[0].block, AttentionBlock)


def test_a_fork_and_a_row_of_a_joint_cache_stand_alone():
    view = view_of("llama", layers=6).using(plan="0, mean(1-4), 5")
    batch = view.tokens([[1, 2, 3], [4, 5, 6]])
    with torch.no_grad():
        cache = view.new_cache(2)
        view.run(batch, cache=cache)
        twice, second = cache.fork(2), cache.row(1)
        step = view.run(view.tokens([[7], [8]]), cache=cache)
        forked = view.run(view.tokens([[7], [7], [8], [8]]), cache=twice)
        alone = view.run(view.tokens([[8]]), cache=second)
    assert relative(forked, step.repeat_interleave(2, 0)) < 1e-5
    assert relative(alone, step[1:]) < 1e-5


def test_the_layers_keep_their_parameters_and_nothing_is_held_twice():
    view = view_of("llama", layers=6)
    before = {name: x.detach().clone() for name, x in view.stack.named_parameters()}
    with torch.no_grad():
        view.using(plan="0, mean(1-4), 5").logits([1, 2, 3])
        view.using(plan="0, mean(2-3), 5").logits([1, 2, 3])
    (pack,) = view.stack.together._packs
    own = {x.data_ptr() for x in view.stack.parameters()}
    assert all(part.data_ptr() in own for x in pack.stacked.values() for part in x)
    for name, x in view.stack.named_parameters():
        assert torch.equal(x, before[name])


def test_changed_weights_are_seen(monkeypatch):
    view = view_of("llama", layers=6)
    plan = view.using(plan="0, mean(1-4), 5")
    old = plan.logits([1, 2, 3])
    with torch.no_grad():
        view.stack.layer(2).ffn.up.weight.mul_(1.5)  # in place
    in_place = plan.logits([1, 2, 3])
    view.stack.layer(3).ffn.up.weight = torch.nn.Parameter(view.stack.layer(3).ffn.up.weight * 2)
    replaced = plan.logits([1, 2, 3])
    assert relative(in_place, old) > 1e-3 and relative(replaced, in_place) > 1e-3
    apart(monkeypatch)
    assert relative(replaced, plan.logits([1, 2, 3])) < 1e-5


def test_what_is_tapped_or_needs_a_gradient_runs_one_by_one(calls):
    view = view_of("llama", layers=6)
    found = calls(view)
    plan = view.using(plan="0, mean(1-4), 5")
    joint = plan.record([1, 2, 3], sites="resid_post", layers=[0])
    assert sum(found) == 1
    plan.record([1, 2, 3], sites="resid_post", layers=[2])
    plan.using(edits=edits.zero("ffn_out", layers=[3])).logits([1, 2, 3])
    plan.run(plan.tokens([1, 2, 3])).sum().backward()
    assert sum(found) == 1
    assert joint["resid_post"].shape[0] == 1


@pytest.mark.parametrize("kind", KINDS)
def test_layers_that_are_not_neighbours_or_have_a_state_run_one_by_one(kind, calls):
    view = view_of(kind, layers=6)
    found = calls(view)
    view.using(plan="0, mean(1, 3), mean(4-2), mean(1.attn, 2.attn), 5").logits([1, 2, 3])
    if kind.startswith("rwkv"):
        view.using(plan="0, mean(1-4), 5").logits([1, 2, 3])
    assert not any(found)


def test_a_joint_layer_compiles_whole():
    view = view_of("llama", layers=6).using(plan="0, mean(1-4), 5")
    plain = view.logits([1, 2, 3])
    view.stack.compile_layers(backend="eager")
    assert relative(view.logits([1, 2, 3]), plain) < 1e-6


def _one_by_one(view, plan, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(view.stack.together, "allowed", False)
        return view.using(plan=plan).logits([1, 2, 3])


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("change", ["activation", "scale", "eps", "hook", "inner hook", "module"])
def test_what_others_put_into_a_layer_runs_as_it_is(change, when, monkeypatch):
    view = view_of("llama", layers=6)
    plan = "0, mean(1-4), 5"
    if when == "after":
        view.using(plan=plan).logits([1, 2, 3])
    layer, seen = view.stack.layer(2), []
    match change:
        case "activation":
            layer.ffn.activation = torch.relu
        case "scale":
            layer.attn.scale = 1.0
        case "eps":
            layer.ffn_norm.eps = 1.0
        case "hook":
            layer.register_forward_hook(lambda *_: seen.append(1))
        case "inner hook":
            layer.ffn.register_forward_pre_hook(lambda *_: seen.append(1))
        case "module":
            layer.ffn.up = Doubled(layer.ffn.up)
    found = view.using(plan=plan).logits([1, 2, 3])
    assert len(seen) == ("hook" in change)
    assert relative(found, _one_by_one(view, plan, monkeypatch)) < 1e-6


class Doubled(torch.nn.Module):
    """What an adapter does: a module around a product."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return 2 * self.inner(x)


@pytest.mark.parametrize("kind", ["offset", "windows"])
def test_norms_with_an_offset_and_layers_that_differ(kind, calls, monkeypatch):
    config = config_of("llama", layers=6)
    one = config.layers[0]
    changed = {
        "offset": replace(one, norm=replace(one.norm, offset=1.0)),
        "windows": replace(one, attn=replace(one.attn, window=2)),
    }[kind]
    layers = tuple(one if kind == "windows" and i % 2 else changed for i in range(6))
    stack = Stack(replace(config, layers=layers))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.normal_(0, 0.3, generator=generator)
    view = View(stack, None, kind, stack.full_plan())
    found, plan = calls(view), "0, mean(1-4), 5"
    joint = view.using(plan=plan).logits([1, 2, 3])
    assert sum(found) == (kind == "offset")
    assert relative(joint, _one_by_one(view, plan, monkeypatch)) < 1e-5


def test_groups_that_share_no_layer_are_each_stacked_once():
    view = view_of("llama", layers=6)
    for _ in range(3):
        view.using(plan="mean(0-1), mean(2-3), 5").logits([1, 2, 3])
    assert [pack.layers for pack in view.stack.together._packs] == [range(2), range(2, 4)]
    assert view.stack.together.moves == 2


def test_layers_stacked_without_autograd_can_still_be_trained():
    view = view_of("llama", layers=6)
    with torch.inference_mode():
        view.using(plan="0, mean(1-4), 5").logits([1, 2, 3])
    view.stack(ids_of(1, 4)).sum().backward()
    assert view.stack.layer(2).ffn.up.weight.grad is not None


def test_a_moved_or_copied_stack_lets_go_of_what_was_stacked(monkeypatch):
    view = view_of("llama", layers=6)
    plan = "0, mean(1-4), 5"
    view.using(plan=plan).logits([1, 2, 3])
    twin = View(copy.deepcopy(view.stack), None, "twin", view.plan)
    assert len(view.stack.together._packs) == 1 and not twin.stack.together._packs
    joint = twin.using(plan=plan).logits([1, 2, 3])
    assert relative(joint, _one_by_one(twin, plan, monkeypatch)) < 1e-5
    twin.stack.to(torch.float64)
    assert not twin.stack.together._packs
    joint = twin.using(plan=plan).logits([1, 2, 3])
    assert joint.dtype == torch.float64
    assert relative(joint, _one_by_one(twin, plan, monkeypatch)) < 1e-12


def test_only_what_groups_ask_for_is_stacked_and_overlaps_are_stacked_once():
    view = view_of("llama", layers=6)
    view.using(plan="0, mean(1-2), 5").logits([1, 2, 3])
    (pack,) = view.stack.together._packs
    assert pack.layers == range(1, 3)
    for _ in range(3):
        view.using(plan="mean(1-2), mean(2-4), mean(1-3)").logits([1, 2, 3])
    assert [pack.layers for pack in view.stack.together._packs] == [range(1, 5)]
    assert view.stack.together.moves == 2
