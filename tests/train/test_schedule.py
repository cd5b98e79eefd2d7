from __future__ import annotations

import pytest

from laminogram.errors import ConfigError
from laminogram.train import Schedule


def test_warmup_rises_linearly_to_the_peak():
    schedule = Schedule(kind="cosine", warmup=0.1, floor=0.0)
    assert schedule.factor(0.0) == 0.0
    assert schedule.factor(0.05) == pytest.approx(0.5)
    assert schedule.factor(0.1) == pytest.approx(1.0)


@pytest.mark.parametrize("kind", ["cosine", "wsd"])
def test_decays_to_the_floor_and_never_rises_after_the_warmup(kind):
    schedule = Schedule(kind=kind, warmup=0.02, decay=0.3, floor=0.05)
    values = [schedule.factor(i / 1000) for i in range(20, 1001)]
    assert values == sorted(values, reverse=True)
    assert values[-1] == pytest.approx(0.05)
    assert schedule.factor(7.0) == values[-1]


def test_cosine_is_half_way_down_at_half_time():
    assert Schedule(warmup=0.0, floor=0.0).factor(0.5) == pytest.approx(0.5)


def test_wsd_holds_then_falls_in_a_line():
    schedule = Schedule(kind="wsd", warmup=0.0, decay=0.4, floor=0.2)
    assert schedule.factor(0.6) == 1.0
    assert schedule.factor(0.8) == pytest.approx(0.6)


def test_constant_stays():
    assert Schedule(kind="constant", warmup=0.5).factor(1.0) == 1.0


@pytest.mark.parametrize("wrong", [{"kind": "step"}, {"warmup": 1.5}, {"floor": -0.1}])
def test_refuses_what_it_does_not_know(wrong):
    with pytest.raises(ConfigError):
        Schedule(**wrong)
