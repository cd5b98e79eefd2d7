"""The doctor: does a loaded model keep its own arithmetic?

No reference is needed: each check computes one thing in two ways that must agree. Values are
max|a - b| / max|b|, over everything that was compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from laminogram.errors import CacheError, TokenError
from laminogram.infer import captured
from laminogram.infer.decode_graph import DecodeGraph
from laminogram.plans import Part
from laminogram.probe import edits
from laminogram.probe.gram import Gram
from laminogram.stack import kernels
from laminogram.stack.batch import Batch
from laminogram.stack.config import (
    AttentionConfig,
    TimeMix4Config,
    TimeMix5Config,
    TimeMix6Config,
    TimeMix7Config,
)
from laminogram.stack.layer import Layer
from laminogram.stack.sites import MATRIX, layer_sites

if TYPE_CHECKING:
    from laminogram.view import View

TEXT = "The doctor looked at the river, and the river at the doctor. – Well? said the one."
_TOKENS = 24
_EXACT = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 1e-3}
_CLOSE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Tolerances: for one operation done again, and for a whole forward in another order."""

Found = dict[tuple[str, int], Tensor]


@dataclass(frozen=True)
class Row:
    """One check: held is None where it does not apply (`note` says why)."""

    name: str
    held: bool | None
    value: float | None
    tolerance: float | None
    note: str

    def __str__(self) -> str:
        verdict = {True: "held", False: "BROKEN", None: "not asked"}[self.held]
        numbers = "" if self.value is None else f" {self.value:.1e} (at most {self.tolerance:.0e})"
        return f"{self.name}: {verdict}{numbers}{', ' + self.note if self.note else ''}"


@dataclass(frozen=True)
class Report:
    """All checks of one model; prints as a list."""

    name: str
    rows: tuple[Row, ...]

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return all(row.held is not False for row in self.rows)

    def __str__(self) -> str:
        return "\n".join([f"doctor: {self.name}", *(f"  {row}" for row in self.rows)])


@torch.no_grad()
def examine(view: View, text: str | None = None) -> Report:
    """Check a model under its plan, by arithmetic on a short text (random ids without a tokenizer).

    The view's edits are left out, since an edit may break an equation and be right to. TokenError
    for a text of fewer than 4 tokens.
    """
    view = replace(view, edits=())
    batch = _tokens(view, text)
    rows = [
        _block_equation(view, batch),
        *_pattern(view, batch),
        *_going_on(view, batch),
        *_batches(view, batch),
        _no_op(view, batch),
        *_slow_kernels(view),
        _captured_step(view, batch),
        *_uncaptured_forwards(view),
    ]
    return Report(view.name, tuple(rows))


def _tokens(view: View, text: str | None) -> Batch:
    if text is None and view.tokenizer is None:
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(0, view.config.vocab_size, (1, _TOKENS), generator=generator)
        return view.tokens(ids)
    batch = view.tokens(TEXT if text is None else text)
    if batch.lengths[0] < 4:
        raise TokenError(f"the text has {batch.lengths[0]} tokens; the checks need at least 4")
    return batch


def _judged(
    name: str,
    view: View,
    pairs: list[tuple[Tensor, Tensor]],
    note: str,
    tolerances: Mapping[torch.dtype, float] = _CLOSE,
) -> Row:
    """The worst of several comparisons against the tolerance of the view's dtype."""
    value = max(_relative(found, expected) for found, expected in pairs)
    tolerance = tolerances[view.dtype]
    return Row(name, value <= tolerance, value, tolerance, note)


def _relative(found: Tensor, expected: Tensor) -> float:
    """max|a - b| / max|b|; infinite where a number is not finite on one side alone."""
    found, expected = found.double(), expected.double()
    top = float(expected.abs().max())
    value = float((found - expected).abs().max()) / (top or 1.0)
    return value if value == value else float("inf")


def _read(view: View, batch: Batch, *names: str) -> Found:
    """These sites at every step that has them."""
    found: Found = {}

    def keep(site: str, step: int, x: Tensor) -> None:
        found[site, step] = x.clone()

    reads = {}
    for number, step in enumerate(view.plan):
        have = [name for name in names if _has(view, name, step.layer, step.part)]
        if have:
            reads[number] = have
    view.run(batch, logits="none", observer=view.program(reads=reads, sink=keep))
    return found


def _has(view: View, name: str, layer: int, part: Part) -> bool:
    here = layer_sites(view.config.layers[layer])
    return any(site.name == name and site.in_part(part) for site in here)


def _block_equation(view: View, batch: Batch) -> Row:
    """What leaves each layer is what its block equation makes of what it says."""
    names = ("resid_pre", "attn_out", "resid_mid", "ffn_out", "resid_post")
    found = _read(view, batch, *names)
    pairs = [
        pair
        for number, step in enumerate(view.plan)
        for pair in _equation(
            cast(Layer, view.stack.layers[step.layer]),
            {name: found[name, number] for name in names if (name, number) in found},
            step.part,
        )
    ]
    blocks = sorted({view.config.layers[step.layer].block for step in view.plan})
    note = f"{len(view.plan)} steps, {' and '.join(blocks)} blocks"
    return _judged("block equation", view, pairs, note, _EXACT)


def _equation(
    layer: Layer, at: Mapping[str, Tensor], part: Part
) -> Iterator[tuple[Tensor, Tensor]]:
    """(recorded, computed) for each line of a layer's equation."""
    x, block = at["resid_pre"], layer.config.block
    if block == "parallel":
        said = [at[name] for name in ("attn_out", "ffn_out") if name in at]
        yield at["resid_post"], sum(said, x)
        return
    if part != "ffn":
        x = x + at["attn_out"]
        yield at["resid_mid"], layer.attn_norm(x) if block == "post" else x
        x = at["resid_mid"]
    if part != "attn":
        x = x + at["ffn_out"]
        x = layer.ffn_norm(x) if block == "post" else x
    yield at["resid_post"], x


def _pattern(view: View, batch: Batch) -> Iterator[Row]:
    """Rows of the pattern sum to 1, and weigh the values to what the mixer answers.

    The answer is that of the fast path, which never makes the pattern. Each layer is given the same
    input on both, so that what they differ by is of that layer alone.
    """
    fast = _read(view, batch, "z", "wkv")
    gram = cast(Gram, view.record(batch, sites="resid_pre"))
    inputs = edits.patch("resid_pre", gram)
    found = _read(replace(view, edits=(inputs,)), batch, "pattern", "v")
    sums, products, notes = [], [], set()
    for number, step in enumerate(view.plan):
        if ("pattern", number) not in found:
            continue
        attn = view.config.layers[step.layer].attn
        pattern = found["pattern", number]
        if attn.kind not in MATRIX:
            total = pattern.sum(-1)
            sums.append((total, torch.ones_like(total)))
        if attn.kind == "rwkv4_time":
            notes.add("RWKV-4 has one pattern for each channel; the site is their average")
            continue
        if getattr(attn, "initial_state", False):
            notes.add("a tuned initial state adds to what pattern @ v gives")
            continue
        if attn.kind in MATRIX:
            notes.add("a recurrence: pattern @ v == wkv, before its norm")
        values = found["v", number].transpose(1, 2)
        if isinstance(attn, AttentionConfig):
            values = values.repeat_interleave(pattern.shape[1] // values.shape[1], 1)
        answer = fast["z" if attn.kind in ("attention", "latent") else "wkv", number]
        made = (pattern.double() @ values.double()).transpose(1, 2)
        products.append((answer, made))
    name = "pattern rows sum to 1"
    if sums:
        yield _judged(name, view, sums, f"{len(sums)} steps")
    else:
        yield Row(name, None, None, None, _no_sum(found))
    name, note = "pattern @ v == z", "; ".join(sorted(notes))
    if products:
        yield _judged(name, view, products, note or f"{len(products)} steps")
    else:
        yield Row(name, None, None, None, note or _no_sum(found))


def _no_sum(found: Found) -> str:
    if any(site == "pattern" for site, _ in found):
        return "the effective attention of these recurrences is signed and not normalised"
    return "no step of the plan mixes tokens"


def _going_on(view: View, batch: Batch) -> Iterator[Row]:
    """Token by token, and from a cache, as in one run."""
    names = ("step mode equals sequence mode", "cache equals no cache")
    if not view.config.causal:
        for name in names:
            yield Row(name, None, None, None, "an encoder reads the whole text at once")
        return
    length = batch.lengths[0]
    whole = view.run(batch)[:, :length]
    try:
        cache = view.new_cache(1, capacity=length, planned=length)
    except CacheError as error:  # a stack that another library runs may have none
        yield from (Row(name, None, None, None, str(error)) for name in names)
        return
    parts = [view.run(_part(batch, t, t + 1), cache=cache) for t in range(length)]
    yield _judged(names[0], view, [(torch.cat(parts, 1), whole)], f"{length} tokens")
    half = length // 2
    cache = view.new_cache(1, capacity=half, planned=length)
    parts = [view.run(_part(batch, *span), cache=cache) for span in ((0, half), (half, length))]
    note = f"{half} tokens, then {length - half}"
    yield _judged(names[1], view, [(torch.cat(parts, 1), whole)], note)


def _captured_step(view: View, batch: Batch) -> Row:
    """A step from a graph says what the usual forward says; or why none is captured here."""
    name, ids = "captured step equals the usual one", batch.tokens[0, : batch.lengths[0]].cpu()
    reason = captured.refusal(view)
    if reason is not None or not view.config.causal:
        return Row(name, None, None, None, reason or "an encoder has no token after token step")
    try:
        graph = DecodeGraph(view, 1, len(ids))
        graph.start([ids[:-1].tolist()])
        found = graph.step(ids[-1:].to(view.device))
    except (CacheError, RuntimeError) as error:  # something in the step waits for the device
        return Row(name, None, None, None, f"no step could be captured: {error}")
    return _judged(name, view, [(found, view.run(batch, logits="last")[:, 0])], "of one row")


def _uncaptured_forwards(view: View) -> Iterator[Row]:
    """A row for each shape whose forward `fast` could not capture; none where it was not asked."""
    reasons = {} if view.stack.fast is None else view.stack.fast.reasons
    for (rows, tokens), why in reasons.items():
        yield Row(f"captured forward of {rows} x {tokens}", None, None, None, why)


def _part(batch: Batch, start: int, end: int) -> Batch:
    tokens = batch.tokens[:, start:end]
    return Batch(tokens, (end - start,), (0,), end - start)


def _batches(view: View, batch: Batch) -> Iterator[Row]:
    """Rows of several lengths together, padded on either side, as each alone."""
    length = batch.lengths[0]
    ids = batch.tokens[0, :length].cpu()
    rows = [ids, ids[: length // 2], ids[1 : length - 1].flip(0)]
    alone = [view.run(view.tokens(row))[0] for row in rows]
    for side in ("left", "right"):
        tokens = torch.zeros(len(rows), length, dtype=torch.long)
        mask = torch.zeros(len(rows), length, dtype=torch.bool)
        for i, row in enumerate(rows):
            place = slice(length - len(row), length) if side == "left" else slice(0, len(row))
            tokens[i, place], mask[i, place] = row, True
        together = view.logits(tokens, mask=mask)
        pairs = [
            (together[i, mask[i].to(together.device)], one[: len(row)])
            for i, (row, one) in enumerate(zip(rows, alone, strict=True))
        ]
        lengths = ", ".join(str(len(row)) for row in rows)
        yield _judged(f"batch equals rows ({side} pads)", view, pairs, f"rows of {lengths} tokens")


def _no_op(view: View, batch: Batch) -> Row:
    """An edit that adds 0 at every step changes no bit of what follows."""
    name = "no-op edit changes nothing"
    program = replace(view, edits=(edits.scale("resid_post", 1.0),)).program()
    edited = view.run(batch, observer=program)
    plain = view.run(batch)
    value = _relative(edited, plain)
    same = bool(torch.equal(edited, plain))
    note = "every bit the same" if same else f"{int((edited != plain).sum())} logits differ"
    return Row(name, same, value, 0.0, f"resid_post at {len(view.plan)} steps: {note}")


def _slow_kernels(view: View) -> Iterator[Row]:
    """A row for each reason why a recurrence on a GPU runs without its kernels; none elsewhere."""
    if view.stack.device.type != "cuda":
        return
    reasons = set()
    for step in view.plan:
        attn = view.config.layers[step.layer].attn
        if isinstance(attn, TimeMix4Config | TimeMix5Config | TimeMix6Config | TimeMix7Config):
            size = None if isinstance(attn, TimeMix4Config) else attn.head_dim
            reasons.add((attn.kind, kernels.kernel_missing(size)))
    for kind, why in sorted((kind, why) for kind, why in reasons if why is not None):
        yield Row("fast kernels", None, None, None, f"{kind} runs in plain torch: {why}")
