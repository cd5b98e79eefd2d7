from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.stacks import ids_of, view_of

from laminogram import bundled, edits, load
from laminogram.errors import ConfigError, EditError, TokenError


@pytest.mark.parametrize("device", [["cpu", "cpu"], "auto", "cpu", torch.device("cpu")])
def test_every_way_to_name_devices_gives_the_same(device: Any) -> None:
    if device == "auto" and torch.cuda.is_available():
        pytest.skip("auto is the GPU here")
    text = "The river ran down to the sea."
    for name in bundled.names():
        want = load(name, dtype="fp32").logits(text)
        spread = load(name, dtype="fp32", device=device)
        assert torch.equal(spread.logits(text), want)
        assert spread.generate(text, max_new_tokens=4).text


@pytest.mark.parametrize("precision", ["int3", "float8", torch.int8, torch.bool])
def test_a_precision_that_does_not_exist_is_named(precision: Any) -> None:
    with pytest.raises(ConfigError, match="is unknown; there are float32"):
        view_of("llama").using(precision=precision)
    with pytest.raises(ConfigError, match="is unknown; there are float32"):
        load("tiny-llama", dtype=precision)


def test_what_is_no_edit_is_refused() -> None:
    with pytest.raises(EditError, match="'ffn_out' is no edit"):
        view_of("llama").using(edits=["ffn_out"])  # type: ignore[list-item]
    with pytest.raises(EditError, match="'zero:ffn_out' is no edit"):
        view_of("llama").using(edits="zero:ffn_out")  # type: ignore[arg-type]
    with pytest.raises(EditError, match="5 is no edit"):
        view_of("llama").using(edits=5)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", [5, None, [1.5, 2.0], [[1, 2.7]], [[1], ["a"]], [None]])
def test_what_is_neither_text_nor_ids_is_refused(text: Any) -> None:
    with pytest.raises(TokenError, match=r"expected|whole numbers"):
        view_of("llama").record(text)


def test_a_view_tells_its_conditions() -> None:
    view = load("tiny-llama")
    assert repr(view) == "<tiny-llama: llama, plan 0-5>"
    other = view.using(plan="0, mean(1-2)", precision="int8", kv="averaged")
    assert repr(other) == "<tiny-llama: llama, plan 0, mean(1-2), bf16+int8, kv averaged>"


def test_a_view_changes_nothing_of_the_one_it_comes_from() -> None:
    view, ids = view_of("rwkv7"), ids_of(2, 6)
    before = view.logits(ids)
    other = view.using(plan="2-0", edits=edits.zero("ffn_out", layers=1), precision="bf16")
    assert other.dtype == torch.bfloat16
    assert not torch.equal(other.logits(ids).float(), before)
    assert other.using(edits=edits.add("resid_pre", 1.0)).edits[:1] == other.edits
    assert view.dtype == torch.float32
    assert torch.equal(view.logits(ids), before)


def test_the_bundled_models_load_from_a_folder_like_any_other(tmp_path: Path) -> None:
    for name in bundled.names():
        folder = tmp_path / name
        folder.mkdir()
        for file in ("config.json", "model.safetensors"):
            (folder / file).write_bytes((bundled.path(name) / file).read_bytes())
        again = load(folder)
        assert again.tokenizer is None
        assert torch.equal(again.logits([5, 6, 7]), load(name).logits([5, 6, 7]))


def test_edits_of_weights_act_before_the_precision() -> None:
    view, ids = view_of("llama"), ids_of(2, 5)
    large = edits.weights.scale_entry("layers.1.ffn.down.weight", 3, 4, factor=50)
    found = view.using(edits=large, precision="int8").logits(ids)
    assert found.equal(view.using(edits=large).using(precision="int8").logits(ids))
    assert not found.equal(view.using(precision="int8").logits(ids))


def test_bos_overrides_the_habit_of_a_tokenizer() -> None:
    view = load("tiny-llama")
    plain, begun = (view.tokens(["a", "river"], bos=bos) for bos in (False, True))
    assert begun.lengths == tuple(length + 1 for length in plain.lengths)
    assert begun.tokens[:, 0].tolist() == [view.config.bos_token_id] * 2


def test_types_are_those_of_the_model_and_pads_have_none() -> None:
    view, ids, types = view_of("bert"), [[5, 6, 7], [8, 9, 0]], [[0, 1, 1], [0, 1, 9]]
    padded = view.logits(ids, mask=[[1, 1, 1], [1, 1, 0]], types=types)
    for row, length in enumerate((3, 2)):
        alone = view.logits(ids[row][:length], types=types[row][:length])
        assert torch.allclose(padded[row, :length], alone[0], atol=1e-5)
    for odd in ([0, 2], [-1, 0], [0.0, 0.5]):
        with pytest.raises(TokenError, match=r"no token type .*: it has 0 to 1"):
            view.logits([5, 6], types=odd)
    llama = view_of("llama")
    assert llama.logits([5, 6], types=[0, 0]).equal(llama.logits([5, 6]))
    with pytest.raises(TokenError, match="no token type 1: it has none but 0"):
        llama.logits([5, 6], types=[0, 1])


def test_what_would_have_no_effect_on_tokens_is_refused() -> None:
    view, ids = view_of("llama"), ids_of(2, 3)
    with pytest.raises(TokenError, match="bos says how texts begin"):
        view.tokens(ids, bos=True)
    with pytest.raises(TokenError, match="a batch has its mask"):
        view.logits(view.tokens(ids), mask=torch.ones(2, 3))
    with pytest.raises(TokenError, match=r"texts and ids do not mix .* \[1\] is no text"):
        load("tiny-llama").tokens(["a", [1]])
