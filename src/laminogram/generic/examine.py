"""Getting to know a model of `transformers`, and proving that the stack made of it is that model.

Everything is found by running a few tokens, and nothing is believed: a model whose layers hand on
more than the hidden state gives other logits here than by itself, and is refused.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from laminogram.errors import FamilyError
from laminogram.generic.anatomy import Anatomy, dissect
from laminogram.generic.frame import Frames
from laminogram.generic.layer import Found
from laminogram.generic.memory import Shapes
from laminogram.generic.spine import Log, Spine
from laminogram.stack.batch import Batch
from laminogram.stack.context import Context
from laminogram.stack.forward import run
from laminogram.stack.stack import Stack

_ROWS, _TOKENS = 2, 7
_TOLERANCES = {
    torch.float64: 1e-9,
    torch.float32: 1e-4,
    torch.bfloat16: 5e-2,
    torch.float16: 1e-2,
}
"""How far logits may lie apart, relative to the largest."""
_FOREIGN = (AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""What models say of a cache that they do not know."""


@torch.no_grad()
def examine(spine: Spine, *, causal: bool) -> list[Found]:
    """What is found of each layer."""
    memories, refusal = _memories(spine) if causal else (None, "an encoder has no cache")
    frames = Frames(spine, causal=causal, cached=memories is not None)
    positions = torch.arange(_TOKENS, device=spine.model.device).expand(_ROWS, -1)
    ctx = Context(positions, None, 0, _TOKENS, {}, [])
    log = Log()
    spine.front(log, input_ids=_tokens(spine), use_cache=False)
    size = (_ROWS, _TOKENS, spine.model.config.get_text_config().hidden_size)
    if log.entered[0].shape != size:
        raise FamilyError(
            f"{type(spine.model).__name__} gives its layers a hidden state of shape "
            f"{tuple(log.entered[0].shape)}; one residual stream has {size}"
        )
    known: dict[object, Anatomy] = {}
    found = []
    for index, layer in enumerate(spine.layers):
        make = _make(layer)
        if make not in known:
            known[make] = dissect(layer, frames.at(ctx).call(index, ctx, None), size)
        memory = None if memories is None else memories[index]
        found.append(Found(known[make], memory, refusal))
    return found


def _tokens(spine: Spine) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, spine.table.num_embeddings, (_ROWS, _TOKENS), generator=generator)
    return ids.to(spine.model.device)


def _make(layer: nn.Module) -> object:
    """Equal for layers that are built alike."""
    own = tuple((name, x) for name, x in vars(layer).items() if isinstance(x, float | bool | str))
    return own, tuple((path, type(module)) for path, module in layer.named_modules())


def _memories(
    spine: Spine,
) -> tuple[list[tuple[tuple[int, int], tuple[int, int]]] | None, str]:
    """What each layer remembers; None and the reason where that is not keys and values alone."""
    name = type(spine.model).__name__
    if "past_key_values" not in spine.accepts:
        return None, f"{name} of transformers takes no cache of keys and values"
    shapes = Shapes(len(spine.layers))
    try:
        spine.front(
            Log(through=True), input_ids=_tokens(spine), past_key_values=shapes, use_cache=True
        )
    except _FOREIGN as error:
        return None, f"{name} wants a cache of its own kind ({type(error).__name__}: {error})"
    kept = [shapes.found.get(index, []) for index in range(len(spine.layers))]
    if any(len(one) != 1 for one in kept):
        return None, f"the layers of {name} do not each keep one set of keys and values"
    return [one[0] for one in kept], ""


@torch.no_grad()
def prove(stack: Stack, spine: Spine) -> None:
    """FamilyError unless the stack gives the logits of the model itself, row by row."""
    tokens = _tokens(spine)
    rows = [tokens[0], tokens[1, : _TOKENS - 3]]
    made = run(stack, _batch(rows), stack.full_plan())
    for row, scores in zip(rows, made, strict=True):
        itself = spine.model(input_ids=row[None], use_cache=False).logits[0]
        apart = _apart(scores[: len(row)], itself)
        if apart > _TOLERANCES[stack.dtype]:
            raise FamilyError(
                f"{type(spine.model).__name__} cannot be run layer by layer: its logits then lie "
                f"{apart:.1e} of their size apart from its own, so its layers share more than the "
                "hidden state, or rows share what is theirs"
            )


@torch.no_grad()
def remembers(stack: Stack, found: list[Found], spine: Spine) -> list[Found]:
    """What was found; without memories where a cache gives other logits than none."""
    if found[0].memory is None:
        return found
    tokens = _tokens(spine)
    rows, plan = [tokens[0], tokens[1, : _TOKENS - 3]], stack.full_plan()
    cache = stack.new_cache(len(rows), plan, "")
    run(stack, _batch([row[:-2] for row in rows]), plan, cache=cache)
    made = run(stack, _batch([row[-2:] for row in rows]), plan, cache=cache)
    whole = run(stack, _batch(rows), plan)
    apart = max(
        _apart(scores, itself[len(row) - 2 : len(row)])
        for row, scores, itself in zip(rows, made, whole, strict=True)
    )
    if apart <= _TOLERANCES[stack.dtype]:
        return found
    refusal = f"with a cache, logits lay {apart:.1e} of their size apart from those without"
    return [replace(one, memory=None, refusal=refusal) for one in found]


def _batch(rows: list[Tensor]) -> Batch:
    lengths = tuple(len(row) for row in rows)
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return Batch(padded, lengths, (0,) * len(rows), max(lengths))


def _apart(found: Tensor, expected: Tensor) -> float:
    found, expected = found.double(), expected.double()
    apart = float((found - expected).abs().max() / expected.abs().max())
    return apart if apart == apart else float("inf")
