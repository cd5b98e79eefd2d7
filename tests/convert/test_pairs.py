"""Pairs of families: the result is opened by stock programs, which agree with the source."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.convert import models
from tests.families import reference as ref

from laminogram import families, load
from laminogram.convert.pairs import pairs, sample
from laminogram.convert.prepare import prepare
from laminogram.convert.route import Refusal, Route, find_route, forms
from laminogram.convert.write import convert
from laminogram.errors import FamilyError

Sources = Callable[[str], Path]
SAME, EXACT = "same bytes", "exact in fp32"

# Source, target, grade, and the texts up to which it holds.
PAIRS = [
    ("qwen2", "llama", SAME, None),
    ("llama-gqa", "qwen2", SAME, None),
    ("llama-tied", "qwen2", SAME, None),
    ("llama-head-dim", "mistral", SAME, None),
    ("rope-yarn", "qwen2", SAME, None),
    ("mistral-everything", "llama", SAME, None),
    ("mistral-everything", "qwen2", SAME, None),
    ("llama-gqa", "internlm2", SAME, None),
    ("llama-gqa", "phi3", SAME, None),
    ("llama-gqa", "glm", SAME, None),
    ("llama-gqa", "gemma", EXACT, None),
    ("phi3", "llama", SAME, None),
    ("phi3", "mistral", SAME, None),
    ("gemma", "llama", EXACT, None),
    ("gemma-biases", "llama", EXACT, None),
    ("glm", "llama", SAME, None),
    ("glm", "qwen2", SAME, None),
    ("glm-unbiased", "mistral", SAME, None),
    ("rope-proportional", "phi3", SAME, None),
    ("qwen", "llama", SAME, 32),
    ("qwen-beyond", "qwen2", SAME, 8),
    ("qwen-beyond-plain", "qwen2", SAME, None),
    ("qwen-partial", "llama", SAME, 16),
    ("qwen-biases", "llama", SAME, 32),
    ("baichuan-7b", "llama", SAME, None),
    ("baichuan2-7b", "llama", EXACT, None),
    ("baichuan2-7b", "qwen2", EXACT, None),
    ("internlm2", "llama", SAME, None),
    ("internlm2-biases", "llama", SAME, None),
    ("internlm2-beyond", "llama", SAME, None),
    ("internlm2-beyond", "phi3", SAME, 10),
    ("chatglm", "llama", SAME, None),
    ("chatglm-long", "llama", EXACT, None),
    ("chatglm2-32k", "qwen2", SAME, None),
    ("chatglm", "glm", SAME, None),
]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    made: dict[str, Path] = {}

    def source(name: str) -> Path:
        if name not in made:
            made[name] = models.make(name, tmp_path_factory.mktemp(name))
        return made[name]

    return source


@pytest.mark.parametrize(("name", "to", "grade", "limit"), PAIRS)
def test_logits_before_and_after(
    sources: Sources, tmp_path: Path, name: str, to: str, grade: str, limit: int | None
) -> None:
    done = convert(sources(name), tmp_path / "result", to)
    manifest = json.loads((done.path / "laminogram.json").read_text())
    assert (manifest["grade"], manifest["limit"]) == (grade, limit)
    assert manifest["to"]["family"] == families.find(json.loads(_config(done.path))).name == to
    assert manifest["proof"]["largest"] <= models.TOLERANCE * manifest["proof"]["scale"]
    ids = ref.tokens(2, limit or 23)
    want = models.restated(name, ids)
    assert ref.error(load(done.path, dtype="fp32").logits(ids), want) <= models.TOLERANCE
    if to != "internlm2":  # which transformers does not have
        assert ref.error(models.stock(done.path, ids), want) <= models.TOLERANCE


def _config(folder: Path) -> str:
    return (folder / "config.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "there", "back"),
    [
        ("qwen2", "llama", "qwen2"),
        ("llama-gqa", "qwen2", "llama"),
        ("llama-tied", "mistral", "llama"),
        ("llama-gqa", "internlm2", "llama"),
        ("llama-gqa", "phi3", "llama"),
        ("internlm2", "llama", "internlm2"),
        ("phi3", "llama", "phi3"),
        ("glm", "llama", "glm"),
        ("rope-dynamic", "internlm2", "llama"),
    ],
)
def test_there_and_back_to_the_bit(
    sources: Sources, tmp_path: Path, name: str, there: str, back: str
) -> None:
    first = convert(sources(name), tmp_path / "there", there, verify=False)
    again = convert(first.path, tmp_path / "back", back, verify=False)
    want = load_file(sources(name) / "model.safetensors")
    got = load_file(again.path / "model.safetensors")
    assert set(got) == set(want)
    for key, tensor in want.items():
        assert got[key].dtype == tensor.dtype
        assert torch.equal(got[key].view(torch.uint8), tensor.view(torch.uint8)), key
    ids = ref.tokens(2, 23)
    assert torch.equal(load(again.path).logits(ids), load(sources(name)).logits(ids))


# Refusals


REFUSED = [
    ("qwen3", "llama", "qwen3 has qk-norm, which llama cannot express"),
    ("qwen3", "gemma", "qwen3 has qk-norm, which gemma cannot express"),
    ("llama-gqa", "qwen3", "qwen3 always has qk-norm, which llama has not"),
    ("glm4", "llama", "glm4 has norms before and after each mixer where llama has"),
    ("mistral", "llama", r"a sliding window, which llama cannot.*--lossy.*beyond 7 tokens"),
    ("qwen2", "mistral", r"biases on q, k and v, which mistral cannot.*express it: .*llama"),
    ("llama-biases", "qwen2", "biases in the feed-forward network, which qwen2"),
    ("llama-gelu", "glm4", "glm4 has norms before and after"),
    ("baichuan-13b", "llama", r"it has slopes \(ALiBi\) and no rotary embedding"),
    ("chatglm-biases", "llama", "chatglm has LayerNorm where llama has RMSNorm"),
    ("chatglm-open", "llama", "llama always has a final norm, which chatglm has not"),
    ("chatglm", "mistral", "biases on q, k and v, which mistral cannot express"),
    ("phi3-long", "qwen2", "rotary|partial_rotary"),
    ("gpt2", "llama", "it has learned positions and no rotary embedding"),
    ("neox", "llama", "mixers side by side"),
    ("llama-gqa", "starcoder2", "starcoder2 cannot be written.*Families that can be written: "),
    ("llama-gqa", "rwkv4", "it has softmax attention|has softmax attention where"),
    ("rwkv", "llama", "it has the time mixing of RWKV-4"),
]


@pytest.mark.parametrize(("name", "to", "reason"), REFUSED)
def test_what_cannot_be_said_is_refused_before_anything_is_written(
    sources: Sources, tmp_path: Path, name: str, to: str, reason: str
) -> None:
    with pytest.raises(FamilyError, match=reason):
        convert(sources(name), tmp_path / "deep" / "result", to)
    assert not list(tmp_path.iterdir())


def test_an_unknown_family_names_those_that_exist(sources: Sources, tmp_path: Path) -> None:
    with pytest.raises(FamilyError, match="no family is named 'lama'; there are baichuan, "):
        convert(sources("llama-gqa"), tmp_path / "result", "lama")


@pytest.mark.parametrize("family", families.known())
def test_every_pair_is_a_route_that_reads_back_or_a_reason(family: str) -> None:
    """Every form is tried for every family; routes are exact, and refusals name both sides."""
    config = sample(families.get(family))
    for form in forms():
        found = find_route(config, form)
        if isinstance(found, Route):
            assert all(change.grade.value < 2 for change in found.changes)
            assert found.config.layers != () and found.form == form
        else:
            assert found.reasons and all(reason.strip() for reason in found.reasons)
            assert any(form.family.name in reason for reason in found.reasons)


def test_the_table_of_pairs() -> None:
    table = {(one.source, one.target): one for one in pairs()}
    assert table["qwen2", "llama"].grade == SAME
    assert table["gemma", "llama"].grade == EXACT
    assert table["qwen", "llama"].grade == "same bytes to 64 tokens"
    assert table["qwen3", "llama"].grade == "refused" and "qk-norm" in table["qwen3", "llama"].how
    assert ("llama", "llama") not in table and ("rwkv6", "rwkv6 (fla)") in table


# Losses


def test_losses_are_allowed_and_listed(sources: Sources, tmp_path: Path) -> None:
    done = convert(sources("mistral"), tmp_path / "result", "llama", lossy=True)
    manifest = json.loads((done.path / "laminogram.json").read_text())
    assert manifest["grade"] == "lossy"
    assert manifest["losses"] == [
        "attention windows dropped: texts beyond 7 tokens are read otherwise"
    ]
    assert done.proof is not None and done.proof.largest > 0.1 and done.proof.agreement < 1
    ids = ref.tokens(2, 7)
    want = models.restated("mistral", ids)
    assert ref.error(models.stock(done.path, ids), want) <= models.TOLERANCE


def test_a_loss_that_is_none_is_not_listed(sources: Sources) -> None:
    prepared = prepare(sources("qwen2"), "llama", lossy=True)
    assert prepared.losses == [] and str(prepared.route.grade) == SAME


def test_no_route_without_weights_drops_a_bias() -> None:
    config = sample(families.get("qwen2"))
    form = next(form for form in forms() if form.family.name == "mistral")
    assert isinstance(find_route(config, form), Refusal)
    assert isinstance(find_route(config, form, lossy=True), Route)
