from __future__ import annotations

import torch
from tests.train.tiny import Tiny

from laminogram.train import sample
from laminogram.train.sample import draw


def test_seeded_and_ragged_rows_equal_single_ones():
    model, prompts = Tiny(), [[1, 2, 3], [4], [5, 6]]
    one = sample(model, prompts, new_tokens=8, seed=3)
    assert one == sample(model, prompts, new_tokens=8, seed=3)
    assert one != sample(model, prompts, new_tokens=8, seed=4)
    assert [len(ids) for ids in one] == [8, 8, 8]
    greedy = sample(model, prompts, new_tokens=8, temperature=1e-6)
    for row, prompt in enumerate(prompts):
        assert sample(model, [prompt], new_tokens=8, temperature=1e-6) == [greedy[row]]


def test_top_p_keeps_the_smallest_set_that_holds_it():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().expand(2000, 4)
    generator = torch.Generator().manual_seed(0)
    drawn = draw(logits, 1.0, 0.7, generator)
    assert set(drawn.tolist()) == {0, 1}
    share = (drawn == 0).float().mean().item()
    assert abs(share - 0.5 / 0.8) < 0.05
