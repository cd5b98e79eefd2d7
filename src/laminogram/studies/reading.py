"""How studies read: one text under a view, one forward, the tensors that they ask for.

Everything here follows the view's plan and edits. Rows are left-aligned, so nothing counts a pad.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from laminogram.errors import ConfigError, TokenError
from laminogram.plans import Plan
from laminogram.probe.manifest import manifest
from laminogram.probe.program import Effects, Reads, Sink
from laminogram.probe.recording import begins_with_bos
from laminogram.probe.subject import Subject, Text
from laminogram.stack.batch import Batch
from laminogram.stack.forward import Logits, Walk, begin, open_context

Tables = dict[str, dict[str, Any]]
"""Table name -> column name -> array or list, as `report.tables.write_table` takes them."""


def read_one(view: Subject, text: Text) -> Batch:
    """The batch of one text. TokenError where there are several, or where it is empty; ConfigError
    where it is longer than the model was made for."""
    batch = view.tokens(text)
    if len(batch.lengths) != 1:
        raise TokenError(f"this looks at one text; {len(batch.lengths)} were given")
    check_length(view, batch)
    return batch


def check_length(view: Subject, batch: Batch) -> None:
    """ConfigError for a row beyond the context; a recurrent model reads on past it."""
    context, longest = view.config.longest_text, max(batch.lengths)
    if context is not None and longest > context:
        raise ConfigError(
            f"the text is {longest} tokens for {view.name}, which was made for {context}; "
            "shorten the text"
        )


def ids_of(batch: Batch, row: int = 0) -> tuple[int, ...]:
    """The real token ids of a row."""
    return tuple(batch.tokens[row, : batch.lengths[row]].tolist())


def names_of(view: Subject, ids: Sequence[int]) -> tuple[str, ...]:
    """The text of each id; the id itself where there is no tokenizer."""
    if view.tokenizer is None:
        return tuple(str(one) for one in ids)
    return tuple(view.tokenizer.token_texts(list(ids)))


def told_apart(tokens: Sequence[str]) -> tuple[str, ...]:
    """The texts of tokens, with their position where one occurs more than once: "the [3]"."""
    times = Counter(tokens)
    return tuple(
        text if times[text] == 1 else f"{text} [{position}]" for position, text in enumerate(tokens)
    )


def step_labels(plan: Plan, steps: Iterable[int]) -> tuple[str, ...]:
    """A name for each step: its layer, with the step where the plan runs that more than once."""
    times = Counter(step.layer for step in plan)
    return tuple(
        str(layer) if times[layer] == 1 else f"{layer} (step {step})"
        for step, layer in ((step, plan.steps[step].layer) for step in steps)
    )


@torch.no_grad()
def walk(
    view: Subject,
    batch: Batch,
    reads: Reads,
    sink: Sink,
    logits: Logits = "none",
    effects: Effects | None = None,
) -> tuple[Tensor, Tensor]:
    """One forward under the view: the residual stream after the last item of the plan, before the
    final norm, (B, T, C), and what `forward.run` gives for `logits`.

    `sink` gets live tensors: copy what you keep. Edits are checked as `Subject.run` does; effects:
    where this is one text of many, a list that gets what they did, for who judges all of them.
    """
    program = view.program(reads=reads, sink=sink)
    batch = batch.to(view.device)
    ctx = open_context(view.stack, batch, None)
    begin(program, batch, ctx)
    way = Walk(view.stack, None, program)
    end = way.over(view.plan.items, way.enter(batch, ctx, view.v_first))
    out = way.leave(end, logits)
    if effects is not None:
        effects += program.effects()
    elif view.edits:
        program.check()
    return end.x, out


def wide(x: Tensor) -> Tensor:
    """fp32 at least."""
    return x if x.dtype == torch.float64 else x.float()


def about(view: Subject, study: str, batches: Sequence[Batch], **asked: Any) -> dict[str, Any]:
    """The manifest of a study: the view's facts, the tokens' hash, and what was asked."""
    rows = [ids_of(batch, row) for batch in batches for row in range(len(batch.lengths))]
    bos = begins_with_bos(view, [[row[0]] for row in rows])
    return manifest(view.facts(), rows, study=study, asked=asked, bos=bos)
