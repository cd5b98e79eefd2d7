from __future__ import annotations

import pytest
import torch

from laminogram.errors import ConfigError
from laminogram.infer.sampling import (
    Sampling,
    choose,
    history_mask,
    largest,
    processed,
    uniforms,
)

VOCABULARY = 40


def logits_of(seed: int, rows: int = 3) -> torch.Tensor:
    return torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 3


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.7},
        {"temperature": 1.3, "top_k": 5},
        {"temperature": 0.9, "top_p": 0.8},
        {"temperature": 1.0, "top_p": 0.05},
        {"temperature": 1.0, "top_k": 1000},
        {"temperature": 1.1, "top_k": 12, "top_p": 0.9, "repetition_penalty": 1.7},
        {"temperature": 2.0, "top_p": 1.0, "repetition_penalty": 0.6},
    ],
)
def test_scores_equal_those_of_transformers(options: dict[str, float]) -> None:
    from transformers import (
        LogitsProcessorList,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    sampling = Sampling(**options)  # type: ignore[arg-type]
    theirs = LogitsProcessorList()
    if sampling.needs_history:
        theirs.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    theirs.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k is not None:
        theirs.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p is not None:
        theirs.append(TopPLogitsWarper(sampling.top_p))
    for seed in range(20):
        logits = logits_of(seed)
        history = torch.randint(0, VOCABULARY, (3, 9))
        mask = history_mask(history.tolist(), VOCABULARY, logits.device)
        torch.testing.assert_close(
            processed(logits, mask, sampling), theirs(history, logits.clone()), rtol=1e-6, atol=0
        )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_largest_is_the_first_of_equals_in_any_dtype(dtype: torch.dtype) -> None:
    logits = torch.randn(4, 300).to(dtype)
    logits[1, [7, 200]] = 50.0
    assert largest(logits).tolist() == logits.double().argmax(-1).tolist()


def test_greedy_is_the_likeliest_after_the_penalty() -> None:
    logits = torch.tensor([[1.0, 2.0, 1.9], [-1.0, -2.0, -1.9]])
    assert choose(logits, None, Sampling()).tolist() == [1, 0]
    history = history_mask([[1], [0]], 3, logits.device)
    penalised = Sampling(repetition_penalty=2.5)
    assert choose(logits, history, penalised).tolist() == [2, 2]


def test_draws_follow_the_distribution() -> None:
    sampling = Sampling(temperature=0.8, top_k=6)
    logits = logits_of(0, rows=1).expand(20_000, -1)
    drawn = uniforms(3, ((0, position) for position in range(20_000)))
    found = choose(logits, None, sampling, drawn).bincount(minlength=VOCABULARY) / 20_000
    wanted = processed(logits[:1], None, sampling).softmax(-1)[0]
    assert (found[wanted == 0] == 0).all()
    # Five standard deviations of the most uncertain count.
    assert (found - wanted).abs().max() < 5 * 0.5 / 20_000**0.5


def test_a_draw_never_leaves_the_kept_tokens() -> None:
    sampling = Sampling(temperature=1.0, top_k=2)
    logits = torch.tensor([[5.0, -9.0, 4.0, -9.0]] * 4)
    drawn = torch.tensor([0.0, 1.0 - 2.0**-53, 1.0, 0.5], dtype=torch.float64)
    assert set(choose(logits, None, sampling, drawn).tolist()) <= {0, 2}


def test_a_row_s_draw_depends_on_seed_row_and_position_alone() -> None:
    one = uniforms(7, [(0, 5), (1, 9), (2, 5)])
    other = uniforms(7, [(1, 9)])
    assert one[1] == other[0]
    assert len({*one.tolist(), *uniforms(8, [(0, 5), (1, 9), (2, 5)]).tolist()}) == 6
    assert ((one >= 0) & (one < 1)).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_k", 0),
        ("top_k", 1.5),
        ("top_p", 0.0),
        ("top_p", 1.2),
        ("repetition_penalty", 0.0),
    ],
)
def test_values_out_of_range_are_named(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{name} is {value}"):
        Sampling(**{name: value})  # type: ignore[arg-type]


def test_drawing_without_numbers_is_refused() -> None:
    with pytest.raises(ConfigError, match="uniform number"):
        choose(logits_of(0), None, Sampling(temperature=1.0))
