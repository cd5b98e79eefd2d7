"""A conversion that is known to be possible, and not yet written: every tensor of the result, where
it comes from and what is done to it, found from names and shapes alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from laminogram.checkpoint.apply import Weights
from laminogram.checkpoint.load import Described, describe
from laminogram.checkpoint.loading import bind
from laminogram.checkpoint.megatron import is_megatron, read_megatron
from laminogram.checkpoint.reading import TensorInfo
from laminogram.checkpoint.resolve import resolve
from laminogram.convert.changes import computes, in_words, through, touching
from laminogram.convert.route import Form, Refusal, Route, chosen_form, find_route, refuse
from laminogram.errors import ConfigError
from laminogram.families.base import Rename, Rule, TensorMap
from laminogram.stack.stack import Stack

_NARROW = frozenset({torch.bfloat16, torch.float16})


class Planned(NamedTuple):
    """One tensor of the result: what it is, the source's tensors it comes from, and what is done to
    them on the way, empty where its bytes are copied."""

    info: TensorInfo
    origins: tuple[str, ...]
    operation: str


@dataclass(frozen=True)
class Prepared:
    """See `prepare`. `options` say how the source's tensors are laid out; `dtype` is that of the
    result, None for the source's own."""

    name: str
    path: Path
    described: Described
    route: Route
    weights: Weights
    options: Mapping[str, Any]
    dtype: torch.dtype | None = None

    @property
    def form(self) -> Form:
        return self.route.form

    @cached_property
    def tensors(self) -> dict[str, Planned]:
        """Every tensor of the result by its name there, in the order of its layers."""
        reads = bind(
            self.described.checkpoint, self.described.layout, self.described.config, self.options
        )
        keys = self.described.layout.canonical
        stored = {keys(name): info for name, info in self.described.checkpoint.tensors.items()}
        ours = [name for name, _ in Stack(self.route.config, device="meta").named_parameters()]
        found = {}
        for name in self._writes.names_of_theirs(ours):
            found[name] = self._plan(name, reads, stored)
        return found

    @cached_property
    def nbytes(self) -> int:
        """Bytes of all tensors of the result."""
        return sum(planned.info.nbytes for planned in self.tensors.values())

    @property
    def memory(self) -> int:
        """Bytes of memory that writing needs at most, beyond pages that the system may take back:
        the largest tensor with what it is made from, and half a gigabyte under way."""
        largest = max(planned.info.nbytes for planned in self.tensors.values())
        return 3 * largest + 512_000_000

    @property
    def disk(self) -> int:
        """Bytes of disk that writing needs: a `.pth` file is made from safetensors beside it."""
        return self.nbytes * (2 if self.form.standalone else 1)

    @property
    def rounded(self) -> frozenset[torch.dtype]:
        """The dtypes that numbers are rounded to: all, where the result's dtype is narrower than
        the source's, and those computed anew, where theirs has fewer bits than fp32."""
        stored = {info.dtype for info in self.described.checkpoint.tensors.values()}
        stored = {dtype for dtype in stored if dtype.is_floating_point}
        if self.dtype is not None:
            narrower = any(torch.promote_types(one, self.dtype) != self.dtype for one in stored)
            stored = {self.dtype}
            if narrower:
                return frozenset(stored)
        return frozenset(stored & _NARROW if computes(self.route.changes) else ())

    @property
    def verdict(self) -> str:
        """How equal the result is to the source, in words that hold for the dtype written."""
        stored = {info.dtype for info in self.described.checkpoint.tensors.values()}
        asked = None if stored <= {self.dtype} else self.dtype
        return in_words(self.route.grade, rounded=self.rounded, asked=asked)

    @property
    def losses(self) -> list[str]:
        """What is lost, a line each; empty but for lossy conversions."""
        return self.route.losses

    def files(self, origins: Sequence[str]) -> tuple[str, ...]:
        """The files, from the source's folder, that tensors of a Megatron source are put together
        from; none for other sources."""
        checkpoint = self.described.checkpoint
        found = (file for name in origins for file in checkpoint.parts(name))
        return tuple(dict.fromkeys(one.relative_to(checkpoint.path).as_posix() for one in found))

    def make(self, name: str) -> Tensor:
        """A tensor of the result, from the source's mapped bytes."""
        bound = self._writes.theirs(name)
        assert bound is not None
        made = bound.write(lambda ours: through(self.route.changes, ours, self._stored))
        return made.to(self.tensors[name].info.dtype)

    def _stored(self, name: str) -> Tensor:
        """A tensor of the source, widened before anything is computed from it."""
        tensor = self.weights.stored(name)
        if self.dtype is None or not tensor.is_floating_point():
            return tensor
        return tensor.to(torch.promote_types(tensor.dtype, self.dtype))

    @cached_property
    def _writes(self) -> TensorMap:
        return self.form.layout.bind(self.route.config)

    def _plan(self, name: str, reads: TensorMap, stored: Mapping[str, TensorInfo]) -> Planned:
        """Runs the making of one tensor without memory, and notes what it asks for."""
        asked: dict[str, None] = {}
        done: dict[str, None] = {}

        def read(ours: str) -> Tensor:
            bound = reads.ours(ours)
            assert bound is not None
            asked.update(dict.fromkeys(bound.their_names))
            done.update(dict.fromkeys(_steps(bound.rule, undone=False)))
            return bound.read(lambda key: _blank(stored[key]))

        def change(ours: str) -> Tensor:
            made = through(self.route.changes, ours, read)
            for one in touching(self.route.changes, ours):
                done[f"change {self.route.changes.index(one) + 1}"] = None
            return made

        bound = self._writes.theirs(name)
        assert bound is not None
        blank = bound.write(change)
        done.update(dict.fromkeys(_steps(bound.rule, undone=True)))
        dtype = self.dtype if self.dtype is not None and blank.is_floating_point() else blank.dtype
        if dtype != blank.dtype:
            done[str(dtype).removeprefix("torch.")] = None
        return Planned(TensorInfo(tuple(blank.shape), dtype), tuple(asked), ", ".join(done))


def opened(path: Path, *, vocab_size: int | None = None) -> Described:
    """A model's folder or file, whoever wrote it. vocab_size: true rows of a Megatron vocabulary,
    where its files do not say; ConfigError where it is given for another model."""
    if is_megatron(path):
        return read_megatron(path, vocab_size=vocab_size)
    if vocab_size is not None:
        raise ConfigError(
            f"vocab_size is {vocab_size}, but {path} is no Megatron checkpoint: only the "
            "vocabulary of one may be padded"
        )
    return describe(path)


def prepare(
    source: str | Path,
    to: str | None = None,
    *,
    layout: str | None = None,
    lossy: bool = False,
    dtype: torch.dtype | None = None,
    vocab_size: int | None = None,
    **options: Any,
) -> Prepared:
    """Check that `source` can be written as family `to`; write nothing.

    source: a bundled name, a directory (of Megatron's too), a file or a hub id. to: a family, None
    for the source's own. layout: one of its forms, unless named its first, or within the source's
    family the first that the source is not in. lossy: allow losses.
    dtype: of the result, None for the source's. vocab_size: see `opened`. options: how the source's
    tensors are laid out (`rescaled=6`).
    FamilyError says why the family cannot express the model and which can, CheckpointError what is
    wrong with the source.
    """
    found = resolve(source)
    described = opened(found.path, vocab_size=vocab_size)
    config, held = described.config, described.layout
    form = chosen_form(config, to, layout, held)
    weights = Weights(described, options)
    if form.family is described.family and form.layout is held:
        route = Route(form, (), dict(config.source), config)
    else:
        way = find_route(config, form, weights=weights, lossy=lossy)
        if isinstance(way, Refusal):
            raise refuse(config, way, weights)
        route = way
    return Prepared(found.name, found.path, described, route, weights, options, dtype)


def _blank(info: TensorInfo) -> Tensor:
    return torch.empty(info.shape, dtype=info.dtype, device="meta")


def _steps(rule: Rule, *, undone: bool) -> list[str]:
    """What a rule does, in words: reading it, or writing (`undone`)."""
    names = [type(one).__name__.lower() for one in getattr(rule, "operations", ())]
    names += [type(one).__name__.lower() for one in getattr(rule, "whole", ())]
    each = getattr(rule, "each", {})
    names += list(
        dict.fromkeys(type(one).__name__.lower() for many in each.values() for one in many)
    )
    steps = [f"{name} undone" if undone else name for name in names]
    if not isinstance(rule, Rename) and len(rule.ours) > 1:
        steps.append("join" if undone else "split")
    return steps
