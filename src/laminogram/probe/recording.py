"""Recording: the raw tensors at named sites as a `Gram`, for a text and what is generated after it.

A recording is asked for by a `Request` and goes to a device, or in resumable shards to a folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from laminogram.errors import ConfigError, SiteError, TokenError
from laminogram.probe.folder import GramFolder
from laminogram.probe.gram import Gram
from laminogram.probe.manifest import manifest
from laminogram.probe.program import Program, check_effects, check_together, steps_of
from laminogram.probe.recorder import Key, Recorder, RecordPhase
from laminogram.probe.subject import Subject, Text
from laminogram.stack import sites
from laminogram.stack.batch import Batch
from laminogram.stack.forward import Logits
from laminogram.stack.sites import STACK_STEP

Scalar = Callable[[Tensor], Tensor]
AHEAD = 2
"""Batches that a GPU computes or copies while one is in use: with one alone the link stands still
until the host has begun the next."""


@dataclass(frozen=True)
class Request:
    """What to record: sites, layers or steps (None: all), and how to go on after the text."""

    names: tuple[str, ...]
    layers: tuple[int, ...] | None = None
    steps: tuple[int, ...] | None = None
    new_tokens: int = 0
    phase: RecordPhase = "all"
    options: Mapping[str, Any] = field(default_factory=dict)

    def reads(self, view: Subject) -> dict[int, set[str]]:
        """For each step of the view's plan the sites to read; SiteError for one that is nowhere."""
        if not self.names:
            raise SiteError(f"no site was named; there are {', '.join(sites.NAMES)}")
        wanted: dict[int, set[str]] = {}
        for name in self.names:
            for step in steps_of(name, view.config, view.plan, self.layers, self.steps):
                wanted.setdefault(step, set()).add(name)
        return wanted

    def check(self) -> None:
        """ConfigError for a combination that records nothing, or for options without use."""
        if self.options and not self.new_tokens:
            odd = ", ".join(self.options)
            raise ConfigError(f"{odd}: options of `generate`, which only new_tokens gives a use")
        if self.phase not in ("all", "prompt", "new"):
            raise ConfigError(f"phase is {self.phase!r}; it must be 'all', 'prompt' or 'new'")
        if self.new_tokens < 0:
            raise ConfigError(f"new_tokens is {self.new_tokens}; it must not be negative")
        if self.phase == "new" and self.new_tokens < 2:
            raise ConfigError(
                "phase 'new' needs new_tokens of at least 2: the last generated token is never read"
            )


def record(
    view: Subject,
    text: Text,
    request: Request,
    device: torch.device | None,
    scalar: Scalar | None = None,
    *,
    whole: bool = True,
) -> Gram:
    """Record into memory; `device` None keeps tensors where they are made. `whole`: these are all
    the texts, so an edit that selected nothing is an error."""
    request.check()
    batch = view.tokens(text)
    recorder = Recorder(device or view.device, request.phase)
    live: dict[Key, Tensor] = {}

    def sink(site: str, step: int, x: Tensor) -> None:
        recorder.sink(site, step, x)
        if scalar is not None:
            live[site, step] = x

    reads = request.reads(view)
    program = recorder.program = view.program(reads, sink)
    needs_head = scalar is not None or "logits" in reads.get(STACK_STEP, ())
    with torch.set_grad_enabled(scalar is not None):
        out = view.run(batch, observer=program, logits="all" if needs_head else "none")
        gradients = None if scalar is None else _gradients(scalar, _without_pads(batch, out), live)
    if whole:
        check_effects(program.effects())
    return _gram(view, batch, request, recorder, gradients)


def _gram(
    view: Subject,
    batch: Batch,
    request: Request,
    recorder: Recorder,
    gradients: Mapping[Key, Tensor] | None = None,
    of_view: Mapping[str, Any] | None = None,
) -> Gram:
    """What a recorder holds after one batch, once it has arrived; `of_view` are the view's facts,
    where they are known."""
    rows = [row[:length] for row, length in zip(batch.tokens.tolist(), batch.lengths)]
    facts = recording_manifest(view, batch, rows, request, recorder.bound(), of_view)
    layout = GramLayout(view, batch, batch.tokens, batch.lengths, batch.lengths, restore=True)
    gram = layout.gram(recorder.tensors(), facts)
    if gradients is not None:
        gram.grad = layout.gram(gradients, {**facts, "values": "gradients"})
    return gram


def record_batches(
    view: Subject, texts: Text, request: Request, batch_size: int = 8
) -> Iterator[Gram]:
    """Record batch after batch into host memory, a gram each, in the order given.

    On a GPU the next gram arrives and the one after is computed while one is in your hands; so up
    to three batches are held here beside those that you keep, the last of which a `for` keeps until
    the next is there. Grams are yours. An edit that selected nothing in any batch is an error at
    the end.
    """
    request.check()
    reads = request.reads(view)
    head: Logits = "all" if "logits" in reads.get(STACK_STEP, ()) else "none"
    rows, facts = documents(view, texts), dict[str, Any]()
    check_together(view.edits, len(rows), batch_size)
    waiting: list[tuple[Batch, Recorder]] = []
    ahead = AHEAD if view.device.type == "cuda" else 0
    effects: list[dict[str, object]] = []

    def arrived() -> Gram:
        batch, recorder = waiting.pop(0)
        gram = _gram(view, batch, request, recorder, of_view=facts)
        effects.extend(gram.manifest["effects"])
        return gram

    for start in range(0, len(rows), batch_size):
        batch = view.tokens(rows[start : start + batch_size])
        recorder = Recorder(torch.device("cpu"), request.phase)
        recorder.program = view.program(reads, recorder.sink)
        with torch.no_grad():
            view.run(batch, observer=recorder.program, logits=head)
        facts = facts or view.facts()  # takes the host a while, when a GPU has its work
        waiting.append((batch, recorder))
        if len(waiting) > ahead:
            yield arrived()
    while waiting:
        yield arrived()
    check_effects(effects)


def to_folder(
    view: Subject,
    texts: Text,
    request: Request,
    folder: Path,
    shard_size: int,
    take: Callable[..., Gram],
) -> GramFolder:
    """Record documents into a folder, shard by shard; what is there already is not done again.

    `take(texts, device, whole=False)` records one shard.
    """
    request.check()
    request.reads(view)  # a site that does not exist is found before the folder is made
    rows = documents(view, texts)
    check_together(view.edits, len(rows), shard_size)
    facts = {
        **asdict(request),
        "options": {name: repr(value) for name, value in request.options.items()},
        "conditions": view.conditions,
        "model": view.name,
        "weights": view.facts()["weights_hash"],
        "precision": str(view.dtype),
        "tokens": manifest({}, rows)["tokens_hash"],
    }
    kept = GramFolder.create_or_resume(folder, facts, len(rows), shard_size)
    for index, part in tqdm(kept.pending(), unit="shard", disable=None, leave=False):
        # A shard of short texts may lack a position that others have: judged over all, below.
        kept.write(index, take(rows[part], torch.device("cpu"), whole=False))
    if view.edits:
        check_effects([row for gram in kept for row in gram.manifest["effects"]])
    return kept


def begins_with_bos(view: Subject, rows: Sequence[Sequence[int]]) -> bool | list[bool] | None:
    """Whether texts begin with the model's bos token; one answer a row where they differ, None
    for a model that names none."""
    bos = view.config.bos_token_id
    if bos is None:
        return None
    found = [row[0] == bos for row in rows]
    return found[0] if len(set(found)) == 1 else found


def documents(view: Subject, texts: Text) -> list[list[int]]:
    """Each text as its list of token ids. TokenError for a batch with token types, which a list of
    ids does not carry."""
    if _is_list_of_texts(texts):  # one at a time: no rectangle of the longest is ever made
        return [row for text in texts for row in documents(view, text)]  # type: ignore[arg-type, union-attr]
    batch = view.tokens(texts)
    if batch.types is not None:
        raise TokenError(
            "token types are only read where one batch is run as it is: by run, logits, loss and a "
            "recording into memory"
        )
    return [row[:length] for row, length in zip(batch.tokens.tolist(), batch.lengths)]


def _is_list_of_texts(texts: Text) -> bool:
    if isinstance(texts, str | Tensor | Batch) or not isinstance(texts, Sequence) or not texts:
        return False
    return isinstance(texts[0], str | Sequence | Tensor)


def _without_pads(batch: Batch, logits: Tensor) -> Tensor:
    """Logits in the user's layout with 0 at pads, so that a sum over them counts real tokens."""
    mask = batch.restored_mask.to(logits.device)
    return torch.where(mask[..., None], batch.restore(logits), 0.0)


def _gradients(scalar: Scalar, logits: Tensor, live: Mapping[Key, Tensor]) -> dict[Key, Tensor]:
    """d scalar(logits) / d site for every live reading; 0 where the scalar does not depend."""
    value = scalar(logits)
    if value.dim() or not value.requires_grad:
        raise ConfigError(
            "grad must return one number that depends on the logits; it returned shape "
            f"{tuple(value.shape)}, requires_grad={value.requires_grad}"
        )
    for (site, step), x in live.items():
        if not x.requires_grad:
            raise SiteError(f"{site!r} at step {step} has no gradient: no parameter precedes it")
    found = torch.autograd.grad(value, list(live.values()), allow_unused=True)
    return {
        key: (torch.zeros_like(x) if g is None else g).detach().cpu()
        for (key, x), g in zip(live.items(), found)
    }


@dataclass(frozen=True)
class GramLayout:
    """How recorded tensors, left-aligned, become a gram; with `restore` in the user's layout."""

    view: Subject
    batch: Batch
    tokens: Tensor
    lengths: Sequence[int]
    prompts: Sequence[int]
    restore: bool

    def gram(self, tensors: Mapping[Key, Tensor], facts: Mapping[str, Any]) -> Gram:
        """The gram of aligned tensors (B, T, ...), with `facts` as its manifest; 0 at pads."""
        axes: dict[Key, tuple[str, ...]] = {}
        laid: dict[Key, Tensor] = {}
        tokens, mask = self._rows()
        full = bool(mask.all())
        for (site, step), x in tensors.items():
            layer = None if step == STACK_STEP else self.view.plan.steps[step].layer
            axes[site, step] = sites.find(site, self.view.config, layer).axes
            along = (2, 3) if site == "pattern" else (1,)
            x = self.batch.restore(x, along) if self.restore else self._cut(x, along)
            laid[site, step] = x if full else self._empty_pads(x, mask, along)
        return Gram(
            laid,
            axes,
            {n: (at.layer, at.part) for n, at in enumerate(self.view.plan)},
            tokens.cpu(),
            mask.cpu(),
            tuple(self.prompts),
            self.view.token_texts(tokens),
            dict(facts),
        )

    @staticmethod
    def _empty_pads(x: Tensor, mask: Tensor, along: Sequence[int]) -> Tensor:
        """0 at pads, along every axis of tokens or keys."""
        for axis in along:
            shape = [1] * x.dim()
            shape[0], shape[axis] = mask.shape[0], x.shape[axis]
            x = x.masked_fill(~mask[:, : x.shape[axis]].to(x.device).view(shape), 0)
        return x

    def _cut(self, x: Tensor, along: Sequence[int]) -> Tensor:
        """Without the columns that a row which ended early would have gone on to."""
        for axis in along:
            x = x.narrow(axis, 0, min(x.shape[axis], self.tokens.shape[1]))
        return x

    def _rows(self) -> tuple[Tensor, Tensor]:
        offsets = np.array(self.batch.offsets if self.restore else (0,) * len(self.lengths))
        width = self.batch.columns if self.restore else self.tokens.shape[1]
        columns = np.arange(width)[None] - offsets[:, None]
        mask = (columns >= 0) & (columns < np.array(self.lengths)[:, None])
        tokens = self.tokens.cpu()
        if self.restore:
            tokens = self.batch.restore(tokens)
        real = np.where(mask, tokens.numpy(), 0)
        return torch.from_numpy(real), torch.from_numpy(mask)


def recording_manifest(
    view: Subject,
    batch: Batch,
    rows: Sequence[Sequence[int]],
    request: Request,
    program: Program,
    of_view: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The facts of a recording of `rows`, which began as `batch`. `of_view`: `view.facts()`, by one
    who asked before."""
    drawn = bool(request.new_tokens) and request.options.get("temperature", 0) > 0
    return manifest(
        view.facts() if of_view is None else of_view,
        rows,
        bos=begins_with_bos(view, batch.tokens[:, :1].tolist()),
        seeds=[request.options.get("seed", 0)] if drawn else None,
        sites=list(request.names),
        phase=request.phase,
        new_tokens=request.new_tokens,
        options={name: repr(value) for name, value in request.options.items()},
        effects=program.effects(),
        reference_paths=sorted(
            {*request.names, *(edit.site for edit in view.edits)} & {"pattern", "state", "head_out"}
        ),
    )


def destination(to: str | Path | torch.device) -> torch.device | Path:
    """`to=` as a device, or as a folder where it is not the name of one."""
    if isinstance(to, torch.device | Path):
        return to
    try:
        return torch.device(to)
    except RuntimeError:
        return Path(to)
