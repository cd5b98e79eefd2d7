"""Mixtures of experts: routing, sites and edits, beside a naive reference; sizes as published."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.stacks import WIDTH, ids_of, relative, stack_of, view_of
from torch import nn

from laminogram import edits
from laminogram.errors import ConfigError, EditError, SiteError
from laminogram.probe.gram import Gram
from laminogram.stack.config import MLPConfig, MoEConfig
from laminogram.stack.mixers.moe import MoE
from laminogram.stack.stack import Stack
from laminogram.stack.taps import NO_TAPS, Taps
from laminogram.view import View

CLOSE = 1e-5


@st.composite
def configs(draw):
    groups = draw(st.sampled_from([1, 2, 3]))
    size = draw(st.integers(2, 4))
    reach = draw(st.integers(1, groups))
    return MoEConfig(
        num_experts=groups * size,
        num_experts_per_tok=draw(st.integers(1, reach * size)),
        intermediate_size=draw(st.integers(1, 9)),
        activation=draw(st.sampled_from(["silu", "relu"])),
        scoring=draw(st.sampled_from(["softmax", "sigmoid"])),
        router_fp32=draw(st.booleans()),
        norm_topk_prob=draw(st.booleans()),
        routed_scaling_factor=draw(st.sampled_from([1.0, 2.5])),
        correction_bias=draw(st.booleans()),
        n_group=groups,
        topk_group=reach,
        best_of_group=draw(st.integers(1, 2)),
        shared_intermediate_size=draw(st.sampled_from([None, 5])),
        shared_gate=draw(st.booleans()),
    )


def drawn(config, seed=0, size=8):
    torch.manual_seed(seed)
    moe = MoE(config, size)
    for parameter in moe.parameters():
        nn.init.normal_(parameter, std=0.6)
    return moe


def naive(moe, x):
    """Token by token, from the raw weights: `x (C,) -> (weights (E,), out (C,))`."""
    config, p = moe.config, {key: value.detach().double() for key, value in moe.named_parameters()}
    activation = {"silu": lambda a: a * a.sigmoid(), "relu": lambda a: a.clamp(min=0)}
    act = activation[config.activation]

    def network(name):
        inner = act(p[f"{name}.gate.weight"] @ x) * (p[f"{name}.up.weight"] @ x)
        return p[f"{name}.down.weight"] @ inner

    raw = p["router.weight"] @ x
    scores = raw.exp() / raw.exp().sum() if config.scoring == "softmax" else raw.sigmoid()
    merit = (scores + p["correction"] if config.correction_bias else scores).tolist()
    size = config.num_experts // config.n_group
    groups = [range(g * size, (g + 1) * size) for g in range(config.n_group)]

    def worth(group):
        return sum(sorted((merit[e] for e in group), reverse=True)[: config.best_of_group])

    open_groups = sorted(groups, key=worth, reverse=True)[: config.topk_group]
    open_experts = [e for group in open_groups for e in group]
    chosen = sorted(open_experts, key=lambda e: -merit[e])[: config.num_experts_per_tok]
    total = sum(float(scores[e]) for e in chosen) if config.norm_topk_prob else 1.0
    weights, out = torch.zeros(config.num_experts, dtype=torch.float64), torch.zeros_like(x)
    for e in chosen:
        weights[e] = scores[e] / total * config.routed_scaling_factor
        out = out + weights[e] * network(f"experts.{e}")
    if config.shared_intermediate_size:
        gate = (p["shared_gate.weight"] @ x).sigmoid() if config.shared_gate else 1.0
        out = out + gate * network("shared")
    return weights, out


@settings(deadline=None, max_examples=60)
@given(config=configs(), seed=st.integers(0, 99))
def test_both_paths_are_the_naive_one(config, seed):
    moe = drawn(config, seed).double()
    h = torch.randn(2, 5, 8, dtype=torch.float64)
    want = [[naive(moe, x) for x in row] for row in h]
    weights = torch.stack([torch.stack([w for w, _ in row]) for row in want])
    outs = torch.stack([torch.stack([out for _, out in row]) for row in want])
    taps = Taps(["router", "experts", "ffn_act"])
    fast, every = moe(h, None, None, NO_TAPS), moe(h, None, None, taps)
    torch.testing.assert_close(fast, outs)
    torch.testing.assert_close(every, outs)
    torch.testing.assert_close(taps.out["router"], weights)
    chosen = torch.zeros_like(weights).scatter(-1, taps.out["experts"], 1) > 0
    assert torch.equal(chosen, weights != 0)
    assert not taps.out["ffn_act"][~chosen].any()


@settings(deadline=None, max_examples=20)
@given(config=configs(), seed=st.integers(0, 99))
def test_gradients_flow_on_both_paths(config, seed):
    moe = drawn(config, seed).double()
    h = torch.randn(2, 5, 8, dtype=torch.float64, requires_grad=True)
    found = []
    for taps in (NO_TAPS, Taps(["ffn_act"])):
        moe.zero_grad()
        h.grad = None
        moe(h, None, None, taps).square().sum().backward()
        # An expert that no token met has no gradient on the one path, and zeros on the other.
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in moe.parameters()]
        found.append([h.grad, *grads])
        # The weight of a single expert that is divided by itself is 1 whatever the router says.
        constant = config.norm_topk_prob and config.num_experts_per_tok == 1
        assert constant or config.activation == "relu" or moe.router.weight.grad.any()
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    assert not config.correction_bias or moe.correction.grad is None


@torch.no_grad()
def test_a_token_is_not_changed_by_its_neighbours():
    moe = drawn(stack_of("moe").config.layers[0].ffn, size=WIDTH)
    h = torch.randn(3, 7, WIDTH)
    alone = torch.cat([moe(h[:, t : t + 1], None, None, NO_TAPS) for t in range(7)], 1)
    together = moe(h, None, None, NO_TAPS)
    assert relative(together, alone) < CLOSE
    h[1] = 1e4  # as what stands at pads may be
    assert relative(moe(h, None, None, NO_TAPS)[[0, 2]], alone[[0, 2]]) < CLOSE


@torch.no_grad()
def test_fp16_does_not_overflow():
    config = MoEConfig(
        num_experts=4, num_experts_per_tok=2, intermediate_size=16, activation="silu",
        shared_intermediate_size=8,
    )  # fmt: skip
    moe, h = drawn(config), torch.randn(1, 4, 8) * 60
    for name, parameter in moe.named_parameters():
        parameter.data.mul_(1 if "router" in name else 5)
    exact = moe(h, None, None, NO_TAPS)
    assert exact.abs().max() > 65504
    half = moe.half()(h.half(), None, None, NO_TAPS)
    assert half.dtype == torch.float32
    assert relative(half, exact) < 0.02


def test_the_correction_keeps_its_precision():
    moe = drawn(stack_of("moe").config.layers[0].ffn, size=WIDTH)
    before = moe.correction.clone()
    moe.to(torch.bfloat16)
    assert moe.router.weight.dtype == torch.bfloat16
    assert torch.equal(moe.correction, before)
    assert moe.double().correction.dtype == torch.float64
    with torch.device("meta"):
        empty = MoE(moe.config, WIDTH).to(torch.bfloat16)
    assert empty.to_empty(device="cpu").correction.dtype == torch.float32
    name, view = "layers.0.ffn.correction", view_of("moe")
    kept = view.using(precision="bf16").stack.get_parameter(name)
    assert torch.equal(kept, view.stack.get_parameter(name))


def test_what_is_recorded_explains_the_output():
    view, ids = view_of("moe"), ids_of(2, 6)
    gram = view.record(ids, sites=["router", "experts", "ffn_act", "ffn_in", "ffn_out"])
    ffn = view.stack.layers[1].ffn
    config = ffn.config
    router, acts = gram.tensor("router", 1), gram.tensor("ffn_act", 1)
    assert router.shape == (2, 6, config.num_experts)
    assert acts.shape == (2, 6, config.num_experts, config.intermediate_size)
    assert ((router != 0).sum(-1) == config.num_experts_per_tok).all()
    torch.testing.assert_close(router.sum(-1), torch.full((2, 6), config.routed_scaling_factor))
    parts = [ffn.expert(e).down(acts[:, :, e]) * router[..., e, None] for e in range(6)]
    shared = ffn.shared(gram.tensor("ffn_in", 1), None, None, NO_TAPS)
    assert relative(sum(parts) + shared, gram.tensor("ffn_out", 1)) < CLOSE
    assert gram.tensor("experts", 1).dtype == torch.int64


def test_experts_are_selected_by_number():
    view, ids = view_of("moe"), ids_of(2, 6)
    plain = view.record(ids, sites=["router", "ffn_act", "ffn_out"], layers=0)
    cut = edits.zero("router", experts=[1, 4], layers=0)
    gram = view.using(edits=cut).record(ids, sites=["router", "ffn_act", "ffn_out"], layers=0)
    assert not gram["router", 0][..., [1, 4]].any()
    others = [0, 2, 3, 5]
    assert (gram["router", 0][..., others] == plain["router", 0][..., others]).all()
    # The same from the other side: an expert that answers nothing.
    silent = edits.zero("ffn_act", experts=[1, 4], layers=0)
    other = view.using(edits=silent).record(ids, sites=["ffn_out"], layers=0)
    assert relative(gram.tensor("ffn_out", 0), other.tensor("ffn_out", 0)) < CLOSE
    one = edits.scale("ffn_act", 2.0, experts=3, channels=[0], layers=0)
    doubled = view.using(edits=one).record(ids, sites=["ffn_act"], layers=0)
    changed = doubled["ffn_act", 0] != plain["ffn_act", 0]
    assert changed[:, :, 3, 0].any()
    changed[:, :, 3, 0] = False
    assert not changed.any()


def test_an_edit_of_the_router_sends_tokens_elsewhere():
    view, ids = view_of("moe", layers=1), ids_of(1, 5)
    moved = view.using(edits=[edits.zero("router"), edits.set_to("router", 1.0, experts=[2])])
    gram = moved.record(ids, sites=["ffn_in", "ffn_out", "experts"])
    ffn, h = view.stack.layers[0].ffn, gram.tensor("ffn_in", 0)
    want = ffn.expert(2)(h, None, None, NO_TAPS) + ffn.shared(h, None, None, NO_TAPS)
    assert relative(gram.tensor("ffn_out", 0), want) < CLOSE
    # What the router chose is not what ran, and is still there to read.
    plain = view.record(ids, sites=["experts"])
    assert (gram["experts", 0] == plain["experts", 0]).all()


def test_a_card_tells_what_a_token_meets():
    card = view_of("moe").card()
    assert card.parameter_total - card.active_parameters == 3 * 4 * (3 * WIDTH * 16)
    assert f"active         {card.active_parameters:,}" in str(card)
    dense = view_of("llama").card()
    assert dense.active_parameters == dense.parameter_total
    assert "active" not in str(dense)


def test_what_does_not_exist_is_named():
    view, ids = view_of("moe"), ids_of(1, 4)
    with pytest.raises(SiteError, match=r"expert 6 of 'router' does not exist: there are 0-5"):
        view.using(edits=edits.zero("router", experts=6)).run(view.tokens(ids))
    with pytest.raises(EditError, match="no axis of experts"):
        view.using(edits=edits.zero("ffn_out", experts=0)).run(view.tokens(ids))
    with pytest.raises(EditError, match="can only be read"):
        view.using(edits=edits.zero("experts")).run(view.tokens(ids))
    with pytest.raises(SiteError, match="no site 'router'"):
        view_of("llama").record(ids, sites=["router"])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"n_group": 4}, "6 experts cannot be dealt into 4"),
        ({"n_group": 3, "topk_group": 4}, "topk_group is 4; there are 3"),
        ({"n_group": 3, "best_of_group": 3}, "best 3, and has 2"),
        ({"n_group": 3, "num_experts_per_tok": 3}, "per_tok is 3; a token can choose among 2"),
    ],
)
def test_numbers_that_do_not_fit(fields, said):
    base = {"num_experts": 6, "num_experts_per_tok": 2, "intermediate_size": 4}
    with pytest.raises(ConfigError, match=said):
        MoE(MoEConfig(**base | {"activation": "silu"} | fields), 8)


def mixed():
    """A stack whose first layer is dense, as DeepSeek's are."""
    stack = stack_of("moe")
    dense = MLPConfig(intermediate_size=24, activation="silu", gated=True)
    layers = (replace(stack.config.layers[0], ffn=dense), *stack.config.layers[1:])
    torch.manual_seed(1)
    stack = Stack(replace(stack.config, layers=layers))
    for parameter in stack.parameters():
        nn.init.normal_(parameter, std=0.3)
    return View(stack, None, "mixed", stack.full_plan())


def test_layers_of_both_kinds_in_one_gram(tmp_path):
    view = mixed()
    gram = view.record(ids_of(2, 5), sites=["ffn_act", "router", "resid_post"])
    assert (gram.axes("ffn_act", 0), gram.axes("ffn_act", 1)) == (tuple("BTF"), tuple("BTEF"))
    assert gram.tensor("ffn_act", 2).shape == (2, 5, 6, 16)
    assert "vary" in repr(gram)
    gram.save(tmp_path / "gram")
    again = Gram.load(tmp_path / "gram")
    assert [again.axes("ffn_act", step) for step in range(3)] == [
        gram.axes("ffn_act", step) for step in range(3)
    ]
    both = Gram.concatenate([gram, again])
    assert both.tensor("ffn_act", 1).shape == (4, 5, 6, 16)
    assert repr(again) == repr(gram)
