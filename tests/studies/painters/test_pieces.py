"""How texts become the pieces that every plan reads."""

from __future__ import annotations

import laminogram
from laminogram.studies.painters.pieces import cut


def test_whether_a_text_begins_with_bos_can_be_said() -> None:
    view = laminogram.load("tiny-llama")
    text = "The river ran down to the sea."
    ids = view.tokenizer.encode(text, bos=False)  # type: ignore[union-attr]
    assert cut(view, text, bos=False).rows == (tuple(ids),)
    assert cut(view, text, bos=True).rows == ((view.config.bos_token_id, *ids),)
