"""The wrapped model is the model: logits to the bit, every hidden state, greedy text."""

from __future__ import annotations

import pytest
import torch
from tests.generic.models import (
    CACHED,
    CAUSAL,
    CONFIGS,
    ENCODERS,
    LAYERS,
    apart,
    fresh,
    ids_of,
    logits_of,
    model_of,
    view_of,
    wrapped,
)

CLOSE = 3e-6


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_those_of_transformers_to_the_bit(name: str) -> None:
    ids = ids_of(2, 13)
    assert torch.equal(wrapped(name).logits(ids), logits_of(model_of(name), ids))


@pytest.mark.parametrize("name", ["granite", "gemma2", "phi", "bloom"])
def test_logits_in_bf16(name: str) -> None:
    ids = ids_of(1, 9)
    view = wrapped(name).using(precision="bf16")
    twin = fresh(name)
    for weight in twin.parameters():  # and no buffer: rotary frequencies stay in fp32
        weight.data = weight.data.to(torch.bfloat16)
    assert torch.equal(view.logits(ids), logits_of(twin, ids))
    assert view.stack.dtype == torch.bfloat16
    assert wrapped(name).stack.dtype == torch.float32


@pytest.mark.parametrize("name", CONFIGS)
def test_residuals_are_the_hidden_states(name: str) -> None:
    ids = ids_of(2, 9)
    gram = wrapped(name).record(ids, sites=["embed", "resid_pre", "resid_post", "final"])
    with torch.no_grad():
        out = model_of(name)(input_ids=ids, use_cache=False, output_hidden_states=True)
    states = out.hidden_states
    if name == "mamba":  # lists what leaves each layer, and not what enters the first
        states = (gram.tensor("embed", -1), *states)
    for layer in range(LAYERS):
        assert torch.equal(gram.tensor("resid_pre", layer), states[layer])
    for layer in range(LAYERS - 1):
        assert torch.equal(gram.tensor("resid_post", layer), states[layer + 1])
    if name not in ("opt", *ENCODERS):  # OPT's last one is projected down after it
        assert torch.equal(gram.tensor("final", -1), states[-1])


@pytest.mark.parametrize("name", CACHED)
def test_greedy_text_is_that_of_transformers(name: str) -> None:
    rows = [ids_of(1, 5)[0].tolist(), ids_of(1, 9, seed=1)[0].tolist()]
    made = wrapped(name).generate(rows, max_new_tokens=7, stop_at_eos=False)
    for row, one in zip(rows, made, strict=True):
        ids = torch.tensor([row])
        text = model_of(name).generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=7,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert list(one.tokens) == text[0, len(row) :].tolist()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_changes_nothing(name: str, side: str) -> None:
    ids, mask = ids_of(2, 11), torch.ones(2, 11, dtype=torch.bool)
    pads = slice(0, 4) if side == "left" else slice(7, 11)
    mask[1, pads] = False
    together = wrapped(name).logits(ids, mask=mask)
    for row in range(2):
        alone = logits_of(model_of(name), ids[row][mask[row]][None])[0]
        assert apart(together[row][mask[row]], alone) < CLOSE


@pytest.mark.parametrize("name", ["granite", "gemma2", "opt", "mamba"])
def test_loss_is_the_cross_entropy_of_its_logits(name: str) -> None:
    ids = ids_of(2, 9)
    logits = logits_of(model_of(name), ids)[:, :-1]
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    assert wrapped(name).loss(ids).mean == pytest.approx(float(expected), rel=1e-5)


def test_a_row_longer_than_the_window_is_cut_by_it_with_a_cache_too() -> None:
    """Gemma 2 with another window is another model, and so is its text from a cache."""
    model, ids = model_of("gemma2"), ids_of(1, 14)
    config = type(model.config)(**(model.config.to_dict() | {"sliding_window": 50}))
    wide = type(model)(config)
    wide.load_state_dict(model.state_dict())
    other = view_of(wide.eval())
    for view, itself in ((wrapped("gemma2"), model), (other, wide)):
        cache = view.new_cache(1)
        parts = [view.run(view.tokens(part), cache=cache) for part in ids.split([9, 1, 3, 1], 1)]
        assert apart(torch.cat(parts, 1), logits_of(itself, ids)) < CLOSE
    assert apart(other.logits(ids), logits_of(model, ids)) > 100 * CLOSE


@pytest.mark.parametrize("name", CAUSAL)
def test_gradients_are_those_of_transformers(name: str) -> None:
    ids, model = ids_of(1, 6), model_of(name)
    gram = wrapped(name).record(ids, sites=["embed"], grad=lambda logits: logits.square().sum())
    start = gram.tensor("embed", -1)
    held: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        held.append(args[0] if args else kwargs["hidden_states"])

    first = wrapped(name).stack.spine.layers[0]  # type: ignore[attr-defined]
    handle = first.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        out = model(input_ids=ids, use_cache=False).logits.square().sum()
    finally:
        handle.remove()
    assert torch.equal(held[0], start)
    (expected,) = torch.autograd.grad(out, held)
    assert gram.grad is not None
    assert apart(gram.grad.tensor("embed", -1), expected) < 1e-5
