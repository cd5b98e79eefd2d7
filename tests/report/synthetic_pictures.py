"""Made-up results of studies, with the fields of the real ones and any size or trouble one asks."""

from __future__ import annotations

from typing import Any

import numpy as np

from laminogram.studies.attention import AttentionMaps
from laminogram.studies.lens import Lens
from laminogram.studies.massive import Massive
from laminogram.studies.model_map import ModelMap, PartRow
from laminogram.studies.next_token import NextToken
from laminogram.studies.similarity import Similarity

WORDS = ("the", " river", " ran", "\n", " the", "é", "<b>", " 🐍", "the", "\u202e", ",", " sea")


def tokens(count: int) -> tuple[str, ...]:
    return tuple(WORDS[i % len(WORDS)] for i in range(count))


def common(count: int, model: str) -> dict[str, Any]:
    said = tokens(count)
    return {"model": model, "tokens": said, "token_ids": tuple(300 + i % 12 for i in range(count))}


def fake_lens(rows: int = 7, count: int = 12, top: int = 5, model: str = "made", seed: int = 0):
    random = np.random.default_rng(seed)
    logits = random.normal(size=(rows, count, 40)) * np.linspace(1, 6, rows)[:, None, None]
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    order = np.argsort(-p, -1)
    final = order[-1, :, 0]
    ranks = np.argsort(order, -1) + 1
    at = np.arange(count)
    entropy = -(p * np.log(p)).sum(-1)
    return Lens(
        **common(count, model),
        labels=("embed", *map(str, range(rows - 1))) if rows > 1 else ("embed",),
        top_ids=order[..., :top],
        top_texts=tuple(
            tuple(tuple(f" w{i}" for i in cell) for cell in row) for row in order[..., :top]
        ),
        top_probability=np.take_along_axis(p, order[..., :top], -1).astype(np.float32),
        entropy=entropy.astype(np.float32),
        kl=(p[-1] * np.log(p[-1] / p)).sum(-1).astype(np.float32),
        rank=ranks[:, at, final],
        probability=p[:, at, final].astype(np.float32),
        final_ids=final,
        next_rank=ranks[:, : count - 1, 7],
        next_probability=p[:, : count - 1, 7].astype(np.float32),
        vocabulary=40,
        chosen={3: (ranks[..., 3], p[..., 3].astype(np.float32))},
        chosen_texts={3: " w3"},
    )


def fake_attention(
    rows: int = 6, heads: int = 4, count: int = 12, pooled: int = 1, signed: bool = False
):
    random = np.random.default_rng(1)
    cells = -(-count // pooled)
    scores = random.normal(size=(rows, heads, cells, cells)).astype(np.float32)
    mask = np.tril(np.ones((cells, cells), bool))
    pattern = np.where(mask, np.exp(3 * scores), 0)
    pattern = pattern / pattern.sum(-1, keepdims=True)
    if signed:
        pattern = np.where(mask, 20 * scores, 0)
    return AttentionMaps(
        **common(count, "made"),
        labels=tuple(map(str, range(rows))),
        steps=tuple(range(rows)),
        layers=tuple(range(rows)),
        pattern=pattern.astype(np.float32),
        pooled=pooled,
        normalised=not signed,
        causal=True,
        meaning="attention weight",
        note="This is made up." if signed else "",
    )


def fake_similarity(states: int = 9, first: bool = True):
    random = np.random.default_rng(2)
    x = np.cumsum(random.normal(size=(states, 30)), 0)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    one = x @ x.T
    groups = (("beginning", 0, 0), ("middle", 1, states - 2), ("ending", states - 1, states - 1))
    return Similarity(
        **common(5, "made"),
        labels=(*map(str, range(states - 1)), "output"),
        flattened=one,
        per_token=one**3,
        without_first=one**5 if first else None,
        cka=np.abs(one),
        groups=groups if states > 3 else (),
        groups_rule="Made up.",
        texts=1,
        count=5,
        cka_tokens=5,
        sources={"flattened": "nowhere"},
    )


def fake_massive(rows: int = 6, count: int = 12, channels: int = 64, pooled: int = 1):
    random = np.random.default_rng(3)
    surface = random.normal(size=(count, channels)).astype(np.float32)
    surface[0, channels // 2] = -340.0
    surface[count - 1, channels // 3] = 90.0
    flat = np.argsort(-np.abs(surface).ravel(), kind="stable")[:3]
    flat = np.pad(flat, (0, 3 - len(flat)), mode="edge")
    places = np.tile(np.stack(np.unravel_index(flat, surface.shape), 1)[None], (rows, 1, 1))
    values = np.tile(surface.ravel()[flat], (rows, 1)).astype(np.float32)
    return Massive(
        **common(count, "made"),
        labels=tuple(map(str, range(rows))),
        site="resid_post",
        top=np.abs(values),
        values=values,
        places=places,
        median=np.full(rows, 0.7, np.float32),
        token_median=np.full(rows, 0.8, np.float32),
        massive=np.zeros(rows, bool),
        nonfinite=np.zeros(rows, int),
        surface=surface,
        surface_row=rows // 2,
        channels=channels * pooled,
        pooled=pooled,
    )


def fake_map(layers: int = 6):
    parts = [PartRow("embedding", "embedding", "embedding", 4000, 8000, "weight 100x40")]
    for layer in range(layers):
        for kind, name, size in (
            ("norms", "norms", 80),
            ("attn", "attention", 6400),
            ("ffn", "MLP", 12800),
        ):
            parts.append(PartRow(str(layer), kind, name, size, 2 * size, "weight 1x1", layer))
    parts += [
        PartRow("final norm", "norms", "final norm", 40, 80, "weight 40"),
        PartRow("head", "head", "head, tied to the embedding", 0, 0, ""),
    ]
    turn = np.linspace(0.1, 0.9, layers)
    turn[-1] = np.nan
    return ModelMap(
        **common(3, "made"),
        labels=tuple(map(str, range(layers))),
        parts=tuple(parts),
        steps=tuple((layer,) for layer in range(layers)),
        statistics={"rms_attn_out": np.arange(layers) + 1.0, "turn": turn},
        meanings={"turn": "made up"},
    )


def fake_next(count: int = 12, top: int = 6):
    random = np.random.default_rng(4)
    p = np.sort(random.dirichlet(np.ones(top)))[::-1].astype(np.float32)
    return NextToken(
        **common(count, "made"),
        labels=tokens(count),
        loss=random.gamma(2, 1.5, size=max(0, count - 1)).astype(np.float32),
        ids=np.arange(top),
        texts=tuple(f" w{i}" for i in range(top)),
        probability=p,
        entropy=1.5,
        temperature=0.7,
    )


def everything() -> list[Any]:
    return [
        fake_lens(),
        fake_attention(),
        fake_similarity(),
        fake_massive(),
        fake_map(),
        fake_next(),
    ]
