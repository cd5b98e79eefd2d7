"""Plans against `transformers`: its list of layers put in another order by hand.

Without a cache that is an independent statement of what a plan means. With one it is not: the last
tests pin down what goes wrong there, as docs/plans.md tells it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.families import reference as ref
from tests.families.hf_models import WIDE
from tests.families.test_bundled import ids_of, same_until_unclear
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from laminogram import Plan, bundled, load
from laminogram.view import View

TOLERANCE = 1e-5
PLANS = {
    "skip": "0-1, 4-5",
    "first layer skipped": "2-5",
    "reverse": "0, 4-1, 5",
    "swap": "0-1, 3, 2, 4-5",
    "repeat": "0-1, 3x(2), 3-5",
    "loop": "0, 2x(1-4), 5",
    "loop backwards": "0, 2x(1-3, 2), 5",
}
NEW = 40
ROW = ref.tokens(1, 7)


@cache
def ours() -> View:
    return load("tiny-llama", dtype="fp32")


def bundled_llama() -> Any:
    path = bundled.path("tiny-llama")
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def reorder(model: Any, order: Sequence[int], *, count: bool = True) -> Any:
    """The same layer objects in another order; `count` tells the configuration how many."""
    model.model.layers = nn.ModuleList(model.model.layers[layer] for layer in order)
    if count:
        model.config.num_hidden_layers = len(order)
    return model


def layers_of(plan: str) -> list[int]:
    return [step.layer for step in Plan.parse(plan).steps]


@pytest.mark.parametrize("name", PLANS)
def test_logits_equal_those_of_the_permuted_list(name: str) -> None:
    model, ids = reorder(bundled_llama(), layers_of(PLANS[name])), ids_of("tiny-llama")
    with torch.no_grad():
        want = model(ids, use_cache=False).logits
    got = ours().using(plan=PLANS[name]).logits(ids)
    assert ref.error(got, want) <= TOLERANCE
    assert ref.error(ours().logits(ids), want) > 100 * TOLERANCE


@pytest.mark.parametrize("plan", ["3x(0-2)", "2-0, 1, 1", "1", "2x(2, 0)"])
def test_logits_of_a_random_model(tmp_path: Path, plan: str) -> None:
    model = small("sdpa")
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        want = reorder(model, layers_of(plan))(ROW, use_cache=False).logits
    got = load(tmp_path).using(plan=plan).logits(ROW)
    assert ref.error(got, want) <= TOLERANCE


@pytest.mark.parametrize("name", ["first layer skipped", "reverse", "repeat", "loop"])
def test_cached_text_equals_their_uncached_text(name: str) -> None:
    """Token for token, until a choice falls otherwise between two that are nearly equal."""
    prompt = "The river"
    ids = ids_of("tiny-llama", prompt)
    made = reorder(bundled_llama(), layers_of(PLANS[name])).generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=NEW,
        do_sample=False,
        use_cache=False,
        eos_token_id=4096,  # an id that is never drawn: the texts go on
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    view = ours().using(plan=PLANS[name])
    mine = view.generate(prompt, max_new_tokens=NEW, stop_at_eos=False).tokens
    same_until_unclear(list(mine), made.sequences[0, ids.shape[1] :].tolist(), made.logits)


# What transformers does with a list in another order and a cache


def small(attention: str) -> Any:
    sizes = WIDE | {"num_hidden_layers": 4, "num_key_value_heads": 2}
    return ref.draw(LlamaForCausalLM(LlamaConfig(**sizes, attn_implementation=attention)))


def first_forward(model: Any) -> tuple[float, list[int]]:
    """How far the first forward with a cache is from the one without, and each slot's length."""
    with torch.no_grad():
        want = model(ROW, use_cache=False).logits
        got = model(ROW, use_cache=True)
    lengths = [layer.get_seq_length() for layer in got.past_key_values.layers]
    return ref.error(got.logits, want), lengths


def next_token(model: Any) -> float:
    """How far the logits of one more token with the cache are from those without."""
    token = torch.tensor([[5]])
    with torch.no_grad():
        past = model(ROW, use_cache=True).past_key_values
        got = model(token, past_key_values=past, use_cache=True).logits[:, -1]
        want = model(torch.cat([ROW, token], 1), use_cache=False).logits[:, -1]
    return ref.error(got, want)


def test_a_permutation_is_cached_rightly() -> None:
    model = reorder(small("sdpa"), [3, 0, 2, 1])
    assert first_forward(model) == (0.0, [7, 7, 7, 7])
    assert next_token(model) <= TOLERANCE


def test_a_layer_that_repeats_is_silently_wrong() -> None:
    """Both runs write to the slot of the object's `layer_idx`, and the second reads the first."""
    wrong, lengths = first_forward(reorder(small("sdpa"), [0, 1, 1, 2, 3]))
    assert wrong > 0.1
    assert lengths == [7, 14, 7, 7, 0]
    assert next_token(reorder(small("sdpa"), [0, 1, 1, 2, 3])) > 0.1


def test_the_second_run_attends_to_the_keys_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the doubled slot the masked attention keeps the first T columns: those of the first."""
    seen: list[tuple[Tensor, Tensor]] = []
    real = torch.nn.functional.scaled_dot_product_attention

    def spy(q: Tensor, k: Tensor, v: Tensor, *rest: Any, **how: Any) -> Tensor:
        seen.append((k.clone(), v.clone()))
        return real(q, k, v, *rest, **how)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    first_forward(reorder(small("sdpa"), [0, 1, 1, 2, 3]))
    with_cache = seen[5:]
    assert torch.equal(with_cache[1][0], with_cache[2][0])
    assert torch.equal(with_cache[1][1], with_cache[2][1])


def test_eager_attention_refuses_a_layer_that_repeats() -> None:
    with pytest.raises(RuntimeError, match=r"tensor a \(14\) must match .* b \(7\)"):
        first_forward(reorder(small("eager"), [0, 1, 1, 2, 3]))


def test_a_skipped_layer_has_no_slot() -> None:
    """The cache has as many slots as the configuration says, and the last layers point beyond."""
    with pytest.raises(IndexError):
        first_forward(reorder(small("sdpa"), [0, 2, 3]))


def test_without_the_count_positions_start_again_where_layer_0_is_skipped() -> None:
    assert first_forward(reorder(small("sdpa"), [1, 2, 3], count=False)) == (0.0, [0, 7, 7, 7])
    assert next_token(reorder(small("sdpa"), [1, 2, 3], count=False)) > 0.1
    assert next_token(reorder(small("sdpa"), [0, 2, 3], count=False)) <= TOLERANCE


def test_without_the_count_a_longer_list_is_cut() -> None:
    with torch.no_grad():
        long = reorder(small("sdpa"), [0, 1, 1, 2, 3], count=False)(ROW, use_cache=False).logits
        cut = reorder(small("sdpa"), [0, 1, 1, 2])(ROW, use_cache=False).logits
    assert torch.equal(long, cut)


@pytest.mark.parametrize("order", [[1, 2, 3], [0, 1, 1, 2, 3], [3, 3]])
def test_shallow_copies_with_places_of_their_own_are_right(order: list[int]) -> None:
    """The cure that shares weights: each place an object of its own, its `layer_idx` the place."""
    model = small("sdpa")
    model.model.layers = nn.ModuleList(
        numbered(model.model.layers[layer], place) for place, layer in enumerate(order)
    )
    model.config.num_hidden_layers = len(order)
    assert first_forward(model) == (0.0, [7] * len(order))
    assert next_token(model) <= TOLERANCE


def numbered(layer: Any, place: int) -> Any:
    layer, attention = copy.copy(layer), copy.copy(layer.self_attn)
    attention.layer_idx = place
    layer._modules = {**layer._modules, "self_attn": attention}
    return layer
