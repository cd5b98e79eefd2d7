"""The way from a model to a family's form: which changes make it sayable there, or why none do.

What a form can express is not listed anywhere: the model is told in the form's configuration, that
is read back, and it can where the same model comes out. Where it does not, every change that
touches a difference is tried, fewest changes first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from laminogram import families
from laminogram.convert.catalogue import CATALOGUE, TOUCHED, Stored
from laminogram.convert.changes import Change, Grade, grade, limit
from laminogram.convert.words import Difference, differences, reason
from laminogram.errors import ConfigError, FamilyError
from laminogram.families import Family, Layout
from laminogram.families.base import KINDS
from laminogram.stack.config import StackConfig
from laminogram.stack.stack import Stack

_MOST_CHANGES = 6


@dataclass(frozen=True)
class Form:
    """A family in one of its layouts."""

    family: Family
    layout: Layout

    def __str__(self) -> str:
        """The family's name, with the layout where it has several to write."""
        targets = [layout for layout in self.family.layouts if layout.target is not None]
        several = len(targets) > 1
        return f"{self.family.name} ({self.layout.name})" if several else self.family.name

    @property
    def standalone(self) -> bool:
        """Whether it is a `.pth` file without a configuration."""
        return self.layout.target is not None and self.layout.target.standalone

    def tell(self, config: StackConfig) -> dict[str, Any]:
        """The contents of config.json for a model; ConfigError where it cannot be told at all."""
        if not self.standalone:
            return self.family.express(self.layout, config)
        assert self.family.recognise is not None
        if config.family != self.family.name:
            raise ConfigError(f"it has {KINDS[config.layers[0].attn.kind]}")
        told = self.family.recognise(self.shapes(config))
        if told is None:
            raise ConfigError("its tensors would not be recognised")
        return told

    def read(self, told: Mapping[str, Any], config: StackConfig) -> StackConfig:
        """The model that the form reads where it was told `config`.

        What a file without a configuration cannot say stands in its shapes; otherwise the
        configuration must say all, for that is what other programs read.
        """
        return self.family.config(told, self.shapes(config) if self.standalone else None)

    def shapes(self, config: StackConfig) -> dict[str, tuple[int, ...]]:
        """The shapes of a model's tensors in this form; ConfigError where one has no place."""
        blank = dict(Stack(config, device="meta").named_parameters())
        mapping = self.layout.bind(config)
        found = {}
        homeless = next((name for name in blank if mapping.ours(name) is None), None)
        if homeless is not None:
            raise ConfigError(f"it has {homeless}, for which there is no place")
        for name in mapping.names_of_theirs(list(blank)):
            bound = mapping.theirs(name)
            assert bound is not None
            found[name] = tuple(bound.write(lambda ours: blank[ours].detach()).shape)
        return found


def forms() -> Iterator[Form]:
    """Every form that other models can be written in."""
    for family in families.known().values():
        for layout in family.layouts:
            if layout.target is not None:
                yield Form(family, layout)


@dataclass(frozen=True)
class Route:
    """How a model becomes sayable in a form: the changes, and what config.json then says."""

    form: Form
    changes: tuple[Change, ...]
    told: Mapping[str, Any]
    config: StackConfig
    """The model after the changes, as the form reads it."""

    @property
    def grade(self) -> Grade:
        """How equal the result is to the source."""
        return grade(self.changes)

    @property
    def limit(self) -> int | None:
        """The texts, in tokens, up to which the grade holds; None for all."""
        return limit(self.changes)

    @property
    def losses(self) -> list[str]:
        """What is lost, a line each; empty but for lossy conversions."""
        return [one.what for one in self.changes if one.grade is Grade.LOSSY]


@dataclass(frozen=True)
class Refusal:
    """Why a form cannot say a model: a sentence for each difference that no change removes."""

    form: Form
    reasons: tuple[str, ...]


def find_route(
    config: StackConfig,
    form: Form,
    *,
    weights: Stored | None = None,
    lossy: bool = False,
) -> Route | Refusal:
    """The shortest way to a form: exact changes first and, where `lossy` allows, losses after them.

    weights: the source's, for changes that depend on them; without, only the configuration counts.
    """
    for allowed in (Grade.EXACT, Grade.LOSSY) if lossy else (Grade.EXACT,):
        found = _search(config, form, weights, allowed)
        if isinstance(found, Route):
            break
    return found


def _search(
    config: StackConfig, form: Form, weights: Stored | None, allowed: Grade
) -> Route | Refusal:
    name = config.family
    waiting: deque[tuple[StackConfig, tuple[Change, ...]]] = deque([(config, ())])
    tried: list[tuple[int, tuple[str, ...]]] = []
    done: set[frozenset[str]] = set()
    while waiting:
        state, changes = waiting.popleft()
        trial = _try(state, form)
        if isinstance(trial, Route):
            return Route(form, changes, trial.told, trial.config)
        missing, read = trial
        final = [] if isinstance(missing, str) else [x for x in missing if x.path not in TOUCHED]
        if final:
            return Refusal(form, _reasons(final, name, str(form)))
        reasons = _reasons(missing, name, str(form))
        tried.append((len(missing) if isinstance(missing, list) else 99, reasons))
        if len(changes) == _MOST_CHANGES:
            continue
        for change in _proposed(state, read, weights, allowed):
            made = frozenset([change.what, *(one.what for one in changes)])
            if made not in done and _helps(change, state, missing):
                done.add(made)
                waiting.append((change.config, (*changes, change)))
    return Refusal(form, min(tried, key=lambda one: one[0])[1])


def _try(
    config: StackConfig, form: Form
) -> Route | tuple[list[Difference] | str, StackConfig | None]:
    """A route without changes; else the differences, or the error that telling or reading gave."""
    try:
        told = form.tell(config)
        read = form.read(told, config)
    except ConfigError as error:
        return _without_preamble(str(error)), None
    missing = differences(config, read)
    return (missing, read) if missing else Route(form, (), told, read)


def _proposed(
    config: StackConfig, read: StackConfig | None, weights: Stored | None, allowed: Grade
) -> Iterator[Change]:
    for proposal in CATALOGUE:
        for change in proposal(config, read, weights):
            if change.grade <= allowed:
                yield change


def _helps(change: Change, config: StackConfig, missing: list[Difference] | str) -> bool:
    """Whether a change touches what is missing; anything may help against an error."""
    if isinstance(missing, str) or change.tidy:
        return True
    paths = {one.path for one in missing}
    return any(one.path in paths for one in differences(change.config, config))


def _reasons(missing: list[Difference] | str, source: str, target: str) -> tuple[str, ...]:
    if isinstance(missing, str):
        return (f"{target} cannot express {source}: {missing}",)
    return tuple(dict.fromkeys(reason(one, source, target) for one in missing))


def _without_preamble(text: str) -> str:
    """An error of a configuration that nobody wrote, without the family that it begins with."""
    return text.partition(" configuration: ")[2] or text


def refuse(config: StackConfig, refusal: Refusal, weights: Stored | None = None) -> FamilyError:
    """The error for a form that cannot say a model: why, and what comes nearest."""
    why = "; ".join(refusal.reasons)
    nearest = []
    with_loss = find_route(config, refusal.form, weights=weights, lossy=True)
    if isinstance(with_loss, Route):
        nearest.append(f"with losses (--lossy) it can: {'; '.join(with_loss.losses)}")
    layouts = _able_layouts(config, refusal.form, weights)
    if layouts:
        nearest.append(f"forms of {config.family} that can express it: --layout {layouts}")
    able = able_forms(config, weights)
    if able:
        nearest.append(f"families that can express it: {', '.join(able)}")
    if not nearest:
        nearest.append("no other family here can express it")
    return FamilyError(f"{why}. Nothing was written; {'; '.join(nearest)}")


def _able_layouts(config: StackConfig, refused: Form, weights: Stored | None) -> str:
    """The other layouts of the model's own family that can say it, where one of them was asked."""
    if refused.family.name != config.family:
        return ""
    return " or ".join(
        form.layout.name
        for form in forms()
        if form.family.name == config.family
        and form.layout is not refused.layout
        and isinstance(find_route(config, form, weights=weights), Route)
    )


def able_forms(config: StackConfig, weights: Stored | None = None) -> list[str]:
    """The other families that can say a model without a loss."""
    able = {
        form.family.name: None
        for form in forms()
        if form.family.name != config.family
        and isinstance(find_route(config, form, weights=weights), Route)
    }
    return list(able)


def chosen_form(config: StackConfig, family: str | None, layout: str | None, held: Layout) -> Form:
    """The form that was asked for by name; FamilyError names those that exist.

    Without a layout it is the family's first that can be written and, within the source's family,
    the first other than that which the source is in.
    """
    name = family or config.family
    made = families.get(name)
    if layout is not None:
        return Form(made, made.layout_named(layout))
    targets = [one for one in made.layouts if one.target is not None]
    if name == config.family:
        others = [one for one in targets if one is not held]
        return Form(made, (others or [held])[0])
    if not targets:
        able = ", ".join(dict.fromkeys(form.family.name for form in forms()))
        raise FamilyError(
            f"{name} cannot be written: its published form is only read here. Nothing was "
            f"written. Families that can be written: {able}"
        )
    return Form(made, targets[0])
