"""Massive activations: the numbers of a planted one, and what numpy finds."""

from __future__ import annotations

import numpy as np
import pytest
from tests.stacks import KINDS, ids_of, view_of

from laminogram.errors import SiteError, TokenError
from laminogram.probe.edits import scale, set_to
from laminogram.studies import massive as module
from laminogram.studies.massive import massive

IDS = ids_of(1, 9)[0].tolist()


@pytest.mark.parametrize("site", ["resid_post", "ffn_out", "ffn_act", "z"])
@pytest.mark.parametrize("plan", ["0-2", "0, 2x(1), mean(0, 2)"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_again_in_numpy(kind: str, plan: str, site: str) -> None:
    view = view_of(kind).using(plan=plan)
    found = massive(view, IDS, site)
    states = view.record(IDS, sites=site)[site][:, 0]
    states = states.reshape(*states.shape[:2], -1)
    for row, state in enumerate(states):
        size = np.abs(state)
        order = sorted(((-size[t, c], t, c) for t, c in np.ndindex(size.shape)))[:3]
        np.testing.assert_allclose(found.top[row], [-value for value, _, _ in order], rtol=1e-6)
        np.testing.assert_array_equal(found.places[row], [(t, c) for _, t, c in order])
        np.testing.assert_allclose(found.values[row], [state[t, c] for _, t, c in order])
        np.testing.assert_allclose(found.median[row], np.median(size), rtol=1e-6)
        np.testing.assert_allclose(found.token_median[row], np.median(size[order[0][1]]), rtol=1e-6)
    assert found.surface_row == int(found.top[:, 0].argmax())
    np.testing.assert_array_equal(found.surface, states[found.surface_row])
    assert found.pooled == 1 and found.channels == states.shape[2]


def test_a_planted_value_is_found_and_called_massive() -> None:
    view = view_of("llama").using(
        edits=set_to("resid_post", 5e4, layers=1, channels=[7], positions=[0])
    )
    found = massive(view, IDS)
    assert found.massive.tolist()[:2] == [False, True]
    assert found.places[1, 0].tolist() == [0, 7] and found.top[1, 0] == 5e4
    assert found.surface_row in (1, 2)  # the residual carries it on
    # The token's own median is of other values than the whole state's.
    assert found.token_median[1] != found.median[1]


@pytest.mark.parametrize(("ratio", "wanted"), [(995, False), (1005, True)])
def test_the_ratio_is_a_thousand(ratio: float, wanted: bool) -> None:
    view = view_of("llama")
    median = float(massive(view, IDS).median[2])
    factor = 1e4 / median  # so that 1000 times the median is far above 100
    plain = view.using(edits=scale("resid_post", factor, layers=2))
    spiked = plain.using(
        edits=set_to("resid_post", ratio * 1e4, layers=2, channels=[3], positions=[4])
    )
    assert massive(plain, IDS).massive.tolist() == [False] * 3
    found = massive(spiked, IDS)
    assert found.massive[2] == wanted
    np.testing.assert_allclose(found.top[2, 0] / found.median[2], ratio, rtol=0.02)


def test_places_and_ties_of_one_state() -> None:
    state = np.full((10, 20), 0.1, np.float32)
    state[3, 4] = -100.1
    one = module._largest(state)
    assert one["values"][0] == pytest.approx(-100.1) and one["median"] == pytest.approx(0.1)
    assert one["places"][0].tolist() == [3, 4]
    assert one["places"][1].tolist() == [0, 0] and one["places"][2].tolist() == [0, 1]  # ties


def test_what_is_not_finite_is_counted_and_left_out() -> None:
    state = np.array([[1.0, np.inf, -2.0], [np.nan, 0.5, 0.25]])
    one = module._largest(state)
    assert one["nonfinite"] == 2
    np.testing.assert_array_equal(one["top"], [2, 1, 0.5])
    assert one["median"] == 0.75 and one["token_median"] == 1.5
    empty = module._largest(np.full((1, 2), np.nan))
    assert np.isnan(empty["top"]).all() and (empty["places"] == -1).all()


def test_wide_surfaces_are_pooled_and_keep_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SURFACE_CHANNELS", 10)
    view = view_of("rwkv4")
    found = massive(view, IDS, row=1)
    assert (found.surface_row, found.pooled, found.surface.shape) == (1, 4, (9, 8))
    state = view.record(IDS, layers=1, sites="resid_post")["resid_post", 1][0]
    for t, column in np.ndindex(9, 8):
        block = state[t, 4 * column : 4 * column + 4]
        assert found.surface[t, column] == block[np.abs(block).argmax()]
    assert massive(view, IDS, row=1, full=True).surface.shape == (9, 32)


def test_sites_of_the_stack() -> None:
    found = massive(view_of("llama"), IDS, "final")
    assert found.labels == ("final",) and found.top.shape == (1, 3)


def test_tables_hold_every_row() -> None:
    found = massive(view_of("rwkv7"), IDS)
    tables = found.tables()
    assert {len(column) for column in tables["massive"].values()} == {9}
    assert {len(column) for column in tables["massive-surface"].values()} == {9}
    assert tables["massive"]["rank"].tolist() == [1, 2, 3] * 3
    assert "Sun et al. 2024" in found.manifest["definition"]


def test_what_does_not_exist_is_refused() -> None:
    view = view_of("llama")
    for site in ("pattern", "head_out", "logits"):
        with pytest.raises(SiteError, match="among channels"):
            massive(view, IDS, site)
    with pytest.raises(SiteError, match="does not exist"):
        massive(view, IDS, "nowhere")
    with pytest.raises(SiteError, match="row 3 does not exist"):
        massive(view, IDS, row=3)
    with pytest.raises(TokenError, match="2 were given"):
        massive(view, ids_of(2, 4))
