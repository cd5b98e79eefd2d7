"""What operations on outliers act on: the outliers, and what must be operated on to compare.

An effect of removing outliers says little by itself. Beside each target stand its controls: as many
channels drawn at random, channels of the same norm, the same channels at other tokens.

Axes: B documents of a batch, T tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from laminogram.errors import ConfigError
from laminogram.probe.measuring import in_batches, measure
from laminogram.probe.program import Reads, Sink, check_together, steps_of
from laminogram.probe.recording import documents
from laminogram.probe.statistics.moments import Moments
from laminogram.probe.subject import Subject, Text
from laminogram.stack.batch import Batch
from laminogram.studies.reading import wide

Role = Literal["outliers", "random", "norm", "tokens"]
Positions = tuple[tuple[int, ...], ...]
Entry = tuple[str, int, int]
"""Parameter, row, column of one weight."""


@dataclass(frozen=True)
class Target:
    """Entries of a site, or of weights, that an operation acts on.

    layers and channels of the site; positions for each document, None for every token. Where
    `entries` names weights, these are operated on instead, and the channels are those that they
    write to. A control says of which target it is one (`of`), and in what it is alike (`role`);
    `matched` is its norm over that of the target where the role is `norm`.
    """

    name: str
    site: str
    layers: tuple[int, ...]
    channels: tuple[int, ...]
    positions: Positions | None = None
    entries: tuple[Entry, ...] = ()
    role: Role = "outliers"
    of: str | None = None
    matched: float | None = None


def batches(view: Subject, texts: Text, size: int) -> Iterator[tuple[list[int], Batch]]:
    """Documents with their numbers, texts of like length together."""
    rows = documents(view, texts)
    check_together(view.edits, len(rows), size)
    for chosen in in_batches(rows, size):
        yield chosen, Batch.of([rows[i] for i in chosen], vocab_size=view.config.vocab_size)


@torch.no_grad()
def read(view: Subject, batch: Batch, reads: Reads, sink: Sink) -> Tensor:
    """One forward under the view, which tells `sink` what is read: what enters the head."""
    return view.run(batch, observer=view.program(reads, sink), logits="none")


def massive_scalars(
    view: Subject,
    texts: Text,
    site: str = "resid_post",
    *,
    threshold: float = 100.0,
    ratio: float = 1000.0,
    batch_size: int = 8,
) -> Target | None:
    """Massive activations where they first come up; None where no text has one.

    A value is massive where |x| is above `threshold` and at least `ratio` times the median of |x|
    over the document's whole state (Sun et al. 2024). The layer is the first that has one, the
    channels those of all documents together, the positions each document's own (Owen et al. 2025).
    """
    steps = steps_of(site, view.config, view.plan)
    found: dict[int, list[tuple[int, int, int]]] = {step: [] for step in steps}
    count = 0
    for chosen, batch in batches(view, texts, batch_size):
        count = max(count, max(chosen) + 1)
        numbers, lengths = chosen, batch.lengths

        def sink(
            name: str,
            step: int,
            x: Tensor,
            numbers: list[int] = numbers,
            lengths: tuple[int, ...] = lengths,
        ) -> None:
            for row, length in enumerate(lengths):
                size = wide(x[row, :length]).abs()
                least = max(threshold, ratio * float(size.flatten().median()))
                hits = ((size > threshold) & (size >= least)).nonzero().tolist()
                found[step] += [(numbers[row], token, channel) for token, channel in hits]

        read(view, batch, dict.fromkeys(steps, (site,)), sink)
    step = next((step for step in steps if found[step]), None)
    if step is None:
        return None
    return Target(
        "massive scalars",
        site,
        (view.plan.steps[step].layer,),
        tuple(sorted({channel for _, _, channel in found[step]})),
        tuple(
            tuple(sorted({token for document, token, _ in found[step] if document == number}))
            for number in range(count)
        ),
    )


def outlier_channels(
    view: Subject,
    texts: Text,
    layer: int,
    site: str = "resid_post",
    *,
    sigmas: float = 6.0,
    batch_size: int = 8,
) -> Target | None:
    """Channels whose largest |x| lies beyond so many standard deviations of the layer's mean, over
    channels (the rule of Mamba-PTQ); at every token. None where there is none. ConfigError where
    the site is too narrow for any channel to lie that far out."""
    absmax = _moments(view, texts, site, layer, batch_size)["absmax"]
    farthest = (len(absmax) - 1) ** 0.5  # where one is large and all others are equal
    if sigmas >= farthest:
        raise ConfigError(
            f"of the {len(absmax)} channels of {site!r} none can lie {sigmas:g} standard "
            f"deviations above their mean: one alone is at most {farthest:.3g} out; ask for fewer"
        )
    channels = np.flatnonzero(absmax > absmax.mean() + sigmas * absmax.std())
    if not len(channels):
        return None
    return Target("outlier channels", site, (layer,), tuple(int(c) for c in channels))


def super_weights(places: Sequence[tuple[int, int, int]]) -> Target:
    """Entries (layer, row, column) of down projections, as `outliers` finds them (Yu et al. 2024).
    ConfigError where there are none."""
    if not places:
        raise ConfigError("no super weight was named: a target needs at least one")
    entries = tuple((f"layers.{layer}.ffn.down.weight", row, col) for layer, row, col in places)
    layers = tuple(sorted({layer for layer, _, _ in places}))
    channels = tuple(sorted({row for _, row, _ in places}))
    return Target("super weights", "ffn_out", layers, channels, entries=entries)


def controls(
    view: Subject, texts: Text, target: Target, *, draws: int = 20, seed: int = 0
) -> list[Target]:
    """What to compare a target with: `draws` times as many channels (or weights) at random, those
    of like norm that are no outliers, and the same channels at other tokens."""
    generator = np.random.default_rng(seed)
    if target.entries:
        return _of_weights(view, target, draws, generator)
    energy, size = _energy(view, texts, target)
    others = np.setdiff1d(np.arange(size), target.channels)
    count = min(len(target.channels), len(others))
    found = [
        _control(target, "random", n, tuple(generator.choice(others, count, replace=False)))
        for n in range(draws)
    ]
    found.append(_like_in_norm(target, energy, others))
    if target.positions is not None:
        lengths = [len(row) for row in documents(view, texts)]
        moved = tuple(
            _other_tokens(here, length, generator)
            for here, length in zip(target.positions, lengths, strict=True)
        )
        if any(moved):
            tokens = replace(target, name=f"{target.name}: other tokens", positions=moved)
            found.append(replace(tokens, role="tokens", of=target.name))
    return found


def _control(target: Target, role: Role, number: int, channels: Sequence[int]) -> Target:
    chosen = tuple(sorted(int(c) for c in channels))
    name = f"{target.name}: random {number}" if role == "random" else f"{target.name}: {role}"
    return replace(target, name=name, channels=chosen, role=role, of=target.name)


def _like_in_norm(target: Target, energy: np.ndarray, others: np.ndarray) -> Target:
    """The largest other channels, until their energy is nearest to that of the target."""
    wanted = energy[list(target.channels)].sum()
    largest = others[np.argsort(-energy[others], kind="stable")]
    total = np.cumsum(energy[largest])
    best = int(np.abs(total - wanted).argmin())
    found = _control(target, "norm", 0, tuple(largest[: best + 1]))
    return replace(found, matched=float(np.sqrt(total[best] / wanted)) if wanted else None)


def _other_tokens(
    here: tuple[int, ...], length: int, generator: np.random.Generator
) -> tuple[int, ...]:
    others = np.setdiff1d(np.arange(length), here)
    count = min(len(here), len(others))
    return tuple(sorted(int(t) for t in generator.choice(others, count, replace=False)))


def _energy(view: Subject, texts: Text, target: Target) -> tuple[np.ndarray, int]:
    """The sum of x**2 (C,) over the target's layers and tokens, for every channel."""
    steps = steps_of(target.site, view.config, view.plan, target.layers)
    total: list[Tensor] = []
    for chosen, batch in batches(view, texts, 8):
        real = selected(target, chosen, batch)

        def sink(name: str, step: int, x: Tensor, real: Tensor = real) -> None:
            squares = x.double().square() * real.to(x.device)[..., None]
            total.append(squares.sum((0, 1)).cpu())

        read(view, batch, dict.fromkeys(steps, (target.site,)), sink)
    energy = torch.stack(total).sum(0)
    if energy.dim() != 1:
        raise ConfigError(f"{target.site} has no one axis of channels to draw controls from")
    return energy.numpy(), len(energy)


def selected(target: Target, chosen: Sequence[int], batch: Batch) -> Tensor:
    """Which tokens (B, T) of these documents a target means."""
    if target.positions is None:
        return batch.mask
    found = torch.zeros_like(batch.mask)
    for row, number in enumerate(chosen):
        found[row, list(target.positions[number])] = True
    return found & batch.mask


def _of_weights(
    view: Subject, target: Target, draws: int, generator: np.random.Generator
) -> list[Target]:
    """Other entries of the same matrices: at random, and those nearest in size."""
    weights = {
        name: view.stack.get_parameter(name).detach().cpu().float().numpy()
        for name, _, _ in target.entries
    }
    taken = set(target.entries)
    found = []
    for number in range(draws):
        entries: list[Entry] = []
        for name, _, _ in target.entries:
            rows, columns = weights[name].shape
            free = np.ones(rows * columns, dtype=bool)
            free[[r * columns + c for at, r, c in [*taken, *entries] if at == name]] = False
            row, column = divmod(int(generator.choice(np.flatnonzero(free))), columns)
            entries.append((name, row, column))
        found.append(_entries(target, "random", f"random {number}", entries))
    nearest: list[Entry] = []
    for name, row, column in target.entries:
        away = np.abs(np.abs(weights[name]) - np.abs(weights[name][row, column]))
        for other, row_there, column_there in taken | set(nearest):
            if other == name:
                away[row_there, column_there] = np.inf
        row, column = divmod(int(away.argmin()), away.shape[1])
        nearest.append((name, row, column))
    size = [
        np.square([weights[name][row, column] for name, row, column in chosen]).sum()
        for chosen in (nearest, target.entries)
    ]
    like = _entries(target, "norm", "norm", nearest)
    return [*found, replace(like, matched=float(np.sqrt(size[0] / size[1])) if size[1] else None)]


def _entries(target: Target, role: Role, name: str, entries: Sequence[tuple]) -> Target:
    return replace(
        target,
        name=f"{target.name}: {name}",
        entries=tuple(entries),
        channels=tuple(sorted({row for _, row, _ in entries})),
        role=role,
        of=target.name,
    )


def _moments(
    view: Subject, texts: Text, site: str, layer: int, batch_size: int
) -> dict[str, np.ndarray]:
    measured = measure(view, texts, (Moments(),), site, layer, batch_size, progress=False)
    return measured["moments", site, measured.steps[0]].result()
