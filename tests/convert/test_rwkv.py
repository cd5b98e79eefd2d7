"""RWKV of every version, from BlinkDL's `.pth` to the forms of others and back to the bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.convert import models
from tests.families import eagle
from tests.families import reference as ref
from tests.families.hf_models import SIZES
from tests.families.sources import random_stack
from torch import Tensor
from transformers import RwkvConfig, RwkvForCausalLM

from laminogram import load
from laminogram.checkpoint.write import export
from laminogram.convert.write import PTH, convert
from laminogram.errors import FamilyError

IDS = ref.tokens(2, 11)


def seven() -> dict[str, int | str]:
    """RWKV-7 with a head of the published size, whose norm's epsilon both programs agree on."""
    ranks = {f"{name}_low_rank_dim": 4 for name in ("decay", "a", "v", "gate")}
    sizes = {"vocab_size": ref.VOCAB, "hidden_size": 64, "head_dim": 64, "num_hidden_layers": 2}
    return {"model_type": "rwkv7", "intermediate_size": 64, **sizes, **ranks}


def pth(version: str, folder: Path) -> Path:
    """A `.pth` file of this version as BlinkDL publishes them."""
    file = folder / f"v{version[0]}.pth"
    if version == "7":
        stack = random_stack(seven(), 0)
        with torch.no_grad():
            for p in stack.parameters():
                p.mul_(0.3)
        export(stack, stack.config, folder / "fla", layout="fla")
        made = convert(folder / "fla", folder / "blink", layout="blink", verify=False)
        (made.path / PTH).rename(file)
    else:
        torch.save(ref.blink(4) if version == "4" else eagle.weights(version), file)
    return file


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return set(one) == set(other) and all(
        x.dtype == other[name].dtype and torch.equal(x, other[name]) for name, x in one.items()
    )


@pytest.mark.parametrize(
    ("version", "layout", "grade"),
    [
        ("4", "hf", "same bytes"),
        ("5.2", "hf", "same bytes"),
        ("6.0", "hf", "same bytes"),
        ("6.0", "fla", "exact in fp32"),
        ("7", "fla", "same bytes"),
    ],
)
def test_there_and_back_to_the_bit(tmp_path: Path, version: str, layout: str, grade: str) -> None:
    source = pth(version, tmp_path)
    there = convert(source, tmp_path / "there", layout=layout)
    manifest = json.loads((there.path / "laminogram.json").read_text())
    assert manifest["grade"] == grade and manifest["to"]["layout"] == layout
    assert ref.error(load(there.path).logits(IDS), load(source).logits(IDS)) <= models.TOLERANCE
    back = convert(there.path, tmp_path / "back", layout="blink")
    assert sorted(file.name for file in back.path.iterdir()) == ["laminogram.json", PTH]
    written = torch.load(back.path / PTH, weights_only=True)
    assert same(written, torch.load(source, weights_only=True))


def test_transformers_opens_version_4_and_agrees(tmp_path: Path) -> None:
    source = pth("4", tmp_path)
    done = convert(source, tmp_path / "hf")  # the form of the family that the source is not in
    assert ref.error(models.stock(done.path, IDS), load(source).logits(IDS)) <= models.TOLERANCE


def test_the_rwkv_package_opens_what_was_written(tmp_path: Path) -> None:
    """From other forms to `.pth`; versions before 7 in one process, 7 in another."""
    made, want = [], []
    for version, layout in (("4", "hf"), ("5.2", "hf"), ("6.0", "fla"), ("7", "fla")):
        folder = tmp_path / version
        folder.mkdir()
        source = pth(version, folder)
        there = convert(source, folder / "there", layout=layout, verify=False)
        back = convert(there.path, folder / "back", layout="blink", verify=False)
        made.append(back.path / PTH)
        want.append(load(source).logits(IDS))
    got = ref.run_rwkv_each(made[:3], IDS, tmp_path / "out")
    last = ref.run_rwkv(made[3], IDS, tmp_path / "last", generation=7)
    assert last is not None
    for mine, theirs in zip(want, [*got, last], strict=True):
        assert ref.error(theirs, mine) <= models.TOLERANCE


def test_a_model_saved_after_it_ran_is_written_with_its_true_weights(tmp_path: Path) -> None:
    """transformers divides weights on the first forward and saves them divided."""
    model = ref.draw(RwkvForCausalLM(RwkvConfig(**SIZES, rescale_every=2)))
    with torch.no_grad():
        want = model(IDS, use_cache=False).logits
    model.save_pretrained(tmp_path / "source")
    done = convert(tmp_path / "source", tmp_path / "pth", layout="blink", rescaled=2)
    assert ref.error(load(done.path).logits(IDS), want) <= models.TOLERANCE
    untold = convert(tmp_path / "source", tmp_path / "untold", layout="blink")
    assert ref.error(load(untold.path).logits(IDS), want) > 100 * models.TOLERANCE


@pytest.mark.parametrize(
    ("version", "layout", "reason"),
    [
        ("5.0", "hf", "a gate on the time mixing, which rwkv5"),
        ("5.1", "hf", r"attn.per_channel False where rwkv5 \(hf\) has attn.per_channel True"),
    ],
)
def test_what_a_form_cannot_hold_is_refused(
    tmp_path: Path, version: str, layout: str, reason: str
) -> None:
    with pytest.raises(FamilyError, match=reason):
        convert(pth(version, tmp_path), tmp_path / "result", layout=layout)
    assert not (tmp_path / "result").exists()


def test_tuned_states_are_a_loss(tmp_path: Path) -> None:
    torch.save(eagle.weights("6.0", state=True), tmp_path / "tuned.pth")
    with pytest.raises(FamilyError, match="tuned initial states, which rwkv6"):
        convert(tmp_path / "tuned.pth", tmp_path / "hf", layout="hf")
    done = convert(tmp_path / "tuned.pth", tmp_path / "hf", layout="hf", lossy=True)
    manifest = json.loads((done.path / "laminogram.json").read_text())
    assert manifest["losses"] == ["tuned initial states dropped"]


def test_a_form_that_is_refused_names_those_of_the_family_that_are_not(tmp_path: Path) -> None:
    with pytest.raises(FamilyError, match=r"forms of rwkv4 .*: --layout hf or blink$"):
        convert("tiny-rwkv4", tmp_path / "result", layout="rwkv-converted")
