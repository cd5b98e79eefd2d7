import numpy as np
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
    assert batch.restored_mask.equal(mask)


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
        ([1, 9], None, "9 at row 0, column 1 .* 0 to 8"),
        ([-1], None, "-1 at row 0"),
        (torch.tensor([[1, 2, 3]]), torch.tensor([[1, 0, 1]]), "hole"),
        (torch.tensor([[1, 2, 3]]), torch.tensor([[1, 0]]), "shape"),
        ([[1, 2, 3], [4, 5]], torch.ones(2, 3), "2 to 3 tokens long"),
        ([1.0, 2.0], None, "whole numbers; got "),
        ([[1, 2], [0.5]], None, "whole numbers; got "),
        ([["a", "b"]], None, "whole numbers; got "),
        ([True, False], None, "whole numbers; got "),
        ([], None, "no token"),
        ([[], []], None, "row 0 holds no real token"),
        (torch.ones(1, 2, 3, dtype=torch.long), None, r"\(1, 2, 3\); it must be"),
    ],
)
def test_bad_rows_are_named(tokens, mask, message):
    with pytest.raises(TokenError, match=message):
        Batch.of(tokens, mask, vocab_size=9)


def test_lists_of_one_length_have_the_mask_and_types_that_a_tensor_has():
    rows, mask = [[1, 2, 3], [0, 4, 5]], torch.tensor([[1, 1, 1], [0, 1, 1]])
    types = torch.tensor([[0, 0, 1], [0, 1, 1]])
    found = Batch.of(rows, mask, types, vocab_size=9)
    wanted = Batch.of(torch.tensor(rows), mask, types, vocab_size=9)
    assert found.lengths == wanted.lengths == (3, 2)
    assert found.tokens.tolist() == wanted.tokens.tolist() == [[1, 2, 3], [4, 5, 0]]
    arrays = Batch.of([np.array([1, 2]), np.array([3])], vocab_size=9)
    assert arrays.tokens.tolist() == [[1, 2], [3, 0]]
    one = Batch.of([1, 2, 3], mask[1], types[0], vocab_size=9)
    assert wanted.types is not None and wanted.types.shape == (2, 3)
    assert wanted.types[wanted.mask].tolist() == [0, 0, 1, 1, 1]
    assert not wanted.uniform and arrays.lengths == (2, 1) and not arrays.uniform
    moved = wanted.to(torch.device("cpu"))
    assert moved.types is not None and moved.types.equal(wanted.types)
    assert (moved.offsets, moved.lengths, moved.columns) == ((0, 1), (3, 2), 3)
    assert one.lengths == (2,) and one.types is not None and one.types.tolist() == [[0, 1]]
    with pytest.raises(TokenError, match=r"types have the shape \(2, 3\), the tokens \(2, 2\)"):
        Batch.of([[1, 2], [3, 4]], types=types, vocab_size=9)


def test_an_id_behind_the_mask_is_not_judged():
    tokens, mask = torch.tensor([[1, 99]]), torch.tensor([[True, False]])
    batch = Batch.of(tokens, mask, vocab_size=9)
    assert batch.tokens.tolist() == [[1]]  # and what only pads would fill is not computed
    assert batch.restore(batch.tokens).shape == (1, 2)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_a_batch_does_not_follow_the_tensor_it_was_made_of(masked, dtype):
    tokens = torch.tensor([[1, 2], [3, 4]], dtype=dtype)
    batch = Batch.of(tokens, torch.ones(2, 2, dtype=torch.bool) if masked else None, vocab_size=9)
    tokens.zero_()
    assert batch.tokens.tolist() == [[1, 2], [3, 4]]
    assert batch.tokens.dtype == torch.int64
    assert batch.uniform and batch.lengths == (2, 2) and batch.columns == 2


@pytest.mark.filterwarnings("error")
def test_rows_are_arrays_of_any_kind():
    kept = np.frombuffer(np.array([7, 8], np.int64).tobytes(), np.int64)  # not to be written to
    rows = [np.array([1, 2, 3], np.int32)[::-1], kept, np.array([4], np.uint8), (5, 6)]
    batch = Batch.of(rows, vocab_size=9)
    assert batch.tokens.tolist() == [[3, 2, 1], [7, 8, 0], [4, 0, 0], [5, 6, 0]]
    assert batch.lengths == (3, 2, 1, 2)
