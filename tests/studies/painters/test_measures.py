"""Means, shares, medians and ranks against sums written out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.stacks import view_of

from laminogram.evaluate.result import TaskResult
from laminogram.plans import Plan
from laminogram.probe.statistics.bootstrap import interval, variant_weights
from laminogram.studies.painters.influence import angles, influence
from laminogram.studies.painters.measures import by_key, of_predictions, of_tasks
from laminogram.studies.painters.pieces import cut
from laminogram.studies.painters.points import Point
from laminogram.studies.painters.ranking import ranking, spearman

PLANS = tuple(map(Plan.parse, ("0-2", "0, 2", "0, 2, 1", "1-2")))
POINTS = (
    Point("full", PLANS[:1]),
    Point("random", PLANS[2:4], affected=1),
    Point("skip_one", PLANS[1:2], layer=1),
    Point("skip_one", PLANS[3:4], layer=0),
)


def sums() -> np.ndarray:
    """Two units under four plans: tokens, nats, KL, agreement."""
    nats = np.array([[20.0, 33.0], [24.0, 40.0], [30.0, 51.0], [40.0, 90.0]])
    found = np.zeros((4, 2, 4))
    found[..., 0] = [10, 15]
    found[..., 1], found[..., 2] = nats, nats - nats[0]
    found[..., 3] = [[10, 15], [5, 5], [4, 1], [0, 0]]
    return found


def test_means_shares_and_seeds_by_hand() -> None:
    measures = by_key(of_predictions(POINTS, PLANS, sums(), vocabulary=100, text_bytes=(50, 60)))
    loss = [53 / 25, (81 / 25 + 130 / 25) / 2, 64 / 25, 130 / 25]
    assert [one.value for one in measures["loss"].values] == pytest.approx(loss)
    assert measures["kl"].values[2].value == pytest.approx(11 / 25)
    assert measures["agreement"].values[2].value == pytest.approx(10 / 25)
    assert measures["perplexity"].values[0].value == pytest.approx(math.exp(53 / 25))
    # Perplexities are averaged over seeds as such, and not their logarithms.
    seeds = [math.exp(81 / 25), math.exp(130 / 25)]
    assert measures["perplexity"].values[1].value == pytest.approx(np.mean(seeds))
    assert measures["bits_per_byte"].values[0].value == pytest.approx(53 / 110 / math.log(2))
    chance = math.log(100)
    shares = [(chance - one) / (chance - loss[0]) for one in loss]
    assert [one.value for one in measures["share"].values] == pytest.approx(shares)
    assert measures["share"].values[0] == pytest.approx((1, 1, 1)) or shares[0] == 1
    assert measures["loss"].spread[1] == pytest.approx(abs(130 - 81) / 25 / math.sqrt(2))
    assert math.isnan(measures["loss"].spread[0])


def test_intervals_are_of_units_resampled_alike() -> None:
    many = np.random.default_rng(0).uniform(1, 9, (2, 30, 4))
    many[..., 0] = 5
    chosen = (Point("full", PLANS[:1]), Point("skip_one", PLANS[1:2], layer=1))
    loss = of_predictions(chosen, PLANS[:2], many, vocabulary=9, text_bytes=None)[0]
    weights = variant_weights(torch.arange(30), 200).numpy()
    draws = [(weights @ many[i, :, 1]) / (weights @ many[i, :, 0]) for i in range(2)]
    assert (loss.values[1].low, loss.values[1].high) == pytest.approx(interval(draws[1]))
    apart = interval(draws[1] - draws[0])
    assert (loss.changes[1].low, loss.changes[1].high) == pytest.approx(apart)
    assert loss.values[1].low < loss.values[1].value < loss.values[1].high
    assert loss.changes[0].low == loss.changes[0].high == 0


def result(task: str, plan: Plan, score: float, chance: float, error: float = 0.01) -> TaskResult:
    fields: dict[str, Any] = dict.fromkeys(TaskResult.__dataclass_fields__)
    fields |= {"task": task, "plan": str(plan), "main_metric": "acc", "chance": chance}
    fields |= {"metrics": {"acc,none": score}, "standard_error": error, "documents": 100}
    fields |= {"higher_is_better": True, "draws": [score] * 203, "seconds_per_token": 0.1}
    return TaskResult(**fields)


def test_the_median_over_tasks_is_that_of_normalised_scores() -> None:
    scores = {  # by task: chance, full, and the plans after it
        "a": (0.25, 0.65, 0.45, 0.25, 0.35),
        "b": (0.5, 0.9, 0.5, 0.9, 0.7),
        "c": (0.0, 0.8, 0.2, 0.4, 0.0),
        "weak": (0.5, 0.52, 0.9, 0.9, 0.9),
    }
    results = [
        result(task, plan, score, chance)
        for task, (chance, *found) in scores.items()
        for plan, score in zip(PLANS, found, strict=True)
    ]
    tasks = of_tasks(POINTS, results)
    median, *each = tasks.measures
    # Shares: full 1; random the mean of plans 2 and 3; a (.0+.25)/2, b (1+.5)/2, c (.5+0)/2.
    assert [one.value for one in median.values] == pytest.approx([1, 0.25, 0.25, 0.25])
    assert [one.key for one in each] == ["a", "b", "c", "weak"]
    assert each[0].values[1].value == pytest.approx(0.3)
    assert [one.task for one in tasks.at_chance] == ["weak"]
    assert of_tasks(POINTS, []).measures == ()


@pytest.mark.parametrize("kind", ["llama", "rwkv4", "bert"])
def test_block_influence_and_angles_by_their_formulas(kind: str) -> None:
    view = view_of(kind)
    texts = [[3, 8, 1, 30, 7], [5, 9, 2]]
    found = influence(view, cut(view, texts), progress=False)
    turned, angular = [], np.zeros((4, 4))
    for text in texts:
        gram = view.record([text], sites=["resid_pre", "resid_post"])
        last = gram["resid_post", len(view.plan) - 1]
        states = np.concatenate([gram["resid_pre"][:, 0], last]).astype(np.float64)
        norms = np.linalg.norm(states, axis=-1)
        turned.append((states[:-1] * states[1:]).sum(-1) / norms[:-1] / norms[1:])
        unit = states[:, -1] / norms[:, -1:]
        angular += np.arccos(np.clip(unit @ unit.T, -1, 1)) / np.pi / len(texts)
    influenced = 1 - np.concatenate(turned, 1).mean(1)
    assert [one.value for one in found.block_influence] == pytest.approx(influenced, abs=1e-5)
    np.fill_diagonal(angular, 0)
    np.testing.assert_allclose(found.angular, angular, atol=1e-4)
    np.testing.assert_allclose(found.by_layer, np.diagonal(angular, 1), atol=1e-4)


def test_opposite_states_are_half_a_turn_apart() -> None:
    found = angles(torch.tensor([[1.0, 0], [-2, 0], [0, 3]]))
    np.testing.assert_allclose(found, [[0, 1, 0.5], [1, 0, 0.5], [0.5, 0.5, 0]], atol=1e-7)


def test_the_dearest_layer_stands_first() -> None:
    turned = influence(view_of("llama"), cut(view_of("llama"), [[3, 8, 1], [4, 2]]), progress=False)
    measures = by_key(of_predictions(POINTS, PLANS, sums(), vocabulary=100, text_bytes=None))
    ranked = ranking(POINTS, measures["loss"], turned)
    assert ranked is not None and ranked.layers == (0, 1)
    assert [one.value for one in ranked.cost] == pytest.approx([77 / 25, 11 / 25])
    share = ranking(POINTS, measures["share"], turned)
    assert share is not None and share.layers == (0, 1)
    assert all(one.low <= one.value <= one.high and one.value > 0 for one in share.cost)
    assert ranking(POINTS[:2], measures["loss"].at([0, 1]), turned) is None


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=2, max_size=12))
def test_spearman_is_the_correlation_of_ranks(pairs: list[tuple[int, int]]) -> None:
    columns = [list(column) for column in zip(*pairs, strict=True)]
    ranks = [
        [sum(b < a for b in one) + (sum(b == a for b in one) + 1) / 2 for a in one]
        for one in columns
    ]
    found = spearman(*columns)
    if any(len(set(one)) == 1 for one in columns):
        assert math.isnan(found)
    else:
        assert found == pytest.approx(np.corrcoef(ranks)[0, 1])
