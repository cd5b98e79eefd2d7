from __future__ import annotations

import numpy as np
import pytest
import torch

from laminogram.errors import ConfigError
from laminogram.train import Blocks, Mixture, TokenStream


@pytest.fixture
def stream(tmp_path) -> TokenStream:
    """Two files whose ids tell where they stand: 0..999, and 10000..10700."""
    np.arange(1000, dtype="<u2").tofile(tmp_path / "a.bin")
    np.arange(10000, 10701, dtype="<u2").tofile(tmp_path / "b.bin")
    return TokenStream([tmp_path / "a.bin", tmp_path / "b.bin"])


def test_rows_are_runs_of_one_file(stream):
    blocks = Blocks(stream, context=16, batch=8, seed=3)
    for step in range(40):
        rows = blocks(step)
        assert rows.shape == (8, 17)
        assert rows.dtype == torch.int64
        assert torch.equal(rows - rows[:, :1], torch.arange(17).expand(8, 17))


def test_an_epoch_reads_each_block_once(stream):
    blocks = Blocks(stream, context=16, batch=1, seed=3)
    starts = np.array([blocks.starts(step)[0] for step in range(blocks.per_epoch)])
    assert len(np.unique(starts)) == blocks.per_epoch
    assert np.all(np.diff(np.sort(starts)) >= 16)
    # All but the two shifted ends of each file are read.
    assert blocks.per_epoch * 16 >= len(stream) - 2 * 2 * 16


def test_order_depends_on_seed_and_step_alone(stream):
    one = Blocks(stream, context=16, batch=8, seed=3)
    two = Blocks(stream, context=16, batch=8, seed=3)
    straight = [one.starts(step) for step in range(60)]
    assert all(np.array_equal(two.starts(step), straight[step]) for step in (59, 0, 30, 59))
    other = Blocks(stream, context=16, batch=8, seed=4)
    assert not np.array_equal(other.starts(0), straight[0])


def test_epochs_cut_the_text_at_other_places(stream):
    blocks = Blocks(stream, context=16, batch=1, seed=3)
    phases = {
        int(blocks.starts(epoch * blocks.per_epoch)[0] - base) % 16
        for epoch in range(12)
        for base in (0,)
    }
    assert len(phases) > 3


def test_ids_above_the_signed_range_survive(tmp_path):
    np.array([65535, 0, 40000, 7], dtype="<u2").tofile(tmp_path / "a.bin")
    stream = TokenStream([tmp_path / "a.bin"])
    assert stream.rows(np.array([0]), 4).tolist() == [[65535, 0, 40000, 7]]


def test_refuses_half_an_id_an_empty_file_and_a_text_that_is_too_short(tmp_path):
    (tmp_path / "half.bin").write_bytes(b"abc")
    (tmp_path / "empty.bin").write_bytes(b"")
    for name in ("half.bin", "empty.bin"):
        with pytest.raises(ConfigError, match=name):
            TokenStream([tmp_path / name])
    np.arange(20, dtype="<u2").tofile(tmp_path / "short.bin")
    with pytest.raises(ConfigError, match="at least 32 ids"):
        Blocks(TokenStream([tmp_path / "short.bin"]), context=16, batch=1, seed=0)


def test_a_mixture_gives_each_source_its_rows_at_its_places(stream, tmp_path):
    (40000 + np.arange(500)).astype("<u2").tofile(tmp_path / "other.bin")
    other = TokenStream([tmp_path / "other.bin"])
    parts = {"long": Blocks(stream, 16, 6, seed=3), "short": Blocks(other, 16, 2, seed=3)}
    mixture = Mixture(parts)
    assert mixture.batch == 8
    assert mixture.shares == {"long": 0.75, "short": 0.25}
    for step in (0, 1, 50, 0):  # the step alone decides, whatever was read before
        rows = mixture(step)
        assert rows.shape == (8, 17)
        for name, place in mixture.places.items():
            assert torch.equal(rows[place], parts[name](step))
        assert (rows[mixture.places["short"]] >= 40000).all()
        assert (rows[mixture.places["long"]] < 40000).all()


def test_a_mixture_needs_sources_of_one_context(stream):
    with pytest.raises(ConfigError, match="no source"):
        Mixture({})
    with pytest.raises(ConfigError, match="one 16, two 32"):
        Mixture({"one": Blocks(stream, 16, 1, seed=0), "two": Blocks(stream, 32, 1, seed=0)})
