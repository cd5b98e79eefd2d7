"""Latent attention: one small memory, paths that agree, edits that a cache keeps."""

from __future__ import annotations

import pytest
import torch
from tests.stacks import ids_of, relative, view_of

from laminogram import edits
from laminogram.errors import PlanError
from laminogram.infer.decode_graph import DecodeGraph
from laminogram.infer.past import Past, load_past
from laminogram.plans import Plan

EXACT = 1e-10


def exact_view():
    view = view_of("latent")
    view.stack.double()
    return view


def stepwise(view, ids, prompt=4, sites=()):
    """Logits (B, T, V) of a prompt and then one token at a time, and the cache."""
    program = view.program(reads={step: set(sites) for step in range(3)} if sites else None)
    cache, parts = view.new_cache(len(ids)), []
    for start, end in [(0, prompt), *((t, t + 1) for t in range(prompt, ids.shape[1]))]:
        parts.append(view.run(view.tokens(ids[:, start:end]), cache=cache, observer=program))
    return torch.cat(parts, 1), cache


@pytest.mark.parametrize("sites", [(), ("pattern",), ("k", "v")])
def test_every_path_gives_the_same(sites):
    """Without a site one token reads the latents themselves; with one, keys and values."""
    view, ids = exact_view(), ids_of(2, 9)
    whole = view.run(view.tokens(ids))
    steps, _ = stepwise(view, ids, sites=sites)
    assert relative(steps, whole) < EXACT


def test_keys_and_values_come_from_the_latent():
    view, ids = exact_view(), ids_of(2, 7)
    attn = view.stack.layers[1].attn
    gram = view.record(ids, sites=["q", "latent", "k", "v", "pattern", "z"], layers=1)
    latent, q, k, v = (gram.tensor(site, 1) for site in ("latent", "q", "k", "v"))
    assert (q.shape, k.shape, v.shape) == ((2, 7, 4, 10), (2, 7, 4, 10), (2, 7, 4, 8))
    rows = attn.kv_b.weight.view(4, 6 + 8, 10)
    low, turned = latent[..., :10], latent[..., 10:]
    torch.testing.assert_close(k[..., :6], torch.einsum("btr,hdr->bthd", low, rows[:, :6]))
    torch.testing.assert_close(v, torch.einsum("btr,hdr->bthd", low, rows[:, 6:]))
    assert (k[..., 6:] == turned[:, :, None]).all()
    scores = torch.einsum("bthd,bshd->bhts", q, k) * 10**-0.5
    pattern = scores.masked_fill(~torch.ones(7, 7).tril().bool(), float("-inf")).softmax(-1)
    torch.testing.assert_close(gram.tensor("pattern", 1).double(), pattern, rtol=1e-5, atol=1e-6)
    z = torch.einsum("bhts,bshd->bthd", pattern, v)
    torch.testing.assert_close(gram.tensor("z", 1), z, rtol=1e-5, atol=1e-6)


def test_the_cache_holds_one_latent_a_token():
    view, ids = view_of("latent"), ids_of(2, 6)
    _, cache = stepwise(view, ids, sites=("k", "pattern"))
    assert {x.shape[1] for x in cache.tensors().values()} == {1}
    assert {x.shape[3] for x in cache.tensors().values()} == {14}
    assert view.card().cache_bytes_per_token == 3 * 14 * 4
    assert view.card().state_bytes == 0


CHANGES = {
    "k": edits.zero("k", heads=2),
    "v": edits.scale("v", 3.0, heads=[0, 1], layers=1),
    "k at one place": edits.set_to("k", 0.5, positions=2),
    "new v": edits.zero("v", phase="new", heads=3),
    "latent": edits.zero("latent", channels=[1, 12]),
    "pattern": edits.scale("pattern", 0.5, heads=1),
}


@pytest.mark.parametrize("name", CHANGES)
def test_an_edited_text_is_the_same_with_a_cache(name):
    view, ids = exact_view().using(edits=CHANGES[name]), ids_of(2, 9)
    steps, cache = stepwise(view, ids, prompt=4)
    program = view.program()
    program.prompt_lengths = (4, 4)
    whole = view.run(view.tokens(ids), observer=program)
    plain = exact_view()
    assert relative(whole, plain.run(plain.tokens(ids))) > 1e-3
    assert relative(steps, whole) < EXACT
    # Keys and values are kept beside the latents only where an edit has written to them.
    written = any(name.endswith(".k") for name in cache.tensors())
    assert written == (CHANGES[name].site in "kv")


@pytest.mark.parametrize("name", ["k", "latent"])
def test_copies_and_files_of_a_cache(name, tmp_path):
    view, ids = exact_view().using(edits=CHANGES[name]), ids_of(2, 6)
    _, cache = stepwise(view, ids)
    past = Past(cache, ids.tolist(), [4, 4])
    past.save(tmp_path / "past")
    again = load_past(view, tmp_path / "past").cache
    more = ids_of(2, 2, seed=5)
    want = view.run(view.tokens(more), cache=cache.fork())
    assert torch.equal(view.run(view.tokens(more), cache=again), want)
    second = view.run(view.tokens(more[1:]), cache=cache.row(1))
    assert relative(second, want[1:]) < EXACT


@pytest.mark.parametrize("change", [None, "k", "latent"])
def test_a_step_with_static_buffers(change):
    view = exact_view() if change is None else exact_view().using(edits=CHANGES[change])
    ids = ids_of(2, 10)
    want, _ = stepwise(view, ids, prompt=4)
    graph = DecodeGraph(view, rows=2, capacity=16, capture=False)
    for _ in range(2):  # the second time over what the first one left
        found = [graph.start([row[:4].tolist() for row in ids])]
        found += [graph.step(ids[:, t]) for t in range(4, 10)]
        assert relative(torch.stack(found, 1), want[:, 3:]) < EXACT


def test_an_average_of_keys_is_refused():
    view = view_of("latent").using(plan=Plan.parse("0, mean(1-2)"))
    with pytest.raises(PlanError, match=r"layer 1 of mean\(1-2\) has none: latent keeps a latent"):
        view.using(kv="averaged").new_cache(1)


def test_a_loop_generates_the_same_with_a_cache():
    view, ids = exact_view().using(plan="0, 2x(1), mean(1, 2)"), ids_of(2, 8)
    steps, _ = stepwise(view, ids)
    assert relative(steps, view.run(view.tokens(ids))) < EXACT
