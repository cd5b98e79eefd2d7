"""The builders against the paper's definitions, written out once more here."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laminogram.errors import PlanError
from laminogram.plans import Plan, builders
from laminogram.plans.builders import Variant, build, variants

SEQUENCES = ("skip", "reverse", "random", "middle_repeat", "parallel", "looped")


@st.composite
def middles(draw):
    layers = draw(st.integers(2, 40))
    return layers, draw(st.integers(0, layers // 2 - 1))


def layers_of(plan):
    return [step.layer for step in plan]


@given(middles(), st.integers(0, 50))
def test_sequences_are_the_papers(middle, seed):
    T, N = middle
    pre, mid, post = list(range(N + 1)), list(range(N + 1, T - N)), list(range(T - N, T))
    assert len(mid) == T - 2 * N - 1
    shuffled = list(mid)
    random.seed(seed)
    random.shuffle(shuffled)
    expected = {
        "skip": pre + post,
        "reverse": pre + mid[::-1] + post,
        "random": pre + shuffled + post,
        "middle_repeat": pre + [T // 2] * len(mid) + post,
    }
    for name, order in expected.items():
        settings = {"seed": seed} if name == "random" else {}
        plan = build(name, T, start=N, **settings)
        assert layers_of(plan) == order, name
        assert plan.groups == ()
        assert build(name, T, affected=len(mid), **settings) == plan


@given(middles(), st.integers(1, 5))
def test_parallel_middles_are_means_of_single_layers(middle, repeats):
    T, N = middle
    M = T - 2 * N - 1
    mid = f"mean({N + 1}-{T - N - 1})"
    post = f", {T - N}-{T - 1}" if N else ""
    assert build("parallel", T, start=N) == Plan.parse(f"0-{N}, {mid}{post}")
    looped = build("looped", T, start=N, repeats=repeats)
    assert looped == Plan.parse(f"0-{N}, {repeats}x({mid}){post}")
    assert looped.cost().layer_calls == 2 * N + 1 + repeats * M
    assert looped.cost().depth == 2 * N + 1 + repeats
    assert all(group.kind == "mean" and group.single for group in looped.groups)


@given(middles())
def test_layer_calls_are_as_counted(middle):
    T, N = middle
    calls = {name: build(name, T, start=N).cost().layer_calls for name in SEQUENCES}
    same = dict.fromkeys(("reverse", "random", "middle_repeat", "parallel"), T)
    assert calls == {**same, "skip": 2 * N + 1, "looped": 2 * N + 1 + 3 * (T - 2 * N - 1)}


@given(st.integers(1, 20), st.integers(0, 9))
def test_with_one_affected_layer_most_variants_are_the_full_stack(half, seed):
    T = 2 * half
    full = Plan.full(T)
    for name in ("reverse", "middle_repeat", "parallel"):
        assert build(name, T, affected=1) == full
    assert build("random", T, affected=1, seed=seed) == full
    centre = T // 2
    assert layers_of(build("skip", T, affected=1)) == [i for i in range(T) if i != centre]
    assert layers_of(build("looped", T, affected=1)).count(centre) == 3


@pytest.mark.parametrize(
    ("name", "settings", "text"),
    [
        ("full", {}, "0-31"),
        ("skip_one", {"layer": 12}, "0-11, 13-31"),
        ("swap", {"layer": 5}, "0-4, 6-5, 7-31"),
        ("swap", {"layer": 30}, "0-29, 31-30"),
        ("reverse", {"start": 7}, "0-7, 24-8, 25-31"),
        ("middle_repeat", {"start": 7}, "0-7, 17x(16), 25-31"),
        ("skip", {"start": 13}, "0-13, 19-31"),
        ("remove_block", {"first": 21, "last": 28}, "0-20, 29-31"),
        ("upscale", {"remove": 8}, "0-7, 2x(8-23), 24-31"),
        ("repeat_block", {"i": 3, "j": 6}, "0-2, 2x(3-5), 6-31"),
        ("repeat_block", {"i": 0, "j": 0}, "0-31"),
        ("keep_list", {"keep": [0, 5, 4, 3, 3]}, "0, 5-4, 2x(3)"),
        ("keep_list", {"keep": "0-7, 25-31"}, "0-7, 25-31"),
    ],
)
def test_builders_by_example(name, settings, text):
    assert str(build(name, 32, **settings)) == text


def test_depth_up_scaling_of_solar_has_48_layers():
    expected = [*range(24), *range(8, 32)]
    assert layers_of(build("upscale", 32, remove=8)) == expected and len(expected) == 48


@pytest.mark.parametrize(
    ("name", "layers", "settings", "said"),
    [
        ("skip", 32, {}, "one of the two"),
        ("skip", 32, {"start": 1, "affected": 29}, "one of the two"),
        ("skip", 32, {"start": 16}, "0 to 15"),
        ("skip", 32, {"start": -1}, "0 to 15"),
        ("skip", 32, {"affected": 4}, "odd number of them, 1 to 31; nearest is 3 or 5"),
        ("skip", 33, {"affected": 5}, "even number of them, 2 to 32; nearest is 4 or 6"),
        ("skip", 32, {"affected": 0}, "nearest is 1$"),
        ("skip", 32, {"affected": 40}, "nearest is 31$"),
        ("skip", 1, {"start": 0}, "no middle"),
        ("skip", 0, {"start": 0}, "at least one layer"),
        ("looped", 8, {"start": 1, "repeats": 0}, "at least once"),
        ("skip_one", 8, {"layer": 8}, "0 to 7"),
        ("swap", 8, {"layer": 7}, "0 to 6"),
        ("swap", 1, {"layer": 0}, "none to choose"),
        ("remove_block", 8, {"first": 5, "last": 4}, "ends before"),
        ("upscale", 8, {"remove": 8}, "0 to 7"),
        ("repeat_block", 8, {"i": 5, "j": 4}, "0 <= i <= j <= 8"),
        ("keep_list", 8, {"keep": "0-9"}, "layers 0-7"),
        ("swap", 8, {}, "needs layer"),
        ("swap", 8, {"start": 1}, "no setting 'start'; it has layer"),
        ("swop", 8, {}, "no plan builder is named 'swop'; there are .*swap"),
    ],
)
def test_wrong_settings_are_told_what_is_possible(name, layers, settings, said):
    with pytest.raises(PlanError, match=said):
        build(name, layers, **settings)


@pytest.mark.parametrize("layers", [1, 2, 7, 12])
def test_variants_are_every_variant_of_the_paper(layers):
    found = variants(layers)
    starts = layers // 2
    by_name = {name: sum(v.name == name for v in found) for name in builders.names()}
    sweeps = dict.fromkeys(("skip", "reverse", "middle_repeat", "parallel", "looped"), starts)
    assert {name: count for name, count in by_name.items() if count} == {
        name: count
        for name, count in {
            "full": 1,
            "skip_one": layers,
            "swap": layers - 1,
            "random": 10 * starts,
            **sweeps,
        }.items()
        if count
    }
    assert all(v.plan == build(v.name, layers, **v.settings) for v in found)
    assert len({str(v) for v in found}) == len(found)


def test_variants_of_one_middle():
    found = variants(12, affected=5, seeds=[4])
    assert [str(v) for v in found] == [
        "full",
        "looped(start=3, repeats=3)",
        "middle_repeat(start=3)",
        "parallel(start=3)",
        "random(start=3, seed=4)",
        "reverse(start=3)",
        "skip(start=3)",
    ]
    assert found == variants(12, start=3, seeds=[4])
    assert str(Variant("full", Plan.full(3))) == "full"


@pytest.mark.parametrize("name", builders.names())
def test_every_builder_says_what_it_is(name):
    one = builders.get(name)
    assert one.summary and one.source and all(one.settings.values())
    assert set(one.required) <= set(one.settings)
