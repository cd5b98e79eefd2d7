"""Invariants of the one forward path: steps, caches, batches, precisions, devices, gradients."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.stacks import CAUSAL, KINDS, ids_of, relative, view_of

from laminogram.errors import CacheError, TokenError
from laminogram.stack.mixers.rwkv7 import V_FIRST

CLOSE = 2e-5
PLANS = ("0-2", "0, 2", "2-0", "0, 1, 1, 1-2", "0.attn, 1, 2.ffn, 0")


def in_pieces(view, ids, cuts, **how):
    """Logits of rows fed piece by piece through a cache."""
    cache = view.new_cache(ids.shape[0], **how)
    edges = [0, *sorted(cuts), ids.shape[1]]
    with torch.no_grad():
        outs = [
            view.run(view.tokens(ids[:, a:b]), cache=cache)
            for a, b in itertools.pairwise(edges)
            if b > a
        ]
    return torch.cat(outs, 1)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("kind", CAUSAL)
def test_token_by_token_equals_the_whole_sequence(kind, plan):
    view = view_of(kind).using(plan=plan)
    ids = ids_of(2, 11)
    assert relative(in_pieces(view, ids, range(1, 11)), view.logits(ids)) < CLOSE


@settings(max_examples=10, deadline=None)
@given(cuts=st.sets(st.integers(1, 22)), kind=st.sampled_from(CAUSAL))
def test_a_text_may_be_cut_anywhere(cuts, kind):
    view, ids = view_of(kind), ids_of(1, 23)
    assert relative(in_pieces(view, ids, cuts), view.logits(ids)) < CLOSE


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_equals_its_rows(kind, side):
    view, lengths = view_of(kind), (5, 12, 1)
    rows = [ids_of(1, n, seed=n)[0] for n in lengths]
    tokens, mask = torch.zeros(3, 12, dtype=torch.long), torch.zeros(3, 12, dtype=torch.bool)
    for i, row in enumerate(rows):
        place = slice(12 - len(row), 12) if side == "left" else slice(0, len(row))
        tokens[i, place], mask[i, place] = row, True
    together = view.logits(tokens, mask=mask)
    for i, row in enumerate(rows):
        assert relative(together[i][mask[i]], view.logits(row)[0]) < CLOSE


@pytest.mark.parametrize("kind", CAUSAL)
def test_ragged_rows_go_on_from_a_cache(kind):
    view, ids, lengths = view_of(kind), ids_of(3, 14), (3, 13, 8)
    cache = view.new_cache(3)
    with torch.no_grad():
        view.run(view.tokens([row[:n].tolist() for row, n in zip(ids, lengths)]), cache=cache)
        following = [row[n : n + 1].tolist() for row, n in zip(ids, lengths)]
        found = view.run(view.tokens(following), cache=cache)
    whole = view.logits(ids)
    for i, n in enumerate(lengths):
        assert relative(found[i, 0], whole[i, n]) < CLOSE
    assert cache.lengths == [4, 14, 9]


@pytest.mark.parametrize("kind", CAUSAL)
def test_last_logits_are_those_of_each_last_token(kind):
    view = view_of(kind)
    rows = [ids_of(1, n, seed=n)[0].tolist() for n in (4, 9)]
    with torch.no_grad():
        last = view.run(view.tokens(rows), logits="last")
    for found, row in zip(last, rows):
        assert relative(found[0], view.logits(row)[0, -1]) < CLOSE


@pytest.mark.parametrize("kind", CAUSAL)
def test_a_forked_cache_goes_its_own_way(kind):
    view, ids = view_of(kind), ids_of(1, 6)
    cache = view.new_cache(1)
    with torch.no_grad():
        view.run(view.tokens(ids), cache=cache)
        before = {name: x.clone() for name, x in cache.tensors().items()}
        fork = cache.fork(2)
        found = view.run(view.tokens([[1], [2]]), cache=fork)
    assert all(x.equal(before[name]) for name, x in cache.tensors().items())
    for i, following in enumerate((1, 2)):
        whole = view.logits(torch.cat((ids, torch.tensor([[following]])), 1))
        assert relative(found[i, 0], whole[0, -1]) < CLOSE


@pytest.mark.parametrize("kind", CAUSAL)
def test_a_state_can_be_saved_and_loaded(kind, tmp_path):
    from safetensors.torch import load_file, save_file

    view, ids = view_of(kind), ids_of(2, 6)
    cache = view.new_cache(2)
    with torch.no_grad():
        view.run(view.tokens(ids), cache=cache)
        save_file(cache.tensors(), tmp_path / "state.safetensors")
        again = view.new_cache(2)
        again.load_tensors(load_file(tmp_path / "state.safetensors"))
        again.lengths, again.regime = list(cache.lengths), cache.regime
        one = view.run(view.tokens([[3], [4]]), cache=cache)
        two = view.run(view.tokens([[3], [4]]), cache=again)
    assert one.equal(two)


def test_a_cache_refuses_other_conditions():
    view = view_of("llama")
    cache = view.new_cache(1)
    with torch.no_grad():
        view.run(view.tokens([1, 2]), cache=cache)
        with pytest.raises(CacheError, match="filled under"):
            view.using(plan="0, 2").run(view.tokens([3]), cache=cache)
        with pytest.raises(CacheError, match="1 rows, this run has 2"):
            view.run(view.tokens([[3], [4]]), cache=cache)


def test_an_encoder_has_no_cache():
    view = view_of("bert")
    with pytest.raises(CacheError, match="both ways"), torch.no_grad():
        view.run(view.tokens([1, 2]), cache=view.new_cache(1))


def test_learned_positions_end():
    with pytest.raises(TokenError, match="65 tokens in a row, but the model learned 64"):
        view_of("bert").logits(torch.zeros(1, 65, dtype=torch.long))


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("kind", ("llama", "rwkv4", "rwkv6", "rwkv7"))
def test_fp16_sites_are_the_true_values_where_fp16_would_overflow(kind, plan):
    view = view_of(kind)
    with torch.no_grad():
        for name, parameter in view.stack.named_parameters():
            if name.endswith(("o.weight", "down.weight")):
                parameter.mul_(3e4)
            parameter.copy_(parameter.half())  # so that only the arithmetic differs
    ids, sites = ids_of(2, 9), ["attn_out", "ffn_out", "ffn_act", "resid_post"]
    true = view.using(plan=plan).record(ids, sites=sites)
    half = view.using(plan=plan, precision="fp16").record(ids, sites=sites)
    assert abs(true["resid_post"]).max() > 2 * torch.finfo(torch.float16).max
    for key in true:
        found, expected = torch.tensor(half[key]), torch.tensor(true[key])
        assert bool(found.isfinite().all())
        # RWKV-6 norms each head's answer last: what rounding leaves of a small one is enlarged.
        assert relative(found, expected) < (0.05 if kind == "rwkv6" else 0.02), key


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_family_runs_in_half_precision(kind, precision):
    view, ids = view_of(kind), ids_of(2, 6)
    with torch.no_grad():
        for parameter in view.stack.parameters():
            parameter.copy_(parameter.to(torch.bfloat16))
    half = view.using(precision=precision).logits(ids).float()
    assert relative(half, view.logits(ids)) < (0.02 if precision == "fp16" else 0.2)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_may_lie_on_several_devices(kind):
    view, ids = view_of(kind), ids_of(2, 7)
    expected = view.logits(ids)
    view.stack.place(["cpu", "cpu"])
    assert view.logits(ids).equal(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_that_runs_twice_adds_both_gradients(kind):
    view, ids = view_of(kind), ids_of(1, 5)
    layer = view.stack.layers[1]
    name = "ffn.router.weight" if kind == "moe" else "ffn.down.weight"

    def gradient(plan):
        view.stack.zero_grad()
        view.using(plan=plan).run(view.tokens(ids)).square().mean().backward()
        return layer.get_parameter(name).grad.clone()

    twice = gradient("0, 1, 1, 2")
    twin = view_of(kind)
    # The same computation with a copy of layer 1 as a layer of its own.
    import copy

    twin.stack.layers.append(copy.deepcopy(twin.stack.layers[1]))
    from laminogram.plans import Plan
    from laminogram.stack.forward import run

    run(twin.stack, twin.tokens(ids), Plan([0, 1, 3, 2])).square().mean().backward()
    apart = [twin.stack.layers[i].get_parameter(name).grad for i in (1, 3)]
    assert relative(twice, apart[0] + apart[1]) < CLOSE


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_agree_with_finite_differences(kind):
    view = view_of(kind, layers=2)
    view.stack.double()
    ids = ids_of(1, 4)
    parameters = dict(view.stack.named_parameters())
    view.run(view.tokens(ids)).square().mean().backward()
    values_of = {"latent": "kv_b"}.get(kind, "v")
    up = "router" if kind == "moe" else "up"
    for name in (
        "layers.0.attn_norm.weight",
        f"layers.1.attn.{values_of}.weight",
        f"layers.1.ffn.{up}.weight",
    ):
        parameter, place = parameters[name], (0,) * parameters[name].dim()
        with torch.no_grad():
            values = []
            for change in (1e-6, -2e-6):
                parameter[place] += change
                values.append(view.run(view.tokens(ids)).square().mean().item())
            parameter[place] += 1e-6
        estimate = (values[0] - values[1]) / 2e-6
        assert parameter.grad[place].item() == pytest.approx(estimate, rel=1e-4, abs=1e-9)


def test_v_first_comes_from_the_embedding_under_every_plan():
    view, ids = view_of("rwkv7"), ids_of(1, 6)
    full = view.record(ids, sites=["v_first", "v"])
    cut = view.using(plan="1-2").record(ids, sites=["v_first"])
    assert (full[V_FIRST] == cut[V_FIRST]).all()
    # Layer 0 in its own place computes the very values that it provides.
    assert (full[V_FIRST][0] == full["v"][0]).all()


def test_v_first_may_come_from_the_first_step_instead():
    view, ids = view_of("rwkv7"), ids_of(1, 6)
    first = view.using(v_first="first-step")
    assert relative(first.logits(ids), view.logits(ids)) < CLOSE
    cut, cut_first = view.using(plan="1-2"), first.using(plan="1-2")
    assert relative(cut_first.logits(ids), cut.logits(ids)) > 1e-3
    assert relative(in_pieces(cut_first, ids, range(1, 6)), cut_first.logits(ids)) < CLOSE


@pytest.mark.parametrize("kind", CAUSAL)
def test_a_cache_in_which_a_run_broke_off_is_not_gone_on_from(kind, monkeypatch):
    view = view_of(kind)
    cache = view.new_cache(1)
    with torch.no_grad():
        view.run(view.tokens([1, 2]), cache=cache)
        monkeypatch.setattr(view.stack.layers[2], "forward", None)
        with pytest.raises(TypeError):
            view.run(view.tokens([3]), cache=cache)
        monkeypatch.undo()
        with pytest.raises(CacheError, match="broke off"):
            view.run(view.tokens([3]), cache=cache)


@pytest.mark.parametrize("kind", CAUSAL)
def test_no_gradient_is_kept_through_a_cache(kind):
    view = view_of(kind)
    cache = view.new_cache(1)
    for token in (1, 2, 3):
        assert not view.run(view.tokens([token]), cache=cache).requires_grad


@pytest.mark.parametrize("wanted", ["all", "last", "none"])
def test_an_edit_of_the_logits_acts_whatever_is_wanted_of_them(wanted):
    from laminogram import edits

    view = view_of("llama").using(edits=edits.set_to("logits", 7.0, positions=[1]))
    with torch.no_grad():
        out = view.run(view.tokens([1, 2]), logits=wanted)
    if wanted != "none":
        assert bool((out[:, -1] == 7).all())


@pytest.mark.parametrize("kind", CAUSAL)
def test_one_row_and_one_token_is_as_exact_as_any(kind):
    """A single row may take a shorter path: it is the same row as in a batch."""
    view, ids = view_of(kind), ids_of(1, 20)
    view.stack.double()
    pair = in_pieces(view, ids.repeat(2, 1), range(1, 20))
    single = in_pieces(view, ids, range(1, 20))
    assert relative(single[0], pair[0]) < 1e-12


def test_pads_beyond_the_longest_row_are_not_computed():
    batch = view_of("llama").tokens(
        torch.ones(1, 64, dtype=torch.long), mask=torch.arange(64)[None] < 3
    )
    assert batch.shape == (1, 3)


@pytest.mark.parametrize("decay", [0.0, 1e-3, 1.5])
@pytest.mark.parametrize("kind", ["rwkv6", "rwkv7"])
def test_a_decay_that_no_model_has_is_the_same_in_a_text_and_by_tokens(kind, decay):
    from laminogram import edits

    edit = edits.set_to("w", decay, layers=[1], positions=range(3, 39))
    view, ids = view_of(kind).using(edits=[edit]), ids_of(2, 40)
    whole = view.logits(ids)
    assert relative(in_pieces(view, ids, range(1, 40)), whole) < CLOSE
