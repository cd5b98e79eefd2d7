"""A thousand damaged configurations and checkpoints: a clear error or the right answer, never a
crash, a hang, an execution or a silent wrong load.

Damaged weights must be refused or give the undamaged model's logits. A configuration may be changed
into another valid one, so there the right answer is a model that its tensors fit, whose logits are
numbers; one with a field that nobody knows must be refused, or the field must not matter.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.families.small import SMALL
from torch import Tensor

from laminogram import families
from laminogram.checkpoint.load import open_model
from laminogram.checkpoint.write import export
from laminogram.errors import LaminogramError
from laminogram.stack.stack import Stack

CASES = 40  # for each family
SECONDS = 20
IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3]])
ODD: tuple[Any, ...] = (
    None, "", "x", -1, 0, 1, 2, 3, 7, 1e-30, 1e30, float("nan"), float("inf"), 10**9, 10**15, True,
    False, [], [1], {}, {"rope_type": "nosuch"}, {"type": "linear"}, {"a": [1]}, "../../etc/passwd",
)  # fmt: skip
Damage = Callable[[random.Random, Path], None]


class Hostile:
    """A pickle that makes a file where it is executed."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


@contextmanager
def in_time(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def make(family: str, folder: Path) -> None:
    """A small model of the family with random weights, as a directory."""
    config = families.get(family).config(SMALL[family])
    stack = Stack(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.normal_(0, 0.3, generator=generator)
    export(stack, config, folder)


def answer(folder: Path) -> Tensor:
    """What the model of a directory says, on its own forward."""
    stack = open_model(folder).stack
    with torch.no_grad():
        return stack(IDS)


def in_config(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text())
    change(config)
    file.write_text(json.dumps(config))


def weights(folder: Path) -> Path:
    return folder / "model.safetensors"


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    tensors = load_file(weights(folder))
    change(tensors)
    save_file({name: x.contiguous().clone() for name, x in tensors.items()}, weights(folder))


def any_name(rng: random.Random, tensors: dict[str, Tensor]) -> str:
    return rng.choice(sorted(tensors))


# Configurations: what was said is lost, or says something else.


def drop_field(rng: random.Random, folder: Path) -> None:
    in_config(folder, lambda config: config.pop(rng.choice(sorted(config))))


def odd_field(rng: random.Random, folder: Path) -> None:
    in_config(folder, lambda config: config.update({rng.choice(sorted(config)): rng.choice(ODD)}))


def broken_text(rng: random.Random, folder: Path) -> None:
    file = folder / "config.json"
    text = file.read_bytes()
    place = rng.randrange(len(text))
    file.write_bytes(rng.choice([text[:place], b"[]", b"\xff\xfe", text[:place] + b"\0"]))


# Fields that nobody knows: must be refused, or must not matter.


def unknown_field(rng: random.Random, folder: Path) -> None:
    names = ("attn_logit_softcapping", "residual_multiplier", "qk_layernorm", "mup_scale", "zzz")
    in_config(folder, lambda config: config.update({rng.choice(names): rng.choice([0.5, 2, True])}))


# Weights: must be refused, or give the same answer.


def truncated(rng: random.Random, folder: Path) -> None:
    file = weights(folder)
    data = file.read_bytes()
    file.write_bytes(data[: rng.randrange(len(data))])


def longer(rng: random.Random, folder: Path) -> None:
    with weights(folder).open("ab") as file:
        file.write(rng.randbytes(rng.randint(1, 64)))


def broken_header(rng: random.Random, folder: Path) -> None:
    file = weights(folder)
    data = bytearray(file.read_bytes())
    (length,) = struct.unpack("<Q", data[:8])
    place = rng.choice([rng.randrange(8), 8 + rng.randrange(length)])
    data[place] = (data[place] + rng.randint(1, 255)) % 256
    file.write_bytes(data)


def lost_tensor(rng: random.Random, folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.pop(any_name(rng, tensors)))


def renamed(rng: random.Random, folder: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        name = any_name(rng, tensors)
        tensors[name.replace("0", "7") + rng.choice(["", "x", ".weight"])] = tensors.pop(name)

    rewrite(folder, change)


def reshaped(rng: random.Random, folder: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        name = any_name(rng, tensors)
        x = tensors[name]
        tensors[name] = rng.choice(
            [x.flatten()[:-1], x[None], x[:0], x.repeat(2, *[1] * (x.dim() - 1))]
        )

    rewrite(folder, change)  # fmt: skip


def other_dtype(rng: random.Random, folder: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        name = any_name(rng, tensors)
        dtype = rng.choice([torch.int8, torch.uint8, torch.float8_e4m3fn, torch.int64, torch.bool])
        tensors[name] = tensors[name].to(dtype)

    rewrite(folder, change)


def too_many(rng: random.Random, folder: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        name = any_name(rng, tensors)
        tensors[name.replace("1", "2") + "_extra"] = torch.ones(3)

    rewrite(folder, change)


def index_of_nowhere(rng: random.Random, folder: Path) -> None:
    tensors = load_file(weights(folder))
    place = rng.choice(["nosuch.safetensors", "../x.safetensors", "/etc/passwd", "", 3, None])
    index = {"weight_map": dict.fromkeys(tensors, "model.safetensors")}
    index["weight_map"][any_name(rng, tensors)] = place
    broken = rng.choice([index, index, {"weight_map": []}, []])
    (folder / "model.safetensors.index.json").write_text(json.dumps(broken))


def hostile_pickle(rng: random.Random, folder: Path) -> None:
    tensors: dict[str, Any] = dict(load_file(weights(folder)))
    weights(folder).unlink()
    tensors[rng.choice([any_name(rng, tensors), "more"])] = Hostile(folder / "executed")
    file = folder / "pytorch_model.bin"
    if rng.random() < 0.5:
        torch.save(tensors, file)
    else:
        file.write_bytes(pickle.dumps(tensors))


DAMAGE: dict[str, tuple[Damage, ...]] = {
    "configuration": (drop_field, odd_field, odd_field, odd_field, broken_text),
    "unknown": (unknown_field,),
    "weights": (
        truncated, longer, broken_header, broken_header, lost_tensor, renamed, reshaped,
        other_dtype, too_many, index_of_nowhere, hostile_pickle,
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=sorted(families.known()))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / request.param
    make(request.param, folder)
    return folder


def test_every_family_is_here() -> None:
    assert sorted(SMALL) == sorted(families.known())


def test_damage(family: Path, tmp_path: Path) -> None:
    right = answer(family)
    assert right.isfinite().all()
    rng = random.Random(family.name)
    ends = {"refused": 0, "answered": 0}
    for case in range(CASES):
        kind = rng.choice(("configuration", "configuration", "unknown", "weights", "weights"))
        damage = rng.choice(DAMAGE[kind])
        folder = tmp_path / f"{case}-{damage.__name__}"
        shutil.copytree(family, folder)
        damage(rng, folder)
        end = _end(folder, kind, right)
        assert not (folder / "executed").exists(), folder.name
        ends[end] += 1
        shutil.rmtree(folder)
    assert ends["refused"] > CASES // 4


def _end(folder: Path, kind: str, right: Tensor) -> str:
    try:
        with in_time(SECONDS):
            found = answer(folder)
    except LaminogramError:
        return "refused"
    if kind == "configuration":
        assert found.shape[:2] == right.shape[:2], folder.name
    else:  # weights that are mapped at other places are multiplied in another order
        assert torch.allclose(found, right, rtol=1e-5, atol=1e-6), folder.name
    return "answered"
