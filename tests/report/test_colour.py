"""One source of colours, made as the module says, even to the eye and safe for colour blindness."""

from __future__ import annotations

import numpy as np
import pytest

from laminogram.report.colour import (
    _FILE,
    make_tables,
    oklab_from_srgb,
    palette,
    table,
    write_palette,
)

TABLES = sorted(palette()["tables"])


def test_the_file_holds_what_the_module_computes():
    made = make_tables()
    assert sorted(made) == TABLES
    for name in TABLES:
        assert np.array_equal(table(name), made[name]), name


@pytest.mark.parametrize("name", TABLES)
def test_lightness_is_monotone_from_the_ground_outwards(name):
    light = oklab_from_srgb(table(name))[:, 0]
    arms = [light] if name.startswith("sequential") else [light[:128][::-1], light[128:]]
    falls = name.endswith("light")
    for arm in arms:
        steps = np.diff(arm) * (-1 if falls else 1)
        assert steps.min() > -0.004  # rounding to 8 bits
        assert abs(arm[-1] - arm[0]) > 0.5


@pytest.mark.parametrize("name", TABLES)
def test_equal_steps_in_value_are_equal_steps_to_the_eye(name):
    lab = oklab_from_srgb(table(name))
    arms = [lab] if name.startswith("sequential") else [lab[:128], lab[128:]]
    for arm in arms:
        steps = np.linalg.norm(np.diff(arm[::8], axis=0), axis=1)  # beyond 8-bit rounding
        assert steps.max() < 1.6 * np.median(steps)
        assert steps.min() > 0.5 * np.median(steps)


def test_the_two_signs_differ_for_a_red_green_blind_eye():
    # Red-green blindness leaves lightness and blue-yellow (OKLab's b): there the arms must part.
    for name in ("diverging-light", "diverging-dark"):
        lab = oklab_from_srgb(table(name))
        for step in (40, 80):
            assert lab[128 + step, 2] - lab[127 - step, 2] > 0.08


def test_an_unknown_table_is_named_with_those_there_are():
    with pytest.raises(KeyError, match="diverging-dark"):
        table("rainbow")


def test_the_file_is_what_writing_it_anew_gives(tmp_path):
    write_palette(tmp_path / "colours.json")
    assert (tmp_path / "colours.json").read_bytes() == _FILE.read_bytes()
