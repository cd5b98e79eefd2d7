"""From views to records: pads left out, losses in place, bad input refused in a sentence."""

from __future__ import annotations

import math

import numpy as np
import pytest

from laminogram.errors import ConfigError
from laminogram.studies.recording import record_from_gram
from laminogram.studies.study import DEFAULT_PROMPT, Study, read_text, study_models


def test_pads_never_enter(synthetic):
    plain = synthetic.fake_record("a", "llama", "one two three")
    padded = synthetic.fake_record("a", "llama", "one two three", pads=4)
    assert padded.values.shape == plain.values.shape
    assert np.array_equal(padded.values, plain.values)
    for name, values in plain.statistics["all"].items():
        assert np.array_equal(padded.statistics["all"][name], values), name
    assert padded.token_ids == plain.token_ids


def test_bits_per_byte_divide_by_the_bytes_that_were_predicted(synthetic):
    text = "é and é"
    gram = synthetic.fake_gram(text)
    card = synthetic.FakeCard("a", "llama", 6, 192)
    losses = [math.log(2), 3 * math.log(2)]
    record = record_from_gram(gram, name="a", card=card, text=text, losses=losses)
    assert record.reading.predicted_bytes == len(" and é".encode())
    assert record.reading.bits_per_byte == pytest.approx(4 / 7)
    assert record.reading.perplexity == pytest.approx(4)


def test_a_beginning_of_text_mark_is_recognised(synthetic):
    assert synthetic.fake_record("a", "llama", "one two", bos=True).starts_with_bos
    assert not synthetic.fake_record("a", "llama", "one two").starts_with_bos


def test_models_with_other_tokens_are_aligned_by_character(synthetic):
    study = synthetic.fake_study()
    assert not study.same_tokens
    assert "same character" in study.rule
    for frame in study.frames:
        places = [r.spans[t] for r, t in zip(study.records, frame, strict=True)]
        assert min(end for _, end in places) > max(start for start, _ in places)
    assert synthetic.fake_study(same_tokens=True).same_tokens


def test_equal_ids_of_different_vocabularies_are_different_tokens(synthetic):
    from dataclasses import replace

    one = synthetic.fake_record("a", "llama", "one two")
    other = replace(one, token_texts=("one", " 2"))
    assert not Study.of([one, other], "one two").same_tokens


def test_models_that_read_the_same_and_write_differently_step_by_token(synthetic):
    records = [
        synthetic.fake_record("a", "llama", "one two", made=(" three",)),
        synthetic.fake_record("b", "llama", "one two", made=(" 3", " 4")),
    ]
    study = Study.of(records, "one two")
    assert study.frames == ((0, 0), (1, 1), (2, 2), (2, 3))
    assert "go on by themselves" in study.rule


def test_without_token_texts_panels_step_by_index(synthetic):
    from dataclasses import replace

    one = replace(synthetic.fake_record("a", "llama", "a b c"), token_texts=None, spans=None)
    study = Study.of([one, synthetic.fake_record("b", "llama", "a b")], "a b c")
    assert study.frames == ((0, 0), (1, 1), (2, 1))


def test_layers_that_a_plan_repeats_are_told_apart_by_step(synthetic):
    from dataclasses import replace

    one = synthetic.fake_record("a", "llama", "a b")
    rows = tuple((step, min(step, 4), "layer") for step in range(6))
    assert replace(one, rows=rows).labels[4:] == ("4 (step 4)", "4 (step 5)")


def test_views_are_read_and_same_names_told_apart(synthetic):
    study = study_models([synthetic.FakeView(), synthetic.FakeView()], text="one two three")
    assert [record.name for record in study.records] == ["fake", "fake (2)"]
    assert study.records[0].reading.nats_per_token == pytest.approx(2.0)
    assert study.records[0].manifest["precision"] == "float32"


def test_a_model_that_reads_both_directions_has_no_next_token_loss(synthetic):
    study = study_models([synthetic.FakeView(causal=False)], text="one two three")
    assert study.records[0].reading is None


def test_the_progress_bar_is_silent_without_a_terminal(synthetic, capsys):
    study_models([synthetic.FakeView()], text="one two")
    assert capsys.readouterr() == ("", "")


def test_a_text_longer_than_the_context_is_refused(synthetic):
    view = synthetic.FakeView()
    view.context = 3
    with pytest.raises(ConfigError, match="4 tokens for fake, which was made for 3"):
        study_models([view], text="a b", new_tokens=2)
    recurrent = synthetic.FakeView(family="rwkv4")
    recurrent.context = 3
    assert len(study_models([recurrent], text="a b", new_tokens=2).records[0].token_ids) == 4
    view.tokenizer = None
    with pytest.raises(ConfigError, match="no tokenizer"):
        study_models([view], text="a b")
    with pytest.raises(ConfigError, match="negative"):
        study_models([view], text="a b", new_tokens=-1)


def test_what_a_study_reads(tmp_path):
    assert read_text(None, None) == DEFAULT_PROMPT
    (tmp_path / "t.txt").write_text("héllo", encoding="utf-8")
    assert read_text(None, tmp_path / "t.txt") == "héllo"
    (tmp_path / "l.txt").write_bytes(b"h\xe9llo")
    with pytest.raises(ConfigError, match="not UTF-8: byte 1"):
        read_text(None, tmp_path / "l.txt")
    with pytest.raises(ConfigError, match="cannot read"):
        read_text(None, tmp_path / "none.txt")
    with pytest.raises(ConfigError, match="empty"):
        read_text(" \n", None)
    with pytest.raises(ConfigError, match="not both"):
        read_text("a", "b")


def test_a_study_needs_models_on_one_site(synthetic):
    from dataclasses import replace

    one = synthetic.fake_record("a", "llama", "a b")
    with pytest.raises(ConfigError, match="at least one"):
        Study.of([], "a")
    with pytest.raises(ConfigError, match="attn_out"):
        Study.of([one, replace(one, site="attn_out")], "a b")
