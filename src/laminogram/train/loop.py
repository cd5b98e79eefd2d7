"""The training loop: next-token loss, clipped AdamW, a curve, checkpoints, a budget.

A run has a number of steps, or a number of minutes. With minutes it first measures its pace on
steps that it then takes back, and fixes the number of steps; should the machine slow down later,
the rest of the schedule is squeezed into the steps that still fit, and the curve says so.

A run that is killed continues from its last checkpoint when it is started again with the same
folder; on the CPU the result is bit for bit that of an uninterrupted run.
Axes: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laminogram.checkpoint.fingerprint import hash_tensors
from laminogram.errors import ConfigError, LaminogramError
from laminogram.plans import Plan
from laminogram.train.checkpoints import load_checkpoint, save_checkpoint
from laminogram.train.optimiser import OptimiserConfig, build_optimiser, set_rate, take_step
from laminogram.train.schedule import Schedule

PACE_WARMUP = 5  # steps that compile and fill caches before the clock starts
PACE_SECONDS = 3.0
PACE_STEPS = 20  # between two looks at the clock, each of which waits for the device
RESERVE = 0.985  # the share of the remaining time that is planned for


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A run: exactly one of `steps` and `minutes` is given.

    `save_every` is a multiple of `log_every`, so that a checkpoint never splits a row of the curve.
    `precision`: `bf16` keeps fp32 weights and computes products in bf16 (autocast); weights of 16
    bits would lose small updates, so `Trainer` refuses them. `plan` (text) is the order in which a
    stack's layers run while it is trained; None is its own.
    """

    steps: int | None = None
    minutes: float | None = None
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    schedule: Schedule = field(default_factory=Schedule)
    clip: float = 1.0
    precision: Literal["fp32", "bf16"] = "fp32"
    plan: str | None = None
    compile: bool = False
    log_every: int = 20
    save_every: int = 2000

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise ConfigError("a run has either steps or minutes; give exactly one of them")
        if self.save_every % self.log_every:
            raise ConfigError(
                f"save_every={self.save_every} is not a multiple of log_every={self.log_every}"
            )
        if self.precision not in ("fp32", "bf16"):
            raise ConfigError(f"precision {self.precision!r} is unknown; there are fp32, bf16")


@dataclass(frozen=True)
class TrainResult:
    """What a run did: its curve (one row every `log_every` steps), tokens, seconds, compilation."""

    steps: int
    tokens: int
    seconds: float
    curve: list[dict[str, float]]
    compiled: str


def row_losses(model: nn.Module, ids: Tensor, plan: Plan | None = None) -> Tensor:
    """Each row's mean cross-entropy (B,) in nats of ids (B, T + 1): each from those before it."""
    logits = model(ids[:, :-1]) if plan is None else model(ids[:, :-1], plan)
    losses = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return losses.view(ids.shape[0], -1).mean(dim=1)


class Trainer:
    """One run of `model` over `rows(step) -> ids (B, T + 1)`, kept in `folder`.

    `places` names slices of the rows (`Mixture.places`): the curve then has the loss of each, as
    `loss_<name>`, beside that of all.
    Raises ConfigError for weights of 16 bits, and in `run` for a folder of another run: one with
    other settings, other places, other rows at its first step, or that began from other weights.
    """

    def __init__(
        self,
        model: nn.Module,
        rows: Callable[[int], Tensor],
        config: TrainConfig,
        folder: str | Path,
        report: Callable[[dict[str, float]], None] | None = None,
        places: Mapping[str, slice] | None = None,
    ) -> None:
        _check_weights(model)
        self.model, self.rows, self.config = model, rows, config
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.report = report
        self.places = dict(places or {})
        self._plan = None if config.plan is None else Plan.of(config.plan)
        self.device = next(model.parameters()).device
        self.optimiser = build_optimiser(model, config.optimiser)
        self.compiled = "no"
        self._losses: Callable[[Tensor], tuple[Tensor, Tensor]] = self._plain_losses
        self.step = 0
        self.tokens = 0
        self.elapsed = 0.0  # seconds of earlier processes of this run
        self.steps = config.steps or 0
        self.anchor = (0, 0.0)  # (step, fraction): the schedule runs from here to (steps, 1)
        self.curve: list[dict[str, float]] = []
        self._first_rows = ""
        self._first_weights = ""

    def run(self) -> TrainResult:
        """Train to the end; continues from the folder's checkpoint if there is one."""
        self._begin = time.perf_counter()
        self.model.train()
        resumed = self._resume()
        if self.config.compile:
            self._compile()
        if not resumed and self.config.minutes is not None:
            self._plan_steps()
        self._write_curve()
        total: Tensor | None = None  # each row's loss, summed over the steps since the last log
        norm = torch.zeros((), device=self.device)
        mark, marked = self._seconds(), self.step
        while self.step < self.steps:
            # Its rate is that after the step: so the last one has the rate of the end.
            losses, norm = self._train_step(self.step, self.fraction(self.step + 1))
            total = losses if total is None else total + losses
            self.step += 1
            if self.step % self.config.log_every == 0 or self.step == self.steps:
                now = self._log(total, norm, mark, marked)
                total = None
                mark, marked = now, self.step
            if self.step % self.config.save_every == 0 or self.step == self.steps:
                self._save()
        return TrainResult(self.step, self.tokens, self._seconds(), self.curve, self.compiled)

    def fraction(self, step: int) -> float:
        """How much of the run is done before `step`."""
        first, done = self.anchor
        return done + (1.0 - done) * (step - first) / max(1, self.steps - first)

    def _train_step(self, step: int, fraction: float) -> tuple[Tensor, Tensor]:
        config = self.config
        set_rate(self.optimiser, config.optimiser.lr * config.schedule.factor(fraction))
        ids = self.rows(step)
        self._first_rows = self._first_rows or _digest(ids)
        loss, losses = self._losses(ids)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        take_step(self.optimiser)
        self.optimiser.zero_grad(set_to_none=True)
        self.tokens += ids.shape[0] * (ids.shape[1] - 1)
        return losses, norm

    def _plain_losses(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The mean loss, and the loss of each row (B,) without a gradient."""
        enabled = self.config.precision == "bf16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled):
            losses = row_losses(self.model, ids, self._plan)
        return losses.mean(), losses.detach()

    def _compile(self) -> None:
        """Compile the loss; a model that the compiler cannot take trains eagerly, and says why."""
        ids = self.rows(self.step)
        with torch.no_grad():  # fills lazily made tables, which would ask for a second compile
            self._plain_losses(ids)
        compiled = torch.compile(self._plain_losses, dynamic=False)
        try:
            compiled(ids)[0].backward()
        except RuntimeError as error:  # the base of all that the compiler raises
            reason = str(error).strip().split("\n")[0]
            self.compiled = f"no: {type(error).__name__}: {reason}"
        else:
            self.compiled = "yes"
            self._losses = compiled
        self.optimiser.zero_grad(set_to_none=True)

    def _plan_steps(self) -> None:
        """Fix the number of steps from a measured pace; the steps of the measurement are undone."""
        assert self.config.minutes is not None
        saved = [parameter.detach().clone() for parameter in self.model.parameters()]
        self.steps = 1_000_000
        for step in range(PACE_WARMUP):
            self._train_step(step, 0.0)
        self._synchronise()
        begin, count = time.perf_counter(), 0
        while time.perf_counter() - begin < PACE_SECONDS:
            for _ in range(PACE_STEPS):
                self._train_step(count, 0.0)
                count += 1
            self._synchronise()
        pace = (time.perf_counter() - begin) / count
        with torch.no_grad():
            for parameter, value in zip(self.model.parameters(), saved, strict=True):
                parameter.copy_(value)
        self.optimiser = build_optimiser(self.model, self.config.optimiser)
        self.tokens = 0
        left = 60.0 * self.config.minutes - self._seconds()
        self.steps = max(1, int(RESERVE * left / pace))

    def _replan(self, pace: float) -> bool:
        """Shorten the run if, at `pace` seconds a step, it would overrun its minutes."""
        if self.config.minutes is None or self.step >= self.steps:
            return False
        left = 60.0 * self.config.minutes - self._seconds()
        if pace * (self.steps - self.step) <= left:
            return False
        self.anchor = (self.step, self.fraction(self.step))
        self.steps = self.step + max(1, int(RESERVE * left / pace))
        return True

    def _log(self, total: Tensor, norm: Tensor, mark: float, marked: int) -> float:
        count = self.step - marked
        losses = (total / count).cpu()  # waits for the device, so the clock below is true
        loss = float(losses.mean())
        now = self._seconds()
        if not math.isfinite(loss):
            raise LaminogramError(f"the loss is {loss} at step {self.step}; the run has diverged")
        tokens = self.tokens / self.step * count
        row = {
            "step": self.step,
            "tokens": self.tokens,
            "fraction": self.fraction(self.step),
            "loss": loss,
            "gradient_norm": float(norm),
            "lr": max(group["lr"] / group["rate"] for group in self.optimiser.param_groups),
            "seconds": now,
            "tokens_per_second": tokens / max(now - mark, 1e-9),
        }
        for name, place in self.places.items():
            row[f"loss_{name}"] = float(losses[place].mean())
        row["replanned"] = float(self._replan((now - mark) / count))
        self.curve.append(row)
        with open(self.folder / "curve.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if self.report is not None:
            self.report(row)
        return now

    def _write_curve(self) -> None:
        """Begin the curve's file with the rows that the checkpoint vouches for."""
        text = "".join(json.dumps(row) + "\n" for row in self.curve)
        (self.folder / "curve.jsonl").write_text(text, encoding="utf-8")

    def _seconds(self) -> float:
        return self.elapsed + time.perf_counter() - self._begin

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _fingerprint(self) -> str:
        """The settings that decide the result, as text."""
        settings = asdict(self.config)
        settings["plan"] = None if self._plan is None else str(self._plan)
        return json.dumps({key: settings[key] for key in sorted(settings) if key != "compile"})

    def _rows_of(self) -> dict[str, list[int]]:
        """Which rows are whose, as JSON holds it."""
        return {name: [place.start, place.stop] for name, place in self.places.items()}

    def _weights(self) -> dict[str, Tensor]:
        return dict(self.model.named_parameters())

    def _save(self) -> None:
        state: dict[str, Any] = {
            "config": self._fingerprint(),
            "places": self._rows_of(),
            "first_rows": self._first_rows,
            "first_weights": self._first_weights,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "steps": self.steps,
            "tokens": self.tokens,
            "anchor": list(self.anchor),
            "seconds": self._seconds(),
            "curve": self.curve,
        }
        save_checkpoint(self.folder / "checkpoint.pt", state)

    def _resume(self) -> bool:
        self._first_weights = self._first_weights or hash_tensors(self._weights())
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return False
        state = load_checkpoint(path, self.device)
        there, here = json.loads(state["config"]), json.loads(self._fingerprint())
        # Older checkpoints do not say which rows are whose.
        there["places"], here["places"] = state.get("places", self._rows_of()), self._rows_of()
        differ = [key for key in here if there.get(key) != here[key]]
        if differ:
            told = "; ".join(f"{key} is {there.get(key)} there, {here[key]} here" for key in differ)
            raise ConfigError(
                f"{path} belongs to a run with other settings ({told}): give this run a folder of "
                "its own, or those settings"
            )
        self._first_rows = state.get("first_rows", "")  # older checkpoints do not have it
        goes_on = self._first_rows and state["step"] < state["steps"]
        if goes_on and _digest(self.rows(0)) != self._first_rows:
            raise ConfigError(
                f"{path} belongs to a run over other rows (those of its first step differ): give "
                "this run a folder of its own, or those rows"
            )
        self._check_begin(path, state)
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.steps, self.tokens = state["step"], state["steps"], state["tokens"]
        self.anchor = (state["anchor"][0], state["anchor"][1])
        self.elapsed, self.curve = state["seconds"], state["curve"]
        return True

    def _check_begin(self, path: Path, state: Mapping[str, Any]) -> None:
        """ConfigError for weights that are neither those of the run's begin nor its checkpoint's;
        checkpoints that do not know their begin pass."""
        first = state.get("first_weights", "")
        reached = {name: state["model"].get(name, torch.empty(0)) for name in self._weights()}
        here = self._first_weights
        if first not in ("", here) and hash_tensors(reached) != here:
            raise ConfigError(
                f"{path} belongs to a run that began from other weights: give this run a folder "
                "of its own, or begin it with those weights"
            )
        self._first_weights = first


def _digest(ids: Tensor) -> str:
    return hashlib.sha256(ids.cpu().to(torch.int64).contiguous().numpy().tobytes()).hexdigest()


def _check_weights(model: nn.Module) -> None:
    short = next((p.dtype for p in model.parameters() if p.requires_grad and p.itemsize < 4), None)
    if short is not None:
        raise ConfigError(
            f"the weights are {short}, in which small updates are lost: load them with "
            "dtype='fp32'; TrainConfig(precision='bf16') computes their products in bf16"
        )
