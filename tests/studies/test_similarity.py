"""Similarity: the four measures against numpy written from their definitions, and the groups."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from tests.stacks import KINDS, ids_of, view_of

from laminogram.errors import ConfigError
from laminogram.probe.edits import zero
from laminogram.studies import similarity as module
from laminogram.studies.similarity import find_groups, linear_cka, similarity
from laminogram.view import View

TEXTS = [ids_of(1, n, seed=n)[0].tolist() for n in (7, 4, 1)]
PLANS = ("0-2", "0, 2x(1), 2", "0, 2x(mean(1, 2))", "0.attn, 1, 2.ffn")


def states_of(view: View, text: list[int]) -> np.ndarray:
    """Inputs of each step and the output of the last (R, T, C), for plans that end with a step."""
    gram = view.record(text, sites=["resid_pre", "resid_post"])
    last = len(view.plan) - 1
    return np.concatenate([gram["resid_pre"][:, 0], gram["resid_post", last]]).astype(np.float64)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def by_definition(texts: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Each measure, pair by pair."""
    count = len(texts[0])
    found = {name: np.zeros((count, count)) for name in ("flattened", "per_token", "later", "cka")}
    together = np.concatenate(texts, 1)
    for i, j in itertools.product(range(count), repeat=2):
        found["flattened"][i, j] = np.mean([cosine(x[i].ravel(), x[j].ravel()) for x in texts])
        each = [cosine(x[i, t], x[j, t]) for x in texts for t in range(x.shape[1])]
        later = [cosine(x[i, t], x[j, t]) for x in texts for t in range(1, x.shape[1])]
        found["per_token"][i, j], found["later"][i, j] = np.mean(each), np.mean(later)
        a, b = (together[k] - together[k].mean(0) for k in (i, j))
        top = np.linalg.norm(b.T @ a) ** 2
        found["cka"][i, j] = top / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    return found


@pytest.mark.parametrize("plan", [PLANS[0], PLANS[1], PLANS[3]])
@pytest.mark.parametrize("kind", KINDS)
def test_every_measure_by_its_definition(kind: str, plan: str) -> None:
    view = view_of(kind).using(plan=plan)
    found = similarity(view, TEXTS)
    wanted = by_definition([states_of(view, text) for text in TEXTS])
    np.testing.assert_allclose(found.flattened, wanted["flattened"], atol=1e-6)
    np.testing.assert_allclose(found.per_token, wanted["per_token"], atol=1e-6)
    assert found.without_first is not None
    np.testing.assert_allclose(found.without_first, wanted["later"], atol=1e-6)
    np.testing.assert_allclose(found.cka, wanted["cka"], atol=1e-6)
    assert (found.texts, found.count, found.cka_tokens) == (3, 12, 12)
    assert found.labels[-1] == "output" and len(found.labels) == len(view.plan) + 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_output_of_a_plan_that_ends_with_a_group(kind: str) -> None:
    """With f(h) the branches' mean, the output is what a further step would read."""
    view = view_of(kind)
    ends = similarity(view.using(plan=PLANS[2]), TEXTS[0])
    further = similarity(view.using(plan=f"{PLANS[2]}, 0"), TEXTS[0])
    np.testing.assert_allclose(ends.per_token, further.per_token[:-1, :-1], atol=1e-6)
    np.testing.assert_allclose(ends.cka, further.cka[:-1, :-1], atol=1e-6)


def test_long_texts_are_read_in_pieces() -> None:
    text = ids_of(1, 2 * module._TOKENS_AT_ONCE + 3)[0].tolist()
    view = view_of("llama")
    found = similarity(view, [text])
    wanted = by_definition([states_of(view, text)])
    np.testing.assert_allclose(found.flattened, wanted["flattened"], atol=1e-6)
    np.testing.assert_allclose(found.without_first, wanted["later"], atol=1e-6)


def test_alignment_takes_tokens_spread_over_all_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CKA_TOKENS", 5)
    view = view_of("rwkv4")
    found = similarity(view, TEXTS)
    assert found.cka_tokens == 5
    states = np.concatenate([states_of(view, text) for text in TEXTS], 1)
    chosen = [0, 3, 6, 8, 11]  # of 12, evenly; halves to even
    np.testing.assert_allclose(found.cka, linear_cka(states[:, chosen]), atol=1e-5)


def test_pads_play_no_part() -> None:
    view = view_of("llama")
    alone = [similarity(view, text).flattened for text in TEXTS[:2]]
    np.testing.assert_allclose(similarity(view, TEXTS[:2]).flattened, np.mean(alone, 0), atol=1e-9)


def test_alignment_does_not_see_rotation_or_scale() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(20, 6))
    turn, _ = np.linalg.qr(generator.normal(size=(6, 6)))
    found = linear_cka(np.stack([x, 3 * x @ turn + 5, generator.normal(size=(20, 6))]))
    assert found[0, 1] == pytest.approx(1) and found[0, 2] < 0.7
    assert np.isnan(linear_cka(np.ones((1, 4, 3)))).all()


def blocks(*sizes: int, near: float = 0.9, far: float = 0.3) -> np.ndarray:
    group = np.repeat(np.arange(len(sizes)), sizes)
    return np.where(group[:, None] == group, near, far) + np.eye(len(group)) * (1 - near)


@pytest.mark.parametrize("sizes", [(1, 2, 1), (2, 5, 1), (3, 9, 4), (1, 3, 2)])
def test_groups_that_are_there_are_found(sizes: tuple[int, int, int]) -> None:
    first, second, count = np.cumsum(sizes).tolist()
    assert find_groups(blocks(*sizes)) == (
        ("beginning", 0, first - 1),
        ("middle", first, second - 1),
        ("ending", second, count - 1),
    )


@pytest.mark.parametrize("seed", range(20))
def test_groups_are_the_best_of_all_cuts(seed: int) -> None:
    generator = np.random.default_rng(seed)
    count = int(generator.integers(4, 11))
    matrix = generator.uniform(-1, 1, (count, count))
    matrix = (matrix + matrix.T) / 2

    def score(edges: tuple[int, int]) -> float:
        group = [sum(i >= edge for edge in edges) for i in range(count)]
        pairs = list(itertools.combinations(range(count), 2))
        within = [matrix[i, j] for i, j in pairs if group[i] == group[j]]
        between = [matrix[i, j] for i, j in pairs if group[i] != group[j]]
        return float(np.mean(within) - np.mean(between))

    cuts = [(a, b) for a in range(1, count) for b in range(a + 2, count)]
    found = find_groups(matrix)
    (_, _, _), (_, first, last), (_, second, end) = found
    assert score((first, second)) == pytest.approx(max(map(score, cuts)))
    assert last == second - 1 > first and end == count - 1


def test_too_few_states_have_no_groups() -> None:
    found = similarity(view_of("llama").using(plan="0, 1"), TEXTS[0])
    assert found.groups == () and "fewer" in found.groups_rule
    assert "similarity-groups" not in found.tables()
    assert find_groups(np.full((6, 6), np.nan)) == ()


def test_one_token_has_nothing_after_the_first() -> None:
    found = similarity(view_of("llama"), TEXTS[2])
    assert found.without_first is None and found.count == 1
    assert "without_first" not in found.tables()["similarity"]
    assert np.isfinite(found.per_token).all()


def test_edits_act() -> None:
    found = similarity(view_of("llama").using(edits=zero("resid_post", layers=2)), TEXTS[0])
    assert (found.per_token[-1] == 0).all()  # the output is zero; its cosine is called 0


def test_tables_name_every_pair() -> None:
    found = similarity(view_of("gpt_neox"), TEXTS)
    table = found.tables()["similarity"]
    assert {len(column) for column in table.values()} == {16}
    assert (table["label"][7], table["other_label"][7]) == ("1", "output")
    assert table["per_token"][7] == found.per_token[1, 3]
    assert found.tables()["similarity-groups"]["group"] == ["beginning", "middle", "ending"]
    assert set(found.sources) == {"flattened", "per_token", "without_first", "cka"}
    assert found.manifest["asked"]["texts"] == 3


def test_a_text_beyond_the_context_is_refused() -> None:
    with pytest.raises(ConfigError, match="65 tokens"):
        similarity(view_of("llama"), [TEXTS[0], ids_of(1, 65)[0].tolist()])
