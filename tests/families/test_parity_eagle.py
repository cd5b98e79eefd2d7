"""RWKV-5.0 to 6 and tuned states against the `rwkv` package; the layouts of other programs against
formulas restated from raw weights; every quirk switched off in turn."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.families import eagle
from tests.families import reference as ref
from torch import Tensor

from laminogram import load
from laminogram.checkpoint.apply import apply_plan
from laminogram.checkpoint.load import describe
from laminogram.checkpoint.loading import bind
from laminogram.errors import ConfigError, FamilyError
from laminogram.stack.config import StackConfig
from laminogram.stack.stack import Stack

ROWS = ref.tokens(2, 19)
TUNED = [(version, state) for version in eagle.VERSIONS for state in (False, True)]


@dataclass
class Golden:
    path: Path
    weights: dict[str, Tensor]
    logits: Tensor


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], Golden]:
    folder = tmp_path_factory.mktemp("eagle")
    files = {}
    for version, state in TUNED:
        path = folder / f"v{version.replace('.', '_')}_{state}.pth"
        files[version, state] = path, eagle.weights(version, state=state)
        torch.save(files[version, state][1], path)
    logits = ref.run_rwkv_each([path for path, _ in files.values()], ROWS, folder / "out")
    return {key: Golden(*files[key], found) for key, found in zip(files, logits, strict=True)}


Found = dict[tuple[str, bool], Golden]


@pytest.mark.parametrize(("version", "state"), TUNED)
def test_logits_equal_the_package(golden: Found, version: str, state: bool) -> None:
    one = golden[version, state]
    stack = ref.load(one.path)
    with torch.no_grad():
        assert ref.error(stack(ROWS), one.logits) <= ref.TOLERANCE
    # ... which computes what the formulas say, so that these may stand for other programs below
    assert ref.error(eagle.restated(one.weights, ROWS, version), one.logits) <= ref.TOLERANCE


# The drawn heads answer so little that their norm enlarges what rounding leaves.
PRECISIONS = {torch.float64: 1e-12, torch.float16: 0.03, torch.bfloat16: 0.2}


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("version", eagle.VERSIONS)
def test_other_precisions(golden: Found, version: str, dtype: torch.dtype) -> None:
    """The formulas in fp64, of the weights as they are in this precision."""
    one = golden[version, True]
    rounded = {name: x.to(dtype).double() for name, x in one.weights.items()}
    with torch.no_grad():
        found = ref.load(one.path).to(dtype)(ROWS).double()
    assert ref.error(found, eagle.restated(rounded, ROWS, version)) <= PRECISIONS[dtype]


@pytest.mark.parametrize("version", eagle.VERSIONS)
def test_what_a_file_holds_is_read_from_its_tensors(golden: Found, version: str) -> None:
    config = describe(golden[version, True].path).config
    assert config.family == f"rwkv{version[0]}"
    assert (config.hidden_size, config.num_layers) == (ref.HIDDEN, ref.LAYERS)
    assert config.layers[0].ffn.intermediate_size == eagle.INNER
    mix: Any = config.layers[1].attn
    assert (mix.num_attention_heads, mix.head_dim) == (eagle.HEADS, eagle.SIZE)
    assert (mix.group_norm_eps, mix.initial_state) == (64e-5, True)
    assert not any(
        layer.attn.initial_state for layer in describe(golden[version, False].path).config.layers
    )
    if version == "6.0":
        assert (mix.mix_rank, mix.decay_rank) == (eagle.MIX_RANK, eagle.DECAY_RANK)
    else:
        told = (mix.gate, mix.per_channel, mix.log_bonus)
        expected = {"5.0": (False, False, True), "5.1": (True, False, True)}
        assert told == expected.get(version, (True, True, False))


@pytest.mark.parametrize(("version", "state"), TUNED)
def test_a_cache_and_a_ragged_batch_change_nothing(
    golden: Found, version: str, state: bool
) -> None:
    """The same logits in pieces of a cache, and in rows of several lengths padded on the left."""
    view = load(golden[version, state].path, dtype="fp32")
    want, cache = golden[version, state].logits, view.new_cache(2)
    with torch.no_grad():
        pieces = [
            view.run(view.tokens(ROWS[:, start:end]), cache=cache)
            for start, end in ((0, 7), (7, 8), (8, 19))
        ]
    assert ref.error(torch.cat(pieces, 1), want) <= ref.TOLERANCE
    tokens, mask = ROWS.clone(), torch.ones_like(ROWS, dtype=torch.bool)
    tokens[0] = torch.cat([torch.zeros(8, dtype=torch.long), ROWS[0, :11]])
    mask[0, :8] = False
    found = view.logits(tokens, mask=mask)
    assert ref.error(found[0, 8:], want[0, :11]) <= ref.TOLERANCE
    assert ref.error(found[1], want[1]) <= ref.TOLERANCE


def _directory(path: Path, made: tuple[dict[str, Tensor], dict[str, Any]]) -> Path:
    path.mkdir()
    tensors, config = made
    save_file({name: x.contiguous() for name, x in tensors.items()}, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.mark.parametrize("version", ["5.2", "6.0"])
def test_the_hub_s_names(golden: Found, tmp_path: Path, version: str) -> None:
    one = golden[version, False]
    stack = ref.load(_directory(tmp_path / "hub", eagle.as_hub(one.weights)))
    with torch.no_grad():
        assert ref.error(stack(ROWS), one.logits) <= ref.TOLERANCE
    # another divisor is another epsilon
    tensors, config = eagle.as_hub(one.weights)
    other = ref.load(_directory(tmp_path / "other", (tensors, config | {"head_size_divisor": 2})))
    with torch.no_grad():
        want = eagle.restated(one.weights, ROWS, version, eps=4e-5)
        assert ref.error(other(ROWS), want) <= ref.TOLERANCE
    assert ref.error(want, one.logits) > 100 * ref.TOLERANCE


def test_weights_that_the_remote_code_had_halved(golden: Found, tmp_path: Path) -> None:
    one = golden["5.2", False]
    tensors, config = eagle.as_hub(one.weights)
    for name, x in tensors.items():
        if name.endswith(("attention.output.weight", "feed_forward.value.weight")):
            tensors[name] = x / 2 ** (int(name.split(".")[2]) // 2)
    path = _directory(tmp_path / "halved", (tensors, config))
    with torch.no_grad():
        stack = ref.load(path, options={"rescaled": 2})
        assert ref.error(stack(ROWS), one.logits) <= ref.TOLERANCE


def test_the_names_of_flash_linear_attention(golden: Found, tmp_path: Path) -> None:
    one = golden["6.0", False]
    path = _directory(tmp_path / "fla", eagle.as_fla(one.weights))
    with torch.no_grad():
        assert ref.error(ref.load(path, group_norm_eps=64e-5)(ROWS), one.logits) <= ref.TOLERANCE
        want = eagle.restated(one.weights, ROWS, "6.0", eps=1e-5)  # as that program computes
        assert ref.error(ref.load(path)(ROWS), want) <= ref.TOLERANCE


def test_version_7_under_the_names_of_flash_linear_attention(tmp_path: Path) -> None:
    """The same logits as from BlinkDL's names, which are compared with the package elsewhere."""
    torch.save(ref.blink(7), tmp_path / "v7.pth")
    path = _directory(tmp_path / "fla", eagle.seven_as_fla(ref.blink(7)))
    with torch.no_grad():
        want = ref.load(tmp_path / "v7.pth")(ROWS)
        assert ref.error(ref.load(path, group_norm_eps=64e-5)(ROWS), want) <= 1e-6


def test_heads_of_another_width_are_refused(tmp_path: Path) -> None:
    tensors, config = eagle.as_fla(eagle.weights("6.0"))
    path = _directory(tmp_path / "fla", (tensors, config | {"expand_k": 0.5}))
    with pytest.raises(ConfigError, match=r"expand_k is 0.5; expected 1"):
        describe(path)


@pytest.mark.parametrize(("version", "state"), TUNED)
def test_every_tensor_is_saved_back(golden: Found, version: str, state: bool) -> None:
    one = golden[version, state]
    described = describe(one.path)
    mapping = bind(described.checkpoint, described.layout, described.config)
    ours = dict(ref.load(one.path).named_parameters())
    for name, wanted in one.weights.items():
        bound = mapping.theirs(name)
        assert bound is not None, name
        assert torch.equal(bound.write(ours.__getitem__), wanted), name


def test_the_tuned_state_of_version_7(tmp_path: Path) -> None:
    """As it lies in the file: the package's own state of version 7 has the same order."""
    weights = ref.blink(7)
    make = torch.Generator().manual_seed(5)
    for layer in range(ref.LAYERS):
        weights[f"blocks.{layer}.att.time_state"] = torch.randn(2, 16, 16, generator=make) * 0.02
    torch.save(weights, tmp_path / "v7.pth")
    want = ref.run_rwkv(tmp_path / "v7.pth", ROWS, tmp_path / "out", generation=7)
    assert want is not None
    stack = ref.load(tmp_path / "v7.pth")
    with torch.no_grad():
        assert ref.error(stack(ROWS), want) <= ref.TOLERANCE
        _turn_state(stack)
        assert ref.error(stack(ROWS), want) > 100 * ref.TOLERANCE


@pytest.mark.parametrize("version", ["5.2", "6.0"])
def test_every_step_starts_from_the_tuned_state(golden: Found, version: str) -> None:
    """A layer that runs twice remembers twice, and both memories begin with it."""
    one = golden[version, True]
    view = load(one.path, dtype="fp32").using(plan="0, 1, 1, 2")
    gram = view.record(ROWS[:1, :1], sites=["k", "v", "state", *["w"][: version == "6.0"]])
    raw = one.weights["blocks.1.att.time_state"]
    decay = torch.exp(-torch.exp(one.weights["blocks.1.att.time_decay"]))
    for step in (1, 2):
        k, v = (torch.tensor(gram[site, step])[0, 0] for site in ("k", "v"))
        if version == "6.0":
            decay = torch.tensor(gram["w", step])[0, 0]
        want = raw * decay[:, None, :] + v[:, :, None] * k[:, None, :]
        assert torch.allclose(torch.tensor(gram["state", step])[0, 0], want, atol=1e-6)


@pytest.mark.parametrize("version", ["5.1", "6.0"])
def test_a_plan_is_written_with_its_tuned_states(
    golden: Found, tmp_path: Path, version: str
) -> None:
    view = load(golden[version, True].path, dtype="fp32").using(plan="2, 0")
    made = apply_plan(golden[version, True].path, "2, 0", tmp_path / "made")
    assert load(made, dtype="fp32").logits(ROWS).equal(view.logits(ROWS))


def test_a_state_can_be_tuned(golden: Found) -> None:
    stack = ref.load(golden["6.0", True].path)
    stack(ROWS).square().mean().backward()
    for name, p in stack.named_parameters():
        assert p.grad is not None, name
        assert float(p.grad.abs().max()) > 0, name


def _set(name: str, value: float) -> Callable[[Stack], None]:
    def change(stack: Stack) -> None:
        with torch.no_grad():
            for key, p in stack.named_parameters():
                if key.endswith(name):
                    p.fill_(value)

    return change


def _turn_state(stack: Stack) -> None:
    with torch.no_grad():
        for key, p in stack.named_parameters():
            if key.endswith("initial_state"):
                p.copy_(p.mT.clone())


def _bypass_ln0(stack: Stack) -> None:
    stack.embed.norm = torch.nn.Identity()


def _turn_order(stack: Stack) -> None:
    """The low-rank token shifts as if they lay in another order."""
    with torch.no_grad():
        for key, p in stack.named_parameters():
            if key.endswith("mix2"):
                p.copy_(p[[3, 0, 1, 2, 4]])


def _keep(stack: Stack) -> None: ...


def _same(config: StackConfig) -> StackConfig:
    return config


def _mixer(**fields: Any) -> Callable[[StackConfig], StackConfig]:
    return lambda config: ref.in_mixer(config, "attn", **fields)


def _norm_eps(config: StackConfig) -> StackConfig:
    return ref.in_mixer(config, "norm", eps=0.3)


Mutation = tuple[str, Callable[[StackConfig], StackConfig], Callable[[Stack], None]]
COMMON: dict[str, tuple[Callable[[StackConfig], StackConfig], Callable[[Stack], None]]] = {
    "ln0": (_same, _bypass_ln0),
    "receptance": (_same, _set("attn.r.weight", 0.1)),
    "bonus": (_same, _set("attn.bonus", 0.0)),
    "group norm epsilon": (_mixer(group_norm_eps=1e-5), _keep),
    "out norm": (_same, _set("out_norm.bias", 0.0)),
    "norm epsilon": (_norm_eps, _keep),
    "channel receptance": (_same, _set("ffn.r.weight", 0.0)),
    "tuned state": (_same, _set("initial_state", 0.0)),
    "order of the tuned state": (_same, _turn_state),
}
GATE = {"gate": (_same, _set("attn.g.weight", 0.1))}
FIVE = COMMON | {
    "decay": (_same, _set("attn.decay", 0.0)),
    **{f"token shift of {name}": (_same, _set(f"attn.mix_{name}", 1.0)) for name in "rkv"},
    **{f"channel shift of {name}": (_same, _set(f"ffn.mix_{name}", 1.0)) for name in "kr"},
}
MUTATIONS: dict[str, Mutation] = {
    **{f"5.0 {name}": ("5.0", *how) for name, how in FIVE.items()},
    "5.0 bonus is a logarithm": ("5.0", _mixer(log_bonus=False), _keep),
    **{f"5.2 {name}": ("5.2", *how) for name, how in (FIVE | GATE).items()},
    "5.2 token shift of g": ("5.2", _same, _set("attn.mix_g", 1.0)),
    "5.2 bonus is no logarithm": ("5.2", _mixer(log_bonus=True), _keep),
    **{f"6.0 {name}": ("6.0", *how) for name, how in (COMMON | GATE).items()},
    "6.0 decay": ("6.0", _same, _set("w0", 0.0)),
    "6.0 decay of the input": ("6.0", _same, _set("w2", 0.0)),
    **{f"6.0 shift {n}": ("6.0", _same, _set(f"attn.mix_{n}", 0.0)) for n in "xwkvrg"},
    **{f"6.0 channel shift of {n}": ("6.0", _same, _set(f"ffn.mix_{n}", 0.0)) for n in "kr"},
    "6.0 shifts of the input": ("6.0", _same, _set("mix2", 0.0)),
    "6.0 order of the shifts": ("6.0", _same, _turn_order),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_every_quirk_counts(golden: Found, name: str) -> None:
    """Switched off, parity fails by more than a hundred times its tolerance."""
    version, config, change = MUTATIONS[name]
    one = golden[version, True]
    stack = ref.load(one.path, config)
    change(stack)
    with torch.no_grad():
        assert ref.error(stack(ROWS), one.logits) > 100 * ref.TOLERANCE


@pytest.mark.parametrize("version", ["5.2", "6.0"])
def test_files_in_the_package_s_own_form_are_refused(tmp_path: Path, version: str) -> None:
    weights = eagle.weights(version)
    folded = {name: x for name, x in weights.items() if ".ln0." not in name}
    torch.save(folded, tmp_path / "converted.pth")
    with pytest.raises(FamilyError, match=f"RWKV-{version[0]} file without blocks.0.ln0.weight"):
        describe(tmp_path / "converted.pth")
    torch.save(weights | {"blocks.0.att.key.weight_mx": torch.zeros(4)}, tmp_path / "int8.pth")
    with pytest.raises(FamilyError, match=r"key.weight_mx: int8 weights of the rwkv package"):
        describe(tmp_path / "int8.pth")
