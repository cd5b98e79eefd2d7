from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.infer.speaking import speaking_view, view_with_eos, view_with_rope
from tests.stacks import CAUSAL, VOCABULARY, ids_of, relative, view_of

from laminogram.errors import CacheError, ConfigError, EditError, FamilyError, TokenError
from laminogram.infer.generate import Generation, Generations, generate
from laminogram.infer.past import load_past
from laminogram.probe import edits
from laminogram.stack.sites import STACK_STEP
from laminogram.view import View, load

RAGGED = [[3, 1, 4, 1, 5, 9, 2], [6, 5], [35, 8, 9, 7]]
DRAWN: dict[str, Any] = {"temperature": 1.2, "top_k": 30, "top_p": 0.95, "seed": 5}
LONGROPE = {
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [1.0, 2.0, 4.0, 8.0],
    "original_max_position_embeddings": 8,
}


def tokens_of(made: Generation | Generations) -> list[tuple[int, ...]]:
    return [one.tokens for one in ([made] if isinstance(made, Generation) else made)]


@pytest.mark.parametrize("kind", CAUSAL)
@pytest.mark.parametrize("options", [{}, DRAWN, {**DRAWN, "repetition_penalty": 1.5}])
def test_cache_or_not_alone_or_together_at_once_or_not(kind: str, options: dict[str, Any]) -> None:
    view = view_of(kind)
    made = view.generate(RAGGED, max_new_tokens=12, **options)
    assert isinstance(made, Generations)
    assert [len(one.tokens) for one in made] == [12] * 3
    uncached = view.generate(RAGGED, max_new_tokens=12, use_cache=False, **options)
    assert tokens_of(uncached) == tokens_of(made)
    assert uncached.cache is None
    part = view.generate(RAGGED, max_new_tokens=5, **options)
    rest = view.generate(None, max_new_tokens=7, cache=part.cache, **options)
    assert [a + b for a, b in zip(tokens_of(part), tokens_of(rest), strict=True)] == tokens_of(made)
    assert rest[0].prompt_tokens == (*RAGGED[0], *part[0].tokens)


@pytest.mark.parametrize("kind", CAUSAL)
def test_ragged_prompts_equal_each_alone(kind: str) -> None:
    view = view_of(kind)
    made = view.generate(RAGGED, max_new_tokens=10)
    assert tokens_of(made) == [view.generate(row, max_new_tokens=10).tokens for row in RAGGED]
    width = max(map(len, RAGGED))
    left = torch.tensor([[0] * (width - len(row)) + row for row in RAGGED])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in RAGGED])
    padded = view.generate(view.tokens(left, mask=mask), max_new_tokens=10)
    assert tokens_of(padded) == tokens_of(made)


def test_a_row_s_draws_do_not_depend_on_the_other_rows() -> None:
    view = view_of("llama")
    made = view.generate(RAGGED, max_new_tokens=10, **DRAWN)
    other = view.generate([[7], [6, 5], [1] * 9], max_new_tokens=10, **DRAWN)
    assert other[1].tokens == made[1].tokens
    assert other[0].tokens != made[0].tokens
    again = view.generate([[6, 5]] * 3, max_new_tokens=10, temperature=1.5, seed=1)
    assert len(set(tokens_of(again))) == 3
    seeded = view.generate([[6, 5]] * 3, max_new_tokens=10, temperature=1.5, seed=2)
    assert tokens_of(seeded) != tokens_of(again)


@pytest.mark.parametrize("kind", ["llama", "rwkv4", "rwkv7"])
def test_ended_rows_are_frozen(kind: str) -> None:
    free = view_of(kind).generate(RAGGED, max_new_tokens=10)
    eos = next(t for t in free[0].tokens[:6] if t not in free[1].tokens)
    view = view_with_eos(kind, (eos,))
    made = view.generate(RAGGED, max_new_tokens=10)
    assert made[0].finish_reason == "eos"
    assert made[0].tokens == free[0].tokens[: len(made[0].tokens)]
    assert made[0].tokens[-1] == eos
    assert made[1].finish_reason == "length"
    assert made[1].tokens == free[1].tokens
    assert tokens_of(view.generate(RAGGED, max_new_tokens=10, use_cache=False)) == tokens_of(made)
    assert tokens_of(view.generate(RAGGED, max_new_tokens=10, stop_at_eos=False)) == tokens_of(free)
    # The ended row's memory is what it was when it ended, though the others went on.
    alone = view.generate(RAGGED[0], max_new_tokens=10)
    assert alone.cache is not None
    assert made[0].cache is not None
    ours, theirs = made[0].cache.cache, alone.cache.cache
    assert ours.lengths == theirs.lengths
    for name, x in theirs.tensors().items():
        columns = slice(theirs.lengths[0]) if name.endswith((".k", ".v")) else slice(None)
        found = ours.tensors()[name]
        if x.dim() == 4 and name.endswith((".k", ".v")):
            x, found = x[:, :, columns], found[:, :, columns]
        torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-5)
    going = view.generate([[4, 4], [], [2]], max_new_tokens=4, cache=made.cache, stop_at_eos=False)
    for row, (one, more) in enumerate(zip(made, [[4, 4], [], [2]], strict=True)):
        whole = [*RAGGED[row], *one.tokens, *more]
        assert going[row].tokens == view.generate(whole, max_new_tokens=4, stop_at_eos=False).tokens


@torch.no_grad()
def test_a_cache_that_knows_the_length_to_come_turns_as_the_whole_text_does() -> None:
    view, ids = view_with_rope("dynamic", factor=2.0), ids_of(1, 12)
    cache = view.new_cache(1, planned=12)
    parts = [view.run(view.tokens(part), cache=cache) for part in (ids[:, :5], ids[:, 5:])]
    assert relative(torch.cat(parts, 1), view.logits(ids)) < 1e-5
    short = view.run(view.tokens(ids[:, :5]), cache=view.new_cache(1))
    assert relative(short, parts[0]) > 1e-3


@pytest.mark.parametrize(
    "view",
    [view_with_rope("dynamic", factor=2.0), view_with_rope("longrope", **LONGROPE)],
    ids=["dynamic", "longrope"],
)
def test_a_rotary_that_changes_on_the_way(view: View) -> None:
    made = view.generate(RAGGED, max_new_tokens=9)
    uncached = view.generate(RAGGED, max_new_tokens=9, use_cache=False)
    assert tokens_of(made) == tokens_of(uncached)
    assert tokens_of(made) == [view.generate(row, max_new_tokens=9).tokens for row in RAGGED]
    part = view.generate(RAGGED, max_new_tokens=3)
    rest = view.generate(None, max_new_tokens=6, cache=part.cache)
    assert [a + b for a, b in zip(tokens_of(part), tokens_of(rest), strict=True)] == tokens_of(made)
    eos = next(t for t in made[1].tokens[:5] if t not in made[0].tokens)
    plain = view.stack.config
    view.stack.config = replace(plain, eos_token_ids=(eos,))
    ended = view.generate(RAGGED, max_new_tokens=9)
    view.stack.config = plain
    assert ended[1].finish_reason == "eos"
    assert ended[0].tokens == made[0].tokens


@pytest.mark.filterwarnings("ignore:the text is")  # longer than 64 tokens
@pytest.mark.parametrize("kind", ["llama", "rwkv7"])
@pytest.mark.parametrize("phase", ["new", "prompt"])
def test_edits_of_a_phase_are_the_same_on_every_way(kind: str, phase: str) -> None:
    plain = view_of(kind)
    view = plain.using(plan="0, 1, 1, 2", edits=edits.scale("ffn_out", -2.0, layers=1, phase=phase))
    made = view.generate(RAGGED, max_new_tokens=10)
    assert tokens_of(made) != tokens_of(plain.using(plan="0, 1, 1, 2").generate(RAGGED))
    assert tokens_of(view.generate(RAGGED, max_new_tokens=10, use_cache=False)) == tokens_of(made)
    part = view.generate(RAGGED, max_new_tokens=4)
    if phase == "new":
        rest = view.generate(None, max_new_tokens=6, cache=part.cache)
        whole = [a + b for a, b in zip(tokens_of(part), tokens_of(rest), strict=True)]
        assert whole == tokens_of(made)
    with pytest.raises(CacheError, match="cannot go on"):
        plain.generate(None, cache=part.cache)


def test_an_observer_sees_every_forward_and_every_column() -> None:
    view = view_of("llama")
    seen: list[tuple[str, tuple[int, ...]]] = []
    program = view.program(
        reads={1: ("ffn_out",), STACK_STEP: ("logits",)},
        sink=lambda site, step, x: seen.append((site, tuple(x.shape))),
    )
    made = view.generate(RAGGED, max_new_tokens=3, observer=program)
    assert tokens_of(made) == tokens_of(view.generate(RAGGED, max_new_tokens=3))
    assert program.prompt_lengths == (7, 2, 4)
    widths = [shape[:2] for site, shape in seen if site == "logits"]
    assert widths == [(3, 7), (3, 1), (3, 1)]
    assert [shape[:2] for site, shape in seen if site == "ffn_out"] == widths


def test_a_row_that_ended_counts_as_pad_for_an_observer() -> None:
    free = view_of("llama").generate(RAGGED, max_new_tokens=4)
    eos = next(t for t in free[0].tokens[:2] if t not in free[1].tokens)
    view = view_with_eos("llama", (eos,))
    program = view.program(reads={0: ("ffn_out",)})
    made = view.generate(RAGGED, max_new_tokens=4, observer=program)
    assert program.run is not None
    assert program.run.mask[:, 0].tolist()[:2] == [False, True]
    assert program.frames(0) == len(RAGGED[0]) + len(made[0].tokens) - 1


def test_text_stop_strings_and_streaming() -> None:
    view = speaking_view("rwkv4")
    pieces: list[str] = []
    made = view.generate("the sea – ", max_new_tokens=40, stream=pieces.append, **DRAWN)
    assert isinstance(made, Generation)
    assert view.tokenizer is not None
    assert str(made) == made.text == "".join(pieces) == view.tokenizer.decode(made.tokens)
    assert made.finish_reason == "length"
    assert made.text is not None
    stop = made.text[7:10]
    pieces.clear()
    cut = view.generate(
        "the sea – ", max_new_tokens=40, stream=pieces.append, stop=("never", stop), **DRAWN
    )
    assert cut.finish_reason == "stop"
    assert cut.text == "".join(pieces) == made.text[: made.text.index(stop)]
    assert cut.tokens == made.tokens[: len(cut.tokens)]
    rows: dict[int, str] = {0: "", 1: ""}
    both = view.generate(
        ["the sea – ", "a"],
        max_new_tokens=40,
        stream=lambda row, piece: rows.update({row: rows[row] + piece}),
        stop=stop,
        **DRAWN,
    )
    assert both.texts == [rows[0], rows[1]]
    assert both.texts[0] == cut.text


def test_text_goes_on_after_a_cache() -> None:
    view = speaking_view("llama")
    first = view.generate("the sea", max_new_tokens=6)
    kept = first.cache.fork()
    more = view.generate(" and then", max_new_tokens=6, cache=first.cache)
    assert view.tokenizer is not None
    whole = [*view.tokenizer.encode("the sea"), *first.tokens, *view.tokenizer.encode(" and then")]
    assert more.prompt_tokens == tuple(whole)
    assert more.tokens == view.generate(whole, max_new_tokens=6).tokens
    other = view.generate("!", max_new_tokens=3, cache=kept)
    assert other.prompt_tokens[-1:] == tuple(view.tokenizer.encode("!"))


@pytest.mark.parametrize("kind", ["gpt_neox", "rwkv7"])
def test_a_past_is_saved_loaded_and_forked(kind: str, tmp_path: Path) -> None:
    view = view_of(kind)
    made = view.generate(RAGGED, max_new_tokens=4)
    made.cache.save(tmp_path / "past.safetensors")
    forked = made.cache.fork(2)
    one = made.cache.row(1)
    expected = tokens_of(view.generate(None, max_new_tokens=5, cache=made.cache))
    loaded = load_past(view, tmp_path / "past.safetensors")
    assert tokens_of(view.generate(None, max_new_tokens=5, cache=loaded)) == expected
    twice = tokens_of(view.generate(None, max_new_tokens=5, cache=forked))
    assert twice == [row for row in expected for _ in range(2)]
    assert tokens_of(view.generate(None, max_new_tokens=5, cache=one)) == [expected[1]]
    with pytest.raises(CacheError, match="was filled under"):
        load_past(view.using(plan="0, 1"), tmp_path / "past.safetensors")
    with pytest.raises(CacheError, match="row 3 does not exist"):
        made.cache.row(3)


def test_greedy_equals_transformers_where_the_margin_allows(tmp_path: Path) -> None:
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=None,
        bos_token_id=None,
        max_position_embeddings=64,
    )
    torch.manual_seed(0)
    theirs = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.3)
    theirs.save_pretrained(tmp_path)
    prompt = ids_of(1, 6)
    found = theirs.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=20,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        pad_token_id=0,
    )
    ours = load(tmp_path, dtype="fp32").generate(prompt[0], max_new_tokens=20)
    compared = 0
    for token, wanted, logits in zip(
        ours.tokens, found.sequences[0, 6:].tolist(), found.logits, strict=True
    ):
        first, second = logits[0].topk(2).values.tolist()
        if first - second < 10 * 1e-4 * float(logits.abs().max()):
            break
        assert token == wanted
        compared += 1
    assert compared > 10


def test_what_cannot_be_is_refused_in_a_sentence() -> None:
    view = view_of("llama")
    with pytest.raises(FamilyError, match="encoder"):
        view_of("bert").generate([1, 2])
    with pytest.raises(ConfigError, match="max_new_tokens is 0"):
        view.generate([1], max_new_tokens=0)
    with pytest.raises(ConfigError, match="top_p is 2"):
        view.generate([1], top_p=2.0)
    with pytest.raises(TokenError, match="no tokenizer, and stop strings need one"):
        view.generate([1], stop="x")
    with pytest.raises(TokenError, match="no tokenizer, and streaming needs one"):
        view.generate([1], stream=print)
    with pytest.raises(TokenError, match="no prompt"):
        generate(view)
    made = view.generate([[1], [2]], max_new_tokens=2)
    with pytest.raises(CacheError, match="holds 2 rows, 1 prompts"):
        view.generate([1], cache=made.cache)
    with pytest.raises(TokenError, match="outside the vocabulary"):
        view.generate([[1], [VOCABULARY]], cache=made.cache)
    with pytest.raises(ConfigError, match="use_cache=False"):
        view.generate(None, cache=made.cache, use_cache=False)
    with pytest.raises(ConfigError, match="found Cache"):
        view.generate(None, cache=made.cache.cache)
    before = [list(row) for row in made.cache.tokens]
    assert before == made.cache.tokens
    assert "[1]" in repr(made)


@pytest.mark.parametrize("where", [{"positions": [[0], [-1, 1]]}, {"phase": "prompt"}])
def test_an_edit_that_acted_in_what_a_cache_holds_is_no_error(where: dict[str, Any]) -> None:
    view = view_of("llama").using(edits=edits.scale("ffn_out", 0.1, **where))
    prompts, options = [[1, 2, 3], [4, 5, 6, 7]], {"stop_at_eos": False}
    whole = view.generate(prompts, max_new_tokens=6, **options)
    part = view.generate(prompts, max_new_tokens=2, **options)
    rest = view.generate(None, max_new_tokens=4, cache=part.cache, **options)
    assert [a.tokens + b.tokens for a, b in zip(part, rest, strict=True)] == tokens_of(whole)
    never = view_of("llama").using(edits=edits.zero("ffn_out", positions=[30]))
    with pytest.raises(EditError, match="selected nothing"):
        never.generate([1, 2], max_new_tokens=1)


@pytest.mark.parametrize("kind", ["llama", "rwkv4"])
def test_a_row_that_goes_on_alone_draws_as_it_would_have_among_others(kind: str) -> None:
    view = view_of(kind)
    options = {"temperature": 1.0, "seed": 5}
    whole = view.generate([[1, 2], [3, 4]], max_new_tokens=8, **options)
    half = view.generate([[1, 2], [3, 4]], max_new_tokens=4, **options)
    rest = view.generate(None, cache=half[1].cache, max_new_tokens=4, **options)
    assert half[1].tokens + rest.tokens == whole[1].tokens


def test_a_cache_of_another_model_is_refused(tmp_path: Path) -> None:
    made = view_of("llama").generate([1, 2, 3], max_new_tokens=2)
    other = replace(view_of("llama", seed=1), name="other")
    made.cache.save(tmp_path / "past")
    with pytest.raises(CacheError, match=r"filled under \[llama, plan .* under \[other, plan"):
        other.generate(cache=made.cache, max_new_tokens=2)
    with pytest.raises(CacheError, match=r"filled under \[llama, plan .* under \[other, plan"):
        load_past(other, tmp_path / "past")


def test_a_text_beyond_the_context_is_told() -> None:
    view = _made_for(speaking_view("llama"), 6)
    generate(view, [1, 2, 3], max_new_tokens=3)  # a warning would be an error
    with pytest.warns(UserWarning, match="7 tokens long, and .* was made for 6"):
        generate(view, [1, 2, 3], max_new_tokens=4)


@pytest.mark.parametrize("kind", ["rwkv4", "alibi", "dynamic"])
def test_nothing_is_told_of_a_context_that_may_grow(kind: str) -> None:
    grows = kind == "dynamic"
    view = view_with_rope(kind, factor=2.0) if grows else speaking_view(kind)
    assert _made_for(view, 6).config.longest_text is None
    generate(view, [1, 2, 3], max_new_tokens=9)


def _made_for(view: View, tokens: int) -> View:
    view.stack.config = replace(view.stack.config, max_position_embeddings=tokens)
    return view
