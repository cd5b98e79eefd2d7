"""The bundled models, whose weights are trained, against other programs that read them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.families import reference as ref
from torch import Tensor

from laminogram import bundled, load
from laminogram.checkpoint.load import describe
from laminogram.checkpoint.loading import bind
from laminogram.view import View

TEXT = (
    "It was in the spring of that year that the old doctor came down to the river. – “Well?” said "
    "he; and the boatman, who had been asleep, answered that the water was higher than before."
)
PROMPTS = ("The river", "“Well?” said he; and the boatman", "CHAPTER XII\n\nIn which")
NAMES = ("tiny-llama", "tiny-rwkv4")
NEW = 40


@cache
def view_of(name: str) -> View:
    return load(name, dtype="fp32")


@cache
def transformers_model(name: str) -> Any:
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(
        bundled.path(name), dtype=torch.float32
    )
    return model.eval()


def ids_of(name: str, text: str = TEXT) -> Tensor:
    return view_of(name).tokens(text).tokens


@pytest.mark.parametrize("name", NAMES)
def test_logits_equal_those_of_transformers(name: str) -> None:
    ids = ids_of(name)
    with torch.no_grad():
        want = transformers_model(name)(ids).logits
    assert ref.error(view_of(name).logits(ids), want) <= ref.TOLERANCE


@pytest.mark.parametrize("name", NAMES)
def test_the_tokenizer_reads_as_that_of_transformers(name: str) -> None:
    import transformers

    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(bundled.path(name) / "tokenizer.json")
    )
    tokenizer = view_of(name).tokenizer
    assert tokenizer is not None
    assert tokenizer.encode(TEXT) == theirs(TEXT)["input_ids"]
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT


@pytest.mark.parametrize("name", NAMES)
def test_gradients_equal_those_of_transformers(name: str) -> None:
    described = describe(bundled.path(name))
    stack, model, ids = load(name, dtype="fp32").stack, transformers_model(name), ids_of(name)
    weights = torch.randn(*ids.shape, 4096, generator=torch.Generator().manual_seed(3))
    (stack(ids) * weights).sum().backward()
    model.zero_grad()
    (model.train()(ids).logits * weights).sum().backward()
    model.eval()
    grads = {key: p.grad for key, p in model.named_parameters()}
    mapping = bind(described.checkpoint, described.layout, described.config)
    for key, p in stack.named_parameters():
        bound = mapping.ours(key)
        assert bound is not None
        assert p.grad is not None, key
        want = bound.read(lambda theirs: grads[theirs])
        assert ref.error(p.grad, want) <= 1e-3, key


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("name", NAMES)
def test_greedy_text_equals_that_of_transformers(name: str, prompt: str) -> None:
    """Token for token, until a choice falls otherwise between two that are nearly equal."""
    ids = ids_of(name, prompt)
    made = transformers_model(name).generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=NEW,
        do_sample=False,
        eos_token_id=4096,  # an id that is never drawn: the texts go on
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    ours = view_of(name).generate(prompt, max_new_tokens=NEW, stop_at_eos=False).tokens
    same_until_unclear(list(ours), made.sequences[0, ids.shape[1] :].tolist(), made.logits)


def same_until_unclear(ours: list[int], theirs: list[int], logits: tuple[Tensor, ...]) -> None:
    compared = 0
    for mine, want, scores in zip(ours, theirs, logits, strict=True):
        best = scores.flatten().topk(2).values
        clear = best[0] - best[1] > 10 * ref.TOLERANCE * scores.abs().max()
        if not clear and mine != want:
            break  # from here on they are two texts
        assert mine == want
        compared += int(clear)
    assert compared >= NEW // 2


@pytest.fixture(scope="module")
def pth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled RWKV-4 under BlinkDL's names, as its own files are written."""
    path = tmp_path_factory.mktemp("blink") / "tiny-rwkv4.pth"
    stack = view_of("tiny-rwkv4").stack
    described = describe(bundled.path("tiny-rwkv4"))
    layout = next(one for one in described.family.layouts if one.name == "blink")
    mapping = layout.bind(described.config)
    parameters = {key: p.detach() for key, p in stack.named_parameters()}
    weights = {}
    for key in mapping.names_of_theirs(list(parameters)):
        bound = mapping.theirs(key)
        assert bound is not None
        weights[key] = bound.write(parameters.__getitem__).clone()
    torch.save(weights, path)
    return path


def test_a_pth_file_is_the_same_model(pth: Path) -> None:
    again = load(pth)
    ids = ids_of("tiny-rwkv4")
    assert torch.equal(again.logits(ids), view_of("tiny-rwkv4").logits(ids))
    assert again.tokenizer is None
    made = again.generate(ids[0].tolist(), max_new_tokens=5)
    assert list(made.prompt_tokens) == ids[0].tolist()


def test_logits_and_greedy_text_equal_those_of_the_rwkv_package(pth: Path, tmp_path: Path) -> None:
    """One run of theirs over the text and our continuation answers for every place in both."""
    view, ids = view_of("tiny-rwkv4"), ids_of("tiny-rwkv4")
    start = ids.shape[1]
    made = view.generate(TEXT, max_new_tokens=NEW, stop_at_eos=False)
    whole = torch.tensor([[*made.prompt_tokens, *made.tokens]])
    want = ref.run_rwkv(pth, whole, tmp_path / "logits", generation=4)
    assert want is not None
    assert ref.error(view.logits(whole), want) <= ref.TOLERANCE
    scores = tuple(want[0, start - 1 : -1])
    theirs = [int(one.argmax()) for one in scores]
    same_until_unclear(list(made.tokens), theirs, scores)
