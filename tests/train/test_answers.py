from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from laminogram.train import Question, answered


class Counter(nn.Module):
    """Says that each id is followed by the next number, with certainty `exp(sure)` to one."""

    def __init__(self, sure: float) -> None:
        super().__init__()
        self.sure = nn.Parameter(torch.tensor(sure))

    def forward(self, tokens):
        return self.sure * nn.functional.one_hot((tokens + 1) % 10, 10).float()


def test_exact_answers_and_their_loss():
    questions = [
        Question(prompt=[3], answer=[4, 5], kinds=("count", "count of 2")),
        Question(prompt=[1, 2], answer=[3], kinds=("count", "count of 1")),
        Question(prompt=[1, 2], answer=[3, 4, 4], kinds=("count",)),
        Question(prompt=[7], answer=[2], kinds=("jump",)),
    ]
    for batch in (1, 3, 256):
        result = answered(Counter(4.0), questions, bos=0, batch=batch)
        assert list(result) == ["count", "count of 1", "count of 2", "jump"]
        assert (result["count"].questions, result["count"].exact) == (3, 2)
        assert result["count"].accuracy == pytest.approx(2 / 3)
        assert (result["jump"].accuracy, result["count of 2"].accuracy) == (0.0, 1.0)
        right = math.log(1 + 9 * math.exp(-4.0))
        assert result["count of 2"].nats_per_token == pytest.approx(right, rel=1e-5)
        assert result["jump"].nats_per_token == pytest.approx(right + 4.0, rel=1e-5)
        assert result["count"].tokens == 6
