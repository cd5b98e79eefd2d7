from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laminogram.errors import ConfigError
from laminogram.evaluate.requests import Request, Requests, load_requests
from laminogram.probe.store import StoreError

text = st.text(st.characters(codec="utf-8"), max_size=12)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(text, text), min_size=1, max_size=5))
def test_saved_requests_come_back_with_their_hash(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]
) -> None:
    items = tuple(Request("loglikelihood", a, b, document=i) for i, (a, b) in enumerate(pairs))
    made = Requests("task", "1", items)
    path = tmp_path_factory.mktemp("requests") / "x.json"
    made.save(path)
    again = load_requests(path)
    assert again == made
    assert (hash(again), again.hash) == (hash(made), made.hash)
    changed = replace(items[0], context=items[0].context + "!")
    assert Requests("task", "1", (changed, *items[1:])).hash != made.hash


def test_generation_keeps_where_it_ends(tmp_path: Path) -> None:
    made = Requests("t", "1", (Request("generate_until", "a", until=("b", "c"), max_new_tokens=4),))
    made.save(tmp_path / "x")
    assert load_requests(tmp_path / "x") == made


def test_what_is_no_set_of_requests_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="asks nothing"):
        Requests("t", "1", ())
    with pytest.raises(ConfigError, match="mixes"):
        Requests("t", "1", (Request("loglikelihood", "a"), Request("generate_until", "a")))
    with pytest.raises(ConfigError, match="of kind 'guess'"):
        Request("guess", "a")  # type: ignore[arg-type]
    for content in ("", "{}", '{"format": "laminogram-requests", "items": [3]}'):
        (tmp_path / "x").write_text(content)
        with pytest.raises(StoreError):
            load_requests(tmp_path / "x")
