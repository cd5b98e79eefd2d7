"""Text under plans: with a cache as without it, averaged memories, caches kept, static steps."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.plans.averaged import Painter
from tests.plans.drawn import short_plans
from tests.stacks import CAUSAL, ids_of, relative, view_of
from torch import Tensor

from laminogram.errors import CacheError, ConfigError, PlanError, SiteError
from laminogram.infer.decode_graph import DecodeGraph
from laminogram.infer.past import load_past
from laminogram.plans import Plan
from laminogram.stack.conditions import check_plan
from laminogram.view import View

EXACT, CLOSE = 1e-9, 3e-5
RAGGED = [[3, 1, 4, 1, 5, 9, 2], [6, 5], [35, 8, 9, 7]]
PAINTERS = ("0, mean(1-2), 0", "mean(0-2), 1", "2, 3x(mean(2, 1)), 0")
ATTENTION = ("llama", "gpt_neox")
GROUPS = ("0, mean(1-2), 0", "2x(mean(0 | 2, 1)), 1.ffn, 1", "0.attn, sum(1, mean(0-2), 2.ffn), 2")


@cache
def doubled(kind: str) -> View:
    """A stack in fp64, where only a wrong memory is seen and no rounding. Not to be changed."""
    view = view_of(kind)
    view.stack.double()
    return view


@torch.no_grad()
def in_pieces(view: View, rows: list[list[int]], first: list[int]) -> list[Tensor]:
    """Logits (T, V) of each row: `first` of its tokens at once, the others one by one."""
    memory = view.new_cache(len(rows))
    batch = view.tokens([row[:n] for row, n in zip(rows, first)])
    found = [[x[:n]] for x, n in zip(view.run(batch, cache=memory), first)]
    for t in range(len(rows[0]) - first[0]):
        column = view.tokens([[row[n + t]] for row, n in zip(rows, first)])
        for pieces, x in zip(found, view.run(column, cache=memory)):
            pieces.append(x)
    return [torch.cat(pieces) for pieces in found]


# With a cache as without


@settings(max_examples=60, deadline=None)
@given(plan=short_plans(), kind=st.sampled_from(CAUSAL), first=st.integers(1, 7))
def test_token_by_token_equals_the_whole_under_any_plan(plan: Plan, kind: str, first: int) -> None:
    view, ids = doubled(kind).using(plan=plan), ids_of(2, 8)
    whole = view.logits(ids)
    for row, found in enumerate(in_pieces(view, ids.tolist(), [first, first])):
        assert relative(found, whole[row]) < EXACT


@settings(max_examples=30, deadline=None)
@given(
    plan=short_plans(most=10),
    kind=st.sampled_from(CAUSAL),
    first=st.lists(st.integers(1, 6), min_size=3, max_size=3),
)
def test_ragged_rows_go_on_under_any_plan(plan: Plan, kind: str, first: list[int]) -> None:
    view, ids = doubled(kind).using(plan=plan), ids_of(3, 9)
    rows = [row[: n + 3].tolist() for row, n in zip(ids, first)]
    for row, found in zip(rows, in_pieces(view, rows, first)):
        assert relative(found, view.logits([row])[0]) < EXACT


@pytest.mark.parametrize("plan", GROUPS)
@pytest.mark.parametrize("kind", CAUSAL)
def test_prompts_of_any_length_in_fp32(kind: str, plan: str) -> None:
    view, ids = view_of(kind).using(plan=plan), ids_of(1, 9)
    whole = view.logits(ids)[0]
    for first in (1, 2, 5, 8):
        assert relative(in_pieces(view, ids.tolist(), [first])[0], whole) < CLOSE


@pytest.mark.parametrize("plan", [*GROUPS, "none"])
@pytest.mark.parametrize("kind", CAUSAL)
def test_greedy_texts_are_those_without_a_cache(kind: str, plan: str) -> None:
    view = view_of(kind).using(plan=plan)
    width = max(map(len, RAGGED))
    left = torch.tensor([[0] * (width - len(row)) + row for row in RAGGED])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in RAGGED])
    made = view.generate(RAGGED, max_new_tokens=6)
    others = (
        view.generate(RAGGED, max_new_tokens=6, use_cache=False),
        view.generate(view.tokens(left, mask=mask), max_new_tokens=6),
        [view.generate(row, max_new_tokens=6) for row in RAGGED],
    )
    compared = 0
    for row, prompt in enumerate(RAGGED):
        whole = [*prompt, *made[row].tokens]
        sure = _certain(view.logits(whole)[0, len(prompt) - 1 : -1])
        compared += sure
        for other in others:
            assert other[row].tokens[:sure] == made[row].tokens[:sure]
    assert compared > 10


def _certain(logits: Tensor) -> int:
    """How many greedy choices (T, V) stand before the first that rounding could turn."""
    top = logits.topk(2).values
    narrow = (top[:, 0] - top[:, 1]) < 2e-4 * logits.abs().amax(-1)
    return int(narrow.int().argmax()) if bool(narrow.any()) else len(logits)


# Averaged keys and values


@pytest.mark.parametrize("plan", PAINTERS)
@pytest.mark.parametrize("kind", ATTENTION)
def test_the_averaged_memory_is_the_paper_s(kind: str, plan: str) -> None:
    exact = doubled(kind).using(plan=plan)
    view = exact.using(kv="averaged")
    first = [len(row) for row in RAGGED]
    rows = [row + ids_of(1, 5, seed=i)[0].tolist() for i, row in enumerate(RAGGED)]
    found = in_pieces(view, rows, first)
    for row, n, logits in zip(rows, first, found):
        painter = Painter(view, view.plan)
        wanted = [painter.read(row[:n]), *(painter.read([token]) for token in row[n:])]
        # The tables of the rotary are fp32.
        assert relative(logits, torch.cat(wanted)) < 1e-5
        whole = exact.logits([row])[0]
        assert relative(logits[:n], whole[:n]) < EXACT  # so the first new token is exact
        assert relative(logits[n:], whole[n:]) > 1e-3


@pytest.mark.parametrize("kind", ATTENTION)
def test_several_tokens_at_once_see_their_own_layer(kind: str) -> None:
    view = doubled(kind).using(plan="0, 2x(mean(1-2)), 0", kv="averaged")
    painter, memory = Painter(view, view.plan), view.new_cache(1)
    with torch.no_grad():
        for piece in ([3, 1, 4], [1, 5, 9, 2], [6], [5, 3]):
            found = view.run(view.tokens([piece]), cache=memory)[0]
            assert relative(found, painter.read(piece)) < 1e-5


@pytest.mark.parametrize("kind", ATTENTION)
def test_averaged_texts_are_the_paper_s(kind: str) -> None:
    view = view_of(kind).using(plan="0, 2x(mean(1-2)), 0", kv="averaged")
    made = view.generate(RAGGED, max_new_tokens=8)
    compared = 0
    for one, prompt in zip(made, RAGGED):
        painter = Painter(view, view.plan)
        logits = [painter.read(prompt)[-1]]
        logits += [painter.read([token])[-1] for token in one.tokens[:-1]]
        sure = _certain(torch.stack(logits))
        compared += sure
        assert [int(x.argmax()) for x in logits[:sure]] == list(one.tokens[:sure])
    assert compared > 10


@pytest.mark.parametrize("kind", ATTENTION)
def test_what_is_no_group_is_exact_under_averages(kind: str) -> None:
    ids = ids_of(2, 8)
    for plan in ("0, mean(1), 2", "2x(0-1), 2.attn", "0, mean(1, 1), 2"):
        exact, averaged = (doubled(kind).using(plan=plan, kv=kv) for kv in ("exact", "averaged"))
        found = in_pieces(averaged, ids.tolist(), [3, 3])
        for one, other in zip(found, in_pieces(exact, ids.tolist(), [3, 3])):
            assert relative(one, other) < EXACT


def test_a_group_takes_the_room_of_one_layer() -> None:
    view = view_of("llama").using(plan="0, 2x(mean(0-2)), 1")
    averaged = view.using(kv="averaged")
    memory = averaged.new_cache(1, capacity=6)
    assert view.new_cache(1, capacity=6).nbytes == 2 * memory.nbytes
    assert sorted(memory.tensors()) == sorted(f"{i}.attn.{x}" for i in (0, 1, 4, 7) for x in "kv")
    assert averaged.card().cache_bytes_per_token == averaged.new_cache(1, capacity=1).nbytes
    with pytest.raises(CacheError, match=r"kv averaged.*kv exact"):
        view.run(view.tokens([1]), cache=memory)


@pytest.mark.parametrize(
    ("kind", "plan", "message"),
    [
        ("llama", "0, sum(1-2)", r"kv='averaged' is defined for mean.*has sum\(1-2\)"),
        ("llama", "0, mean(1 | 2, 1)", r"of single layers, and the plan has mean\(1 \| 2-1\)"),
        ("llama", "mean(1.attn, 2)", r"the plan has mean\(1.attn, 2\); use kv='exact'"),
        ("llama", "mean(0, mean(1-2))", r"the plan has mean\(0, mean\(1-2\)\)"),
        ("rwkv4", "0, mean(1-2)", r"layer 1 of mean\(1-2\) has none: rwkv4 keeps a state"),
        ("rwkv7", "0, mean(1-2)", r"layer 1 of mean\(1-2\) has none: rwkv7 keeps a state"),
        ("llama", "0, mean(1, 7)", r"step 2 of the plan.*layer 7.*has layers 0-2"),
    ],
)
def test_averages_without_a_meaning_are_refused(kind: str, plan: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        view_of(kind).using(plan=plan, kv="averaged")


def test_averages_of_keys_of_different_shapes_are_refused() -> None:
    config = view_of("llama").config
    other = replace(config.layers[1], attn=replace(config.layers[1].attn, num_key_value_heads=4))
    mixed = replace(config, layers=(config.layers[0], other, config.layers[2]))
    with pytest.raises(PlanError, match=r"keys of one shape.*\(2, 8\), \(4, 8\)"):
        check_plan(Plan.parse("0, mean(1-2)"), mixed, kv="averaged")
    check_plan(Plan.parse("1, mean(0, 2)"), mixed, kv="averaged")


# Caches that are kept


CONDITIONS = [(kind, "0, 2x(mean(1 | 2, 1)), 1.ffn, 0", "exact") for kind in CAUSAL]
CONDITIONS += [
    (kind, "0, 2x(mean(1-2)), 1.ffn, 0", kv) for kind in ATTENTION for kv in ("exact", "averaged")
]


@pytest.mark.parametrize(("kind", "plan", "kv"), CONDITIONS)
def test_kept_caches_go_on_alike(kind: str, plan: str, kv: str, tmp_path: Path) -> None:
    view = view_of(kind).using(plan=plan, kv=kv)
    part = view.generate(RAGGED, max_new_tokens=3)
    part.cache.save(tmp_path / "past.safetensors")
    loaded = load_past(view, tmp_path / "past.safetensors")
    forked, twice = part.cache.fork(), part.cache.fork(2)
    single = part.cache.row(1)
    following = [[4, 4, 1], [7], [2, 3]]

    def going_on(past, rows) -> tuple[list[tuple[int, ...]], Tensor]:
        made = view.generate(rows, max_new_tokens=4, cache=past)
        with torch.no_grad():
            logits = view.run(view.tokens([[1]] * len(rows)), cache=past.cache.fork())
        return [one.tokens for one in made], logits

    expected, logits = going_on(part.cache, following)
    for past in (loaded, forked):
        texts, found = going_on(past, following)
        assert texts == expected
        assert found.equal(logits)
    texts, found = going_on(twice, [row for row in following for _ in range(2)])
    assert texts == [text for text in expected for _ in range(2)]
    assert relative(found[::2], logits) < CLOSE
    texts, found = going_on(single, [following[1]])
    assert texts == expected[1:2]
    assert relative(found[0], logits[1]) < CLOSE
    with pytest.raises(CacheError, match="filled under"):
        load_past(view.using(plan="0-2"), tmp_path / "past.safetensors")


@pytest.mark.parametrize("kv", ["exact", "averaged"])
def test_a_text_that_ended_early_keeps_its_memory(kv: str) -> None:
    view = view_of("llama").using(plan="0, 2x(mean(1-2)), 0", kv=kv)
    free = view.generate(RAGGED, max_new_tokens=8)
    eos = next(t for t in free[0].tokens[1:5] if t not in free[1].tokens)
    ending = copy.deepcopy(view)
    ending.stack.config = replace(view.config, eos_token_ids=(eos,))
    made = ending.generate(RAGGED, max_new_tokens=8)
    assert made[0].finish_reason == "eos"
    assert made[1].tokens == free[1].tokens
    alone = ending.generate(RAGGED[0], max_new_tokens=8)
    ours, theirs = made[0].cache.cache.row(0), alone.cache.cache
    assert ours.lengths == theirs.lengths
    for name, x in theirs.tensors().items():
        known = ours.tensors()[name][:, :, : ours.lengths[0]]
        torch.testing.assert_close(known, x[:, :, : ours.lengths[0]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("plan", ["0, 2x(mean(1-2)), 1.ffn, 0", "mean(0-2), sum(0-1 | 2)"])
@pytest.mark.parametrize("kind", CAUSAL)
def test_a_long_prompt_and_then_single_tokens(kind: str, plan: str) -> None:
    """Many tokens may be read another way than few: the memory serves both."""
    view, first = doubled(kind).using(plan=plan), [21, 3, 20, 21]
    rows = [row[: n + 3] for row, n in zip(ids_of(4, 24).tolist(), first)]
    for row, found in zip(rows, in_pieces(view, rows, first)):
        assert relative(found, view.logits([row])[0]) < EXACT


@pytest.mark.parametrize(("kind", "plan", "kv"), CONDITIONS)
def test_what_is_recorded_while_generating(kind: str, plan: str, kv: str) -> None:
    view = view_of(kind).using(plan=plan, kv=kv)
    gram = view.record(RAGGED, sites=["resid_post"], new_tokens=4)
    first = [len(row) for row in RAGGED]
    made = view.generate(RAGGED, max_new_tokens=4)
    exact = view.using(kv="exact")
    for row, one in enumerate(made):
        whole = exact.record([[*RAGGED[row], *one.tokens[:-1]]], sites=["resid_post"])
        # Averages differ from the second new token on.
        known = first[row] + 3 if kv == "exact" else first[row]
        for step in range(len(view.plan)):
            found = torch.tensor(gram["resid_post", step][row, :known])
            wanted = torch.tensor(whole["resid_post", step][0, :known])
            assert relative(found, wanted) < CLOSE


# Static steps


@pytest.mark.parametrize(("kind", "plan", "kv"), CONDITIONS)
def test_static_steps_under_plans_with_groups(kind: str, plan: str, kv: str) -> None:
    view = view_of(kind).using(plan=plan, kv=kv)
    tokens = ids_of(3, 6)
    first = [len(row) for row in RAGGED]
    rows = [row + more.tolist() for row, more in zip(RAGGED, tokens)]
    wanted = [x[n - 1 :] for x, n in zip(in_pieces(view, rows, first), first)]
    graph = DecodeGraph(view, rows=3, capacity=16, capture=False)
    for _ in range(2):  # a second text begins as the first did
        steps = [graph.start(RAGGED), *(graph.step(column) for column in tokens.T)]
        assert relative(torch.stack(steps, 1), torch.stack(wanted)) < CLOSE


# The plan without a step


@pytest.mark.parametrize("kind", CAUSAL)
def test_generation_under_the_empty_plan(kind: str, tmp_path: Path) -> None:
    view = view_of(kind).using(plan="none")
    made = view.generate(RAGGED, max_new_tokens=4)
    for one, prompt in zip(made, RAGGED):
        last = prompt[-1]
        for token in one.tokens:
            assert token == int(view.logits([last])[0, -1].argmax())
            last = token
    made.cache.save(tmp_path / "past.safetensors")
    loaded = load_past(view, tmp_path / "past.safetensors")
    rest = [view.generate(None, max_new_tokens=3, cache=past) for past in (made.cache, loaded)]
    assert [one.tokens for one in rest[0]] == [one.tokens for one in rest[1]]
    with pytest.raises(SiteError, match="plan none"):
        view.record(RAGGED, sites=["ffn_out"])


def test_the_averaged_memory_needs_a_cache() -> None:
    view = view_of("llama").using(plan="0, mean(1-2)", kv="averaged")
    with pytest.raises(ConfigError, match="use_cache"):
        view.generate([1, 2], max_new_tokens=2, use_cache=False)
