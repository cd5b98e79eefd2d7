import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from laminogram.errors import TokenError
from laminogram.stack.batch import Batch

rows = st.lists(
    st.tuples(st.integers(0, 3), st.integers(1, 6), st.integers(0, 3)), min_size=1, max_size=4
)


@given(rows)
def test_aligning_and_restoring_bring_every_real_token_back(shape):
    width = max(sum(one) for one in shape)
    tokens = torch.randint(0, 9, (len(shape), width))
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    for row, (left, length, _) in enumerate(shape):
        mask[row, left : left + length] = True
    batch = Batch.of(tokens, mask, vocab_size=9)
    for row, (left, length, _) in enumerate(shape):
        assert batch.tokens[row, :length].equal(tokens[row, left : left + length])
    restored = batch.restore(batch.tokens)
    assert restored.shape == tokens.shape
    assert restored[mask].equal(tokens[mask])


def test_a_square_of_tokens_is_restored_along_both_axes():
    mask = torch.tensor([[False, True, True], [True, True, True]])
    batch = Batch.of(torch.tensor([[0, 1, 2], [3, 4, 5]]), mask, vocab_size=6)
    square = batch.tokens[:, None, :, None] * 10 + batch.tokens[:, None, None, :]
    restored = batch.restore(square, (2, 3))
    assert restored[0, 0, 1:, 1:].tolist() == [[11, 12], [21, 22]]
    assert restored[1, 0].tolist() == square[1, 0].tolist()


@pytest.mark.parametrize(
    ("tokens", "mask", "message"),
    [
        ([[1, 2], []], None, "row 1 holds no real token"),
        ([1, 99], None, "99 at row 0, column 1 .* 0 to 8"),
        ([-1], None, "-1 at row 0"),
        (torch.tensor([[1, 2, 3]]), torch.tensor([[1, 0, 1]]), "hole"),
        (torch.tensor([[1, 2, 3]]), torch.tensor([[1, 0]]), "shape"),
        ([], None, "no token"),
    ],
)
def test_bad_rows_are_named(tokens, mask, message):
    with pytest.raises(TokenError, match=message):
        Batch.of(tokens, mask, vocab_size=9)


def test_an_id_behind_the_mask_is_not_judged():
    tokens, mask = torch.tensor([[1, 99]]), torch.tensor([[True, False]])
    batch = Batch.of(tokens, mask, vocab_size=9)
    assert batch.tokens.tolist() == [[1]]  # and what only pads would fill is not computed
    assert batch.restore(batch.tokens).shape == (1, 2)
