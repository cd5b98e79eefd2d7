from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.evaluate.benchmarks import sentence
from tests.infer.speaking import speaking_view
from tests.stacks import view_of

from laminogram.errors import ConfigError, EditError, FamilyError, TokenError
from laminogram.evaluate.divergence import divergence
from laminogram.evaluate.documents import read_texts
from laminogram.evaluate.loss import loss
from laminogram.evaluate.text import score_text
from laminogram.plans import Plan
from laminogram.probe import edits
from laminogram.studies.operation_targets import Target
from laminogram.studies.operations import operate
from laminogram.studies.painters import paint
from laminogram.studies.painters.measures import by_key
from laminogram.train.classify import Example, read_examples

PLANS = ("0-2", "0, 2, 1", "0, mean(1-2)")


def texts(count: int = 4, words: int = 8) -> list[str]:
    import random

    draw = random.Random(5)
    return [sentence(draw, words + 3 * i) for i in range(count)]


@pytest.mark.parametrize("kind", ["llama", "rwkv7"])
def test_short_documents_are_read_whole(kind: str) -> None:
    view, documents = speaking_view(kind), texts()
    for one in score_text(view, documents, PLANS, window=200):
        alone = loss(view.using(plan=one.plan), documents)
        assert one.tokens == alone.tokens
        assert one.nats.value == pytest.approx(alone.mean, rel=1e-5)
        assert one.perplexity.value == pytest.approx(alone.perplexity, rel=1e-5)
        assert one.bits_per_byte == pytest.approx(alone.bits_per_byte, rel=1e-5)
        assert one.nats.low < one.nats.value < one.nats.high
        assert (one.units, one.unit) == (len(documents), "documents")


@pytest.mark.parametrize("kind", ["rwkv4", "rwkv7"])
@pytest.mark.parametrize("window", [7, 33])
def test_a_recurrent_model_carries_its_state_from_window_to_window(kind: str, window: int) -> None:
    view, (document,) = speaking_view(kind), texts(1, 40)
    for one in score_text(view, [document], PLANS, window=window):
        whole = loss(view.using(plan=one.plan), document)
        assert one.tokens == whole.tokens
        assert one.nats.value == pytest.approx(whole.mean, rel=1e-4)
        assert one.unit == "stretches" and one.units == math.ceil(whole.tokens / window)


def test_windows_overlap_by_what_the_stride_leaves() -> None:
    view, (document,) = speaking_view("llama"), texts(1, 40)
    ids = view.needed_tokenizer().encode(document)
    window, stride = 20, 8
    nats = [0.0]
    begin, end = 1, window + 1
    while begin < len(ids):  # each window alone, in plain words
        part = ids[max(0, end - window - 1) : end]
        nats.append(float(loss(view, part).per_token[0, -(min(end, len(ids)) - begin) :].sum()))
        begin, end = min(end, len(ids)), min(end + stride, len(ids))
    (found,) = score_text(view, [document], window=window, stride=stride)
    assert found.nats.value * found.tokens == pytest.approx(sum(nats), rel=1e-5)
    usual, half = (score_text(view, [document], window=window, stride=n)[0] for n in (None, 10))
    assert usual.nats == half.nats != found.nats


def test_divergences_are_those_of_the_distributions() -> None:
    view, documents = speaking_view("gpt_neox"), texts()
    found = score_text(view, documents, PLANS, window=200)
    for one in found:
        away = back = 0.0
        for document in documents:
            p = torch.softmax(view.logits(document)[0, :-1].double(), -1)
            q = torch.softmax(view.using(plan=one.plan).logits(document)[0, :-1].double(), -1)
            away += float((p * (p / q).log()).sum())
            back += float((q * (q / p).log()).sum())
        assert one.kl_from.value * one.tokens == pytest.approx(away, rel=1e-4, abs=1e-4)
        assert one.kl_to.value * one.tokens == pytest.approx(back, rel=1e-4, abs=1e-4)
    assert found[0].kl_from.value == pytest.approx(0, abs=1e-6)
    assert found[1].kl_from.value > 0.01


def test_edits_are_measured_against_the_model_without_them() -> None:
    view = speaking_view("llama").using(edits=edits.zero("logits"))
    (one,) = score_text(view, texts(), window=200)
    assert one.nats.value == pytest.approx(math.log(view.config.vocab_size), rel=1e-6)
    assert one.kl_from.value > 0.01
    assert one.plan == str(Plan.of("0-2"))
    (other,) = score_text(speaking_view("llama").using(plan="0, 2, 1"), texts(), window=200)
    assert other.kl_from.value > 0.01  # nor with its plan


def test_what_cannot_be_scored_says_so() -> None:
    with pytest.raises(FamilyError, match="encoder"):
        score_text(view_of("bert"), ["a text"])
    with pytest.raises(TokenError, match="two tokens"):
        score_text(speaking_view("llama"), ["a"])
    with pytest.raises(ConfigError, match="stride is 9"):
        score_text(speaking_view("llama"), ["a text"], window=8, stride=9)
    for none in ({"window": 0}, {"stride": 0}):
        with pytest.raises(ConfigError, match="between 1 and the window"):
            score_text(speaking_view("llama"), ["a text"], **none)


@pytest.mark.parametrize("count", [1, 2])
def test_stretches_that_repeat_are_counted_once_each(count: int) -> None:
    view = speaking_view("rwkv4")
    documents = [" ".join([*texts(1, 8)] * 6)] * count
    (found,) = score_text(view, documents, window=5)
    whole = loss(view, documents)
    assert found.tokens == whole.tokens
    assert found.nats.value == pytest.approx(whole.mean, rel=1e-4)
    assert found.bits_per_byte == pytest.approx(whole.bits_per_byte, rel=1e-4)
    stretches = math.ceil(whole.tokens / 5), "stretches"
    assert (found.units, found.unit) == (stretches if count == 1 else (2, "documents"))


def test_documents_that_are_equal_count_once_each() -> None:
    view, (document,) = speaking_view("llama"), texts(1)
    one, three = (score_text(view, [document] * n, window=200)[0] for n in (1, 3))
    assert (three.tokens, three.units) == (3 * one.tokens, 3)
    assert three.nats.value == pytest.approx(one.nats.value)
    assert three.bits_per_byte == pytest.approx(one.bits_per_byte)


def test_a_position_that_only_a_carried_document_has_is_no_error() -> None:
    view, documents = speaking_view("rwkv4"), [*texts(1, 4), *texts(1, 30)]
    edited = view.using(edits=edits.zero("ffn_out", positions=[40]))
    (found,) = score_text(edited, documents, window=len(documents[0]))
    assert found.nats.value == pytest.approx(loss(edited, documents).mean, rel=1e-4)


def test_an_edit_may_lack_its_position_in_one_batch_and_not_in_all() -> None:
    view, documents = speaking_view("llama"), [*texts(1, 4), *texts(1, 30)]
    edited = view.using(edits=edits.zero("ffn_out", positions=[20]))
    (found,) = score_text(edited, documents, window=200, batch_tokens=20)
    assert found.nats.value == pytest.approx(loss(edited, documents).mean, rel=1e-5)
    nowhere = view.using(edits=edits.zero("ffn_out", positions=[190]))
    with pytest.raises(EditError, match="selected nothing"):
        score_text(nowhere, documents, window=200, batch_tokens=20)


def test_an_edit_of_the_rows_of_a_run_is_refused() -> None:
    edited = speaking_view("llama").using(edits=edits.zero("ffn_out", positions=[[1], [2]]))
    with pytest.raises(EditError, match=r"of 2 rows of one run; here 2 texts run in an order"):
        score_text(edited, texts(2), window=200)
    with pytest.raises(EditError, match=r"of 2 rows of one run"):
        score_text(speaking_view("llama"), texts(2), reference=edited)


def test_a_token_that_both_rule_out_adds_nothing_to_a_divergence() -> None:
    view, documents = speaking_view("llama"), texts(2)
    never = view.using(edits=edits.set_to("logits", -math.inf, channels=[0]))
    (found,) = score_text(never, documents, reference=never)
    assert (found.kl_from.value, found.kl_to.value) == (0.0, 0.0)
    (found,) = score_text(never, documents)
    assert math.isinf(found.kl_from.value) and 0 < found.kl_to.value < 1


def test_a_line_of_json_ends_at_a_line_feed_alone(tmp_path: Path) -> None:
    texts = [f"one{end}two" for end in "\u2028\u2029\x85"]
    rows = [{"text": one, "sentence": one, "label": 0} for one in texts]
    file = tmp_path / "texts.jsonl"
    file.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    assert read_texts(file) == texts
    assert read_examples(file) == [Example(one, None, 0) for one in texts]


def test_a_model_that_says_nan_is_never_called_equal() -> None:
    view, rows = speaking_view("llama"), texts(2)
    broken = view.using(edits=edits.set_to("resid_post", math.nan, layers=1))
    for reference, other in ((view, broken), (broken, view), (broken, broken)):
        found = divergence(reference, other, rows)
        for measure in ("kl", "kl_reverse", "jsd", "total_variation"):
            assert math.isnan(found.estimate(measure).value), measure
        assert not found.agreement.any()
        assert other is view or (found.values("rank") == view.config.vocab_size).all()
    (score,) = score_text(broken, rows, reference=view)
    assert math.isnan(score.kl_from.value) and math.isnan(score.kl_to.value)
    painted = by_key(paint(broken, texts=rows, variants=["swap"], progress=False).measures)
    assert all(math.isnan(one.value) for one in painted["kl"].values)
    assert all(one.value == 0 for one in painted["agreement"].values)
    target = Target("one", "resid_post", (2,), (2,))
    operated = operate(broken, rows, [target], ["scale"], sinks=False, progress=False)
    assert np.isnan(operated.kl).all()
