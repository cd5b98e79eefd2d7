"""Comparing views: nothing for equal ones, and by hand what an edit moves."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.stacks import ids_of, view_of

import laminogram
from laminogram.errors import ConfigError, SiteError
from laminogram.evaluate.divergence import divergence
from laminogram.probe import edits
from laminogram.studies.compare import compare
from laminogram.studies.compare.matching import matches, nearest
from laminogram.studies.compare.reading import cka_variants
from laminogram.studies.similarity import linear_cka

ROWS = [ids_of(1, n, seed=n)[0].tolist() for n in (12, 9, 14, 11, 7, 13)]
SITES = ("ffn_out", "resid_post")


def run(*views, **options):
    return compare(list(views), ROWS, sites=SITES, progress=False, **options)


@pytest.mark.parametrize("kind", ["llama", "rwkv4", "bert"])
def test_a_view_and_itself_are_exactly_nothing_apart(kind: str) -> None:
    view = view_of(kind)
    (pair,) = run(view, view).pairs
    assert pair.shared == "tokens" and len(pair.places) == 6
    for one in pair.outputs:
        expected = 1 if one.measure == "agreement" else 0
        assert (one.estimate.value, one.estimate.low, one.estimate.high) == (expected,) * 3
    assert bool(pair.outputs) == (kind != "bert")
    for place in pair.places:
        for found in (place.error, place.distance, place.shift.jsd):
            assert (found.value, found.low, found.high) == (0, 0, 0)
        assert place.shift.crossed == place.shift.null


def test_an_edit_moves_its_layer_and_what_comes_after_alone() -> None:
    view = view_of("llama")
    other = view.using(edits=edits.scale("ffn_out", 1.5, layers=1))
    (pair,) = run(view, other).pairs
    errors = {(one.match.site, one.match.layer): one for one in pair.places}
    for site in SITES:
        assert errors[site, 0].error.value == 0 == errors[site, 0].distance.value
        assert errors[site, 2].error.value > 0 < errors[site, 2].distance.value
    # 1.5 x beside x: half as far off as it is long, in the same direction.
    assert errors["ffn_out", 1].error.value == pytest.approx(0.5, rel=1e-5)
    assert errors["ffn_out", 1].distance.value == pytest.approx(0, abs=1e-9)
    assert pair.output("kl").value == divergence(view, other, ROWS).estimate("kl").value > 0


def test_errors_and_distances_are_means_over_tokens() -> None:
    view = view_of("llama")
    other = view.using(precision="int4")
    (pair,) = run(view, other).pairs
    a, b = ([one.record([row], sites=["ffn_out"]) for row in ROWS] for one in (view, other))
    x, y = (
        np.concatenate([np.asarray(g.tensor("ffn_out", 2)[0], dtype=np.float64) for g in grams])
        for grams in (a, b)
    )
    place = next(one for one in pair.places if (one.match.site, one.match.step) == ("ffn_out", 2))
    length = np.linalg.norm(x, axis=1)
    error = np.linalg.norm(y - x, axis=1) / length
    cosine = (x * y).sum(1) / length / np.linalg.norm(y, axis=1)
    assert place.error.value == pytest.approx(error.mean(), rel=1e-4)
    assert place.distance.value == pytest.approx((1 - cosine).mean(), rel=1e-3)
    assert place.error.low < place.error.value < place.error.high


@given(st.integers(1, 20), st.integers(1, 20))
@settings(deadline=None, max_examples=60)
def test_steps_are_matched_by_relative_depth(count: int, other: int) -> None:
    found = nearest(count, other)
    assert found == sorted(found) and max(found) < other
    if count == other:
        assert found == list(range(count))
    for place, chosen in enumerate(found):
        away = [abs((place + 0.5) / count - (n + 0.5) / other) for n in range(other)]
        assert away[chosen] == pytest.approx(min(away), abs=1e-12)


def test_layers_are_matched_by_number_where_there_are_equally_many() -> None:
    view = view_of("llama")
    cut = view.using(plan="0, 2, 2")
    pairs = [(one.step, one.step_other) for one in matches(view, cut, "ffn_out")]
    assert pairs == [(0, 0), (2, 1)]
    deep = view_of("llama", layers=6)
    assert [one.step_other for one in matches(view, deep, "ffn_out")] == [0, 2, 4]
    (pair,) = run(view, deep).pairs
    assert pair.rule == "depth" and pair.places[1].match.layer_other == 2


def test_widths_are_aligned_by_the_kernels_of_linear_cka() -> None:
    x = np.random.default_rng(0).normal(size=(2, 40, 8))
    x[1] = x[0] @ np.random.default_rng(1).normal(size=(8, 8)) + 0.3 * x[1]
    owner = [np.repeat([0, 1, 2, 3], 10)]
    variants, null = cka_variants([(x[0], x[1])], owner)
    assert variants[0] == pytest.approx(linear_cka(x)[0, 1])
    assert null < variants[0] and np.isfinite(variants[3:]).all()
    same, _ = cka_variants([(x[0], x[0] * 3)], owner)
    assert same == pytest.approx(1)


def test_two_widths_two_tokenizers_two_inputs() -> None:
    texts = ["The river ran down to the sea.", "Once there was a house by the road.", "It rained."]
    llama, rwkv = laminogram.load("tiny-llama"), laminogram.load("tiny-rwkv4")
    found = compare(
        [llama, rwkv, llama, llama],
        texts,
        sites=["ffn_out"],
        bos=[None, None, True, None],
        inputs={3: ["Quite another text.", "And one more of these."]},
        progress=False,
    )
    wide, marked, other = found.pairs
    assert wide.shared == "tokens" and all(one.cka and not one.error for one in wide.places)
    assert marked.shared == "text" and other.shared == "nothing"
    assert {one.measure for one in marked.outputs} == {
        "bits_per_byte_reference",
        "bits_per_byte",
        "bits_per_byte_difference",
    }
    assert len(other.outputs) == 2 and other.notes and marked.notes
    assert all(one.error is None and one.cka is None for one in (*marked.places, *other.places))
    assert all(math.isfinite(one.shift.jsd.value) for one in other.places)
    bits = found.pairs[0].output("bits_per_byte_reference")
    alone = [llama.loss(text) for text in texts]
    expected = sum(one.nats for one in alone) / math.log(2) / sum(one.text_bytes for one in alone)
    assert bits.value == pytest.approx(expected, rel=1e-6)
    assert found.small == found.labels
    lengths = {len(column) for column in found.tables()["compare-sites"].values()}
    assert lengths == {18}


def test_what_cannot_be_compared_is_an_error() -> None:
    view = view_of("llama")
    with pytest.raises(ConfigError, match="two conditions"):
        run(view)
    with pytest.raises(SiteError):
        compare([view, view], ROWS, sites=["state"], progress=False)
    with pytest.raises(ConfigError, match="no document"):
        compare([view, view], [], progress=False)


def test_no_tensor_of_a_view_is_touched() -> None:
    view = view_of("llama")
    before = {name: x.clone() for name, x in view.stack.named_parameters()}
    run(view, view.using(precision="int8"))
    assert all(torch.equal(x, before[name]) for name, x in view.stack.named_parameters())
