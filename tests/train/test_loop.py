from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tests.stacks import stack_of
from tests.train.tiny import Tiny, trainer

from laminogram.errors import CheckpointError, ConfigError, LaminogramError
from laminogram.plans import Plan
from laminogram.train import OptimiserConfig, Schedule, TrainConfig, Trainer, build_optimiser
from laminogram.train.loop import row_losses

PROGRAM = Path(__file__).with_name("tiny.py")


def _parameters(run: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in run.model.state_dict().items()}


def test_overfits_a_text_that_can_be_predicted(tmp_path):
    result = trainer(tmp_path, 400).run()
    assert result.curve[0]["loss"] > 1.5
    assert result.curve[-1]["loss"] < 0.1
    assert result.tokens == 400 * 4 * 16
    assert [row["step"] for row in result.curve] == list(range(5, 401, 5))


def test_the_curve_has_the_loss_of_each_source(tmp_path):
    run = trainer(tmp_path, 10, optimiser=OptimiserConfig(lr=0.0))
    wanted = {"squares": 0.0, "counting": 0.0}
    for step in range(5):
        rows = run.rows(step)
        for name, part in (("squares", rows[:3]), ("counting", rows[3:])):
            logits = run.model(part[:, :-1]).flatten(0, 1)
            wanted[name] += torch.nn.functional.cross_entropy(logits, part[:, 1:].flatten()).item()
    first = run.run().curve[0]
    assert first["loss_squares"] == pytest.approx(wanted["squares"] / 5, rel=1e-5)
    assert first["loss_counting"] == pytest.approx(wanted["counting"] / 5, rel=1e-5)
    whole = (3 * first["loss_squares"] + first["loss_counting"]) / 4
    assert first["loss"] == pytest.approx(whole, rel=1e-5)


def test_the_rate_of_the_last_step_is_that_of_the_end(tmp_path):
    schedule = Schedule(kind="cosine", warmup=0.3, floor=0.1)
    optimiser = OptimiserConfig(lr=0.01, rates={"up.bias": 3.0})
    run = trainer(tmp_path, 10, schedule=schedule, optimiser=optimiser, log_every=1)
    rates = [row["lr"] for row in run.run().curve]
    assert rates == pytest.approx([0.01 * schedule.factor(step / 10) for step in range(1, 11)])
    assert rates[-1] == pytest.approx(0.001)


def test_a_run_that_was_squeezed_ends_at_the_rate_of_the_end(tmp_path):
    run = trainer(tmp_path, 10, log_every=1, schedule=Schedule(warmup=0.0, floor=0.1))
    run.anchor = (0, 0.5)
    rates = [row["lr"] for row in run.run().curve]
    factor = run.config.schedule.factor
    assert rates == pytest.approx([0.01 * factor(0.5 + step / 20) for step in range(1, 11)])


def test_gradients_are_clipped(tmp_path, monkeypatch):
    norms = []

    def watched(optimiser):
        grads = [p.grad for group in optimiser.param_groups for p in group["params"]]
        norms.append(float(torch.cat([grad.flatten() for grad in grads]).norm()))

    monkeypatch.setattr("laminogram.train.loop.take_step", watched)
    curve = trainer(tmp_path, 5, clip=0.01, log_every=1).run().curve
    assert norms == pytest.approx([0.01] * 5, rel=1e-4)
    assert all(row["gradient_norm"] > 0.1 for row in curve)


def test_a_row_of_the_curve_is_of_its_own_steps(tmp_path):
    run = trainer(tmp_path, 7, optimiser=OptimiserConfig(lr=0.0))
    curve = run.run().curve
    last = torch.cat([row_losses(run.model, run.rows(step)) for step in (5, 6)]).mean().item()
    assert [row["step"] for row in curve] == [5, 7]
    assert curve[1]["loss"] == pytest.approx(last, rel=1e-5)
    (_, one), (_, two) = ((row["tokens"], row["seconds"]) for row in curve)
    assert curve[1]["tokens_per_second"] == pytest.approx(2 * 4 * 16 / (two - one), rel=1e-6)


def test_curve_on_disk_is_the_curve(tmp_path):
    result = trainer(tmp_path, 20).run()
    lines = (tmp_path / "run" / "curve.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == result.curve


def test_the_same_seed_gives_the_same_bits(tmp_path):
    one, two = trainer(tmp_path / "one", 30), trainer(tmp_path / "two", 30)
    one.run()
    two.run()
    for name, tensor in _parameters(one).items():
        assert torch.equal(tensor, two.model.state_dict()[name])


def test_a_killed_run_ends_as_if_it_had_not_been(tmp_path):
    """A real process, killed between checkpoints, started again: same bits, same curve."""
    torch.set_num_threads(1)
    straight = trainer(tmp_path / "straight", 40)
    whole = straight.run()

    folder = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, str(PROGRAM), str(folder), "40", "0.05"])
    checkpoint = folder / "run" / "checkpoint.pt"
    try:
        deadline = time.monotonic() + 60
        while not checkpoint.exists():
            assert process.poll() is None, "the process ended by itself"
            assert time.monotonic() < deadline, "no checkpoint after a minute"
            time.sleep(0.01)
        time.sleep(0.12)
    finally:
        process.kill()
        process.wait()

    again = trainer(folder, 40)
    result = again.run()
    assert 0 < torch.load(checkpoint, weights_only=True)["step"] <= 40
    for name, tensor in _parameters(straight).items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name
    for column in ("loss", "loss_squares", "loss_counting", "lr"):
        assert [row[column] for row in result.curve] == [row[column] for row in whole.curve]


def _broken_off(folder):
    """A run of 40 steps that got as far as the 13th; its rows."""

    def breaks(step):
        if step == 13:
            raise KeyboardInterrupt
        return rows(step)

    first = trainer(folder, 40)
    rows, first.rows = first.rows, breaks
    with pytest.raises(KeyboardInterrupt):
        first.run()
    return rows


def test_a_run_that_was_broken_off_goes_on_from_its_checkpoint(tmp_path):
    rows = _broken_off(tmp_path)
    second, seen = trainer(tmp_path, 40), []
    second.rows = lambda step: seen.append(step) or rows(step)
    second.run()
    assert seen == [0, *range(10, 40)]  # the first rows are compared with those of before


def test_what_a_run_knows_of_its_time_is_kept(tmp_path):
    first = trainer(tmp_path, 10)
    first.run()
    first.anchor = (4, 0.25)  # as where it was squeezed
    first._save()
    again = trainer(tmp_path, 10)
    again._resume()
    assert again.anchor == (4, 0.25) and again.fraction(7) == pytest.approx(0.625)
    assert again.elapsed >= first.curve[-1]["seconds"] > 0
    assert (again.tokens, again.curve) == (first.tokens, first.curve)
    for one, two in zip(*(run.optimiser.state.values() for run in (first, again)), strict=True):
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_a_finished_run_is_not_trained_again(tmp_path):
    trainer(tmp_path, 10).run()
    again = trainer(tmp_path, 10)
    again.rows = lambda step: pytest.fail("trained on")
    assert again.run().steps == 10


def test_other_settings_do_not_continue_a_run(tmp_path):
    trainer(tmp_path, 10).run()
    with pytest.raises(ConfigError, match=r"other settings .steps is 10 there, 20 here.:"):
        trainer(tmp_path, 20).run()
    other = trainer(tmp_path, 10)
    other.places = {"squares": slice(0, 2), "counting": slice(2, 4)}
    with pytest.raises(ConfigError, match=r"places is .*'squares': \[0, 3\].* there"):
        other.run()


def test_other_rows_do_not_continue_a_run(tmp_path):
    rows = _broken_off(tmp_path)
    other, same = trainer(tmp_path, 40), trainer(tmp_path, 40)
    other.rows = lambda step: rows(step).flip(0)
    with pytest.raises(ConfigError, match="other rows"):
        other.run()
    assert same.run().steps == 40


@pytest.mark.parametrize("finished", [False, True])
def test_other_weights_do_not_continue_a_run(tmp_path, finished):
    if finished:
        trainer(tmp_path, 40).run()
    else:
        _broken_off(tmp_path)
    other, same = trainer(tmp_path, 40), trainer(tmp_path, 40)
    with torch.no_grad():
        other.model.down.bias[0] += 1
    for _ in range(2):
        with pytest.raises(ConfigError, match="began from other weights"):
            other.run()
    other.model.load_state_dict(torch.load(tmp_path / "run" / "checkpoint.pt")["model"])
    reached = Trainer(other.model, same.rows, same.config, same.folder, places=same.places)
    assert reached.run().steps == same.run().steps == 40


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_that_would_lose_updates_are_refused(tmp_path, dtype):
    config = TrainConfig(steps=1)
    with pytest.raises(ConfigError, match="weights are torch"):
        Trainer(Tiny().to(dtype), lambda step: torch.zeros(1, 4).long(), config, tmp_path)
    frozen = Tiny().to(dtype).requires_grad_(False)
    frozen.down.float().requires_grad_(True)
    Trainer(frozen, lambda step: torch.zeros(1, 4).long(), config, tmp_path)


def test_a_damaged_checkpoint_is_named(tmp_path):
    trainer(tmp_path, 10).run()
    path = tmp_path / "run" / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt"):
        trainer(tmp_path, 10).run()


def test_minutes_end_in_time_with_the_schedule_run_out(tmp_path, monkeypatch):
    monkeypatch.setattr("laminogram.train.loop.PACE_SECONDS", 0.2)
    run = trainer(tmp_path, None, minutes=2.0 / 60, save_every=1000)
    before = _parameters(run)
    checked = []
    plan = run._plan_steps

    def planned() -> None:
        plan()
        checked.append(all(torch.equal(before[k], v) for k, v in run.model.state_dict().items()))
        assert not run.optimiser.state and run.tokens == 0

    run._plan_steps = planned
    begin = time.perf_counter()
    result = run.run()
    assert checked == [True], "measuring the pace changed the weights"
    assert time.perf_counter() - begin < 4.0
    assert result.steps > 50
    assert result.curve[-1]["fraction"] == pytest.approx(1.0)
    assert result.curve[-1]["lr"] == pytest.approx(0.1 * 0.01, rel=0.05)


def test_products_in_bf16_train_weights_in_fp32(tmp_path):
    runs = [trainer(tmp_path / way, 20, precision=way) for way in ("fp32", "bf16")]
    runs[1].model.eval()
    wide, narrow = (run.run().curve for run in runs)
    assert narrow[-1]["loss"] == pytest.approx(wide[-1]["loss"], rel=0.05)
    assert narrow[0]["loss"] != wide[0]["loss"]
    assert all(x.dtype is torch.float32 for x in _parameters(runs[1]).values())
    assert runs[1].model.training


def test_a_slower_machine_shortens_the_run(tmp_path):
    run = trainer(tmp_path, None, minutes=1.0)
    run._begin = time.perf_counter() - 30.0
    run.step, run.steps = 900, 1000
    assert not run._replan(pace=0.1)  # ten seconds of thirty
    run.step, run.steps = 100, 1000
    assert run._replan(pace=0.1)
    assert run.steps == pytest.approx(100 + 30 / 0.1, rel=0.05)
    assert run.fraction(100) == pytest.approx(0.1)
    assert run.fraction(run.steps) == pytest.approx(1.0)


def test_divergence_is_an_error(tmp_path):
    run = trainer(tmp_path, 10)
    with torch.no_grad():
        run.model.down.bias.fill_(float("nan"))
    with pytest.raises(LaminogramError, match="diverged"):
        run.run()


@pytest.mark.parametrize(
    "wrong",
    [{}, {"steps": 1, "minutes": 1.0}, {"steps": 1, "log_every": 20, "save_every": 30}],
)
def test_refuses_settings_that_contradict(wrong):
    with pytest.raises(ConfigError):
        TrainConfig(**wrong)


def test_matrices_decay_and_rates_follow_names():
    config = OptimiserConfig(lr=0.5, weight_decay=0.1, rates={"up.bias": 3.0})
    model = Tiny()
    groups = build_optimiser(model, config).param_groups
    found = {
        id(parameter): (group["rate"], group["weight_decay"])
        for group in groups
        for parameter in group["params"]
    }
    assert {name: found[id(parameter)] for name, parameter in model.named_parameters()} == {
        "embed.tokens.weight": (1.0, 0.0),
        "up.weight": (1.0, 0.1),
        "up.bias": (3.0, 0.0),
        "down.weight": (1.0, 0.1),
        "down.bias": (1.0, 0.0),
    }
    with pytest.raises(ConfigError, match="nowhere"):
        build_optimiser(model, OptimiserConfig(rates={"nowhere": 2.0}))


def test_the_compiled_loss_trains_the_same(tmp_path, monkeypatch):
    plain = trainer(tmp_path / "plain", 20).run()
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **how: real(f, backend="aot_eager", **how))
    compiled = trainer(tmp_path / "compiled", 20, compile=True).run()
    assert (plain.compiled, compiled.compiled) == ("no", "yes")
    for one, two in zip(plain.curve, compiled.curve, strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-4)


def test_a_compiler_that_fails_is_named_and_done_without(tmp_path, monkeypatch):
    def broken(function, **how):
        def call(ids):
            raise RuntimeError("no compiler here\nand a long trace")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    result = trainer(tmp_path, 10, compile=True).run()
    assert result.compiled == "no: RuntimeError: no compiler here"
    assert result.steps == 10


@pytest.mark.parametrize("kind", ["llama", "rwkv4"])
def test_a_stack_trains_under_a_plan(tmp_path, kind):
    stack = stack_of(kind)
    untouched = [parameter.detach().clone() for parameter in stack.layer(2).parameters()]
    ids = torch.arange(4 * 9).view(4, 9) % 7
    plan = Plan.parse("0, 2x(mean(0-1)), 1")
    expected = row_losses(stack, ids, plan).mean().item()
    config = TrainConfig(
        steps=30,
        plan="0, mean(0-1), mean(0 | 1), 1",  # the same plan, written otherwise
        optimiser=OptimiserConfig(lr=0.01, weight_decay=0.0),
        log_every=1,
        save_every=30,
    )
    result = Trainer(stack, lambda step: ids, config, tmp_path).run()
    assert result.curve[0]["loss"] == pytest.approx(expected, rel=1e-4)
    assert result.curve[-1]["loss"] < 0.5 * result.curve[0]["loss"]
    for before, after in zip(untouched, stack.layer(2).parameters(), strict=True):
        assert torch.equal(before, after)
