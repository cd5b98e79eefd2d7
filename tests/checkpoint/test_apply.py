"""Plans written into checkpoints: other programs open them and agree with this engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tests.families import reference as ref
from tests.families.hf_models import SIZES, Case, build, cases
from tests.families.sources import random_stack
from torch import Tensor

from laminogram import Plan, bundled, families, load
from laminogram.checkpoint import rearrange
from laminogram.checkpoint.apply import MANIFEST, apply_plan, prepare
from laminogram.checkpoint.load import describe
from laminogram.checkpoint.write import export
from laminogram.errors import CheckpointError, ConfigError, PlanError
from laminogram.plans import Step

TOLERANCE = 1e-5
NAMES = ("llama-gqa", "llama-tied", "neox", "neox-sequential", "bert", "rwkv", "rwkv-rescaled")
WHOLE = ("0, 2", "2-0", "1, 0, 2", "2", "0, 3x(1), 2", "2x(0-2)")
HALVES = ("0, 1.attn, 2", "0.ffn, 1, 2.attn", "2, 1.ffn, 1.attn")
ROWS = ref.tokens(2, 19)
Sources = Callable[[str], tuple[Case, Path]]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """Each case's model of `transformers`, saved before it ran; made once."""
    known = cases()
    rescaled = transformers.RwkvConfig(**SIZES, rescale_every=2)
    known["rwkv-rescaled"] = Case(transformers.RwkvForCausalLM, rescaled)
    made: dict[str, Path] = {}

    def source(name: str) -> tuple[Case, Path]:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            build(known[name], made[name])
        return known[name], made[name]

    return source


@pytest.fixture(scope="module")
def blinks(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """BlinkDL's files of both generations; each layer of v7 has another rank."""
    folder = tmp_path_factory.mktemp("blink")

    def blink(generation: int) -> Path:
        path = folder / f"v{generation}.pth"
        if not path.exists():
            torch.save(ref.blink(generation), path)
        return path

    return blink


def planned(path: Path | str, plan: Plan | str, ids: Tensor = ROWS) -> Tensor:
    return load(path, dtype="fp32").using(plan=plan).logits(ids)


def theirs(case: Any, folder: Path, ids: Tensor = ROWS) -> Tensor:
    model = case.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(ids, **({} if "Bert" in case.__name__ else {"use_cache": False})).logits


# Other programs agree


@pytest.mark.parametrize("name", NAMES)
def test_transformers_gives_the_logits_of_the_plan(
    sources: Sources, tmp_path: Path, name: str
) -> None:
    case, folder = sources(name)
    full = planned(folder, "0-2")
    for number, text in enumerate(WHOLE if name == "bert" else WHOLE + HALVES):
        if text == "2" and name.startswith("rwkv"):
            continue  # transformers divides by the number of layers less one
        want = planned(folder, text)
        made = apply_plan(folder, text, tmp_path / str(number), copy=True)
        assert ref.error(theirs(case.model, made), want) <= TOLERANCE, text
        assert ref.error(want, full) > 100 * TOLERANCE, text
        config = json.loads((made / "config.json").read_text())
        assert config["num_hidden_layers"] == len(Plan.parse(text))


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-rwkv4"])
def test_bundled_models(tmp_path: Path, name: str) -> None:
    ids = load(name).tokens("It was in the spring of that year that the old doctor came.").tokens
    for number, text in enumerate(("0-1, 4-5", "0, 4-1, 5", "0-1, 3, 2, 4-5", "0-2, 2x(3), 4-5")):
        made = apply_plan(name, text, tmp_path / str(number), copy=True)
        got = theirs(transformers.AutoModelForCausalLM, made, ids)
        assert ref.error(got, planned(name, text, ids)) <= TOLERANCE, text
        tokenizer = load(made).tokenizer
        assert tokenizer is not None
        assert tokenizer.encode("the river") == load(name).tokenizer.encode("the river")


def test_the_rwkv_package_opens_a_pth_file(blinks: Callable[[int], Path], tmp_path: Path) -> None:
    text = "0, 2, 1, 2.attn, 1.ffn"
    made = apply_plan(blinks(7), text, tmp_path / "plan", copy=True)
    assert sorted(file.name for file in made.iterdir()) == [MANIFEST, "v7.pth"]
    got = ref.run_rwkv(made / "v7.pth", ROWS, tmp_path / "out", generation=7)
    assert got is not None
    assert ref.error(got, planned(blinks(7), text)) <= TOLERANCE


@pytest.mark.parametrize(("generation", "text"), [(4, "2, 0, 1, 1"), (7, "0.ffn, 2, 1"), (7, "0")])
def test_pth_files_stay_pth_files(
    blinks: Callable[[int], Path], tmp_path: Path, generation: int, text: str
) -> None:
    made = apply_plan(blinks(generation), text, tmp_path / "plan", copy=True)
    assert ref.error(load(made).logits(ROWS), planned(blinks(generation), text)) <= TOLERANCE
    written = torch.load(made / f"v{generation}.pth", weights_only=True)
    places = [value.untyped_storage().data_ptr() for value in written.values()]
    assert len(set(places)) == len(places), "copies are no copies: they share memory"


@settings(
    deadline=None,
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    steps=st.lists(
        st.builds(Step, st.integers(0, 2), st.sampled_from(["both", "both", "attn", "ffn"])),
        min_size=1,
        max_size=6,
    ),
    name=st.sampled_from(["llama-gqa", "neox", "rwkv"]),
)
def test_any_sequence_of_layers(
    sources: Sources, tmp_path_factory: pytest.TempPathFactory, steps: list[Step], name: str
) -> None:
    plan, (_, folder) = Plan(steps), sources(name)
    made = apply_plan(folder, plan, tmp_path_factory.mktemp("any") / "plan", copy=True)
    assert torch.equal(load(made).logits(ROWS), load(folder).using(plan=plan).logits(ROWS))


# Bytes and files


def test_tensors_keep_their_bytes(tmp_path: Path) -> None:
    made = apply_plan("tiny-llama", "0, 3, 2, 5.attn", tmp_path / "plan", max_shard_bytes=500_000)
    shards = sorted(made.glob("model-*.safetensors"))
    assert len(shards) > 2
    got: dict[str, Tensor] = {}
    for shard in shards:
        got |= load_file(shard)
    source = load_file(bundled.path("tiny-llama") / "model.safetensors")
    layers = [0, 3, 2, 5]
    want = {name: value for name, value in source.items() if ".layers." not in name}
    for place, layer in enumerate(layers):
        old, new = f"model.layers.{layer}.", f"model.layers.{place}."
        for name in [name for name in source if name.startswith(old)]:
            want[name.replace(old, new)] = source[name]
    idle = "model.layers.3.mlp.down_proj.weight"
    want[idle] = torch.zeros_like(want[idle])
    assert set(got) == set(want)
    for name, value in want.items():
        assert got[name].dtype == value.dtype, name
        assert torch.equal(got[name].view(torch.uint8), value.view(torch.uint8)), name


def test_each_tensor_keeps_its_own_dtype(blinks: Callable[[int], Path], tmp_path: Path) -> None:
    weights = torch.load(blinks(4), weights_only=True)
    mixed = {
        name: value if "time_" in name else value.bfloat16() for name, value in weights.items()
    }
    torch.save(mixed, tmp_path / "mixed.pth")
    made = apply_plan(tmp_path / "mixed.pth", "0, 2", tmp_path / "plan")
    got = torch.load(made / "mixed.pth", weights_only=True)
    for name in got:
        old = name.replace("blocks.1.", "blocks.2.")
        assert got[name].dtype == mixed[old].dtype
        assert torch.equal(got[name], mixed[old]), name


def test_old_files_become_safetensors_with_the_names_of_today(
    sources: Sources, tmp_path: Path
) -> None:
    case, folder = sources("bert")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_bytes((folder / "config.json").read_bytes())
    names = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    weights = load_file(folder / "model.safetensors")
    for new, old in names.items():
        weights = {name.replace(new, old): value for name, value in weights.items()}
    torch.save(weights, tmp_path / "old" / "pytorch_model.bin")
    made = apply_plan(tmp_path / "old", "2, 0", tmp_path / "plan")
    assert not [name for name in load_file(made / "model.safetensors") if "gamma" in name]
    assert ref.error(theirs(case.model, made), planned(folder, "2, 0")) <= TOLERANCE


def test_what_stands_beside_the_weights(sources: Sources, tmp_path: Path) -> None:
    _, folder = sources("llama-gqa")
    copied = ("generation_config.json", "chat_template.jinja", "tokenizer_config.json", "LICENSE")
    left = ("modeling_evil.py", "tokenization_evil.py", "training_args.bin", "README.md")
    source = tmp_path / "source"
    source.mkdir()
    for name in ("config.json", "model.safetensors"):
        (source / name).write_bytes((folder / name).read_bytes())
    for name in copied + left:
        (source / name).write_text(json.dumps({"file": name}))
    made = apply_plan(source, "0, 2", tmp_path / "deep" / "plan")
    for name in copied:
        assert json.loads((made / name).read_text()) == {"file": name}
    assert not [name for name in left if (made / name).exists()]
    before, after = (json.loads((at / "config.json").read_text()) for at in (source, made))
    assert after == before | {"num_hidden_layers": 2}
    manifest = json.loads((made / MANIFEST).read_text())
    assert manifest["source"] == "source" and manifest["plan"] == "0, 2"
    assert manifest["weights_hash"] == load(source).facts()["weights_hash"]
    assert str(tmp_path) not in (made / MANIFEST).read_text()


def test_lists_by_layer_are_permuted(sources: Sources) -> None:
    config = describe(sources("llama-gqa")[1]).config
    lists = {"layer_types": ["full", "sliding", "full"], "no_rope_layers": [1, 1, 0]}
    config = replace(config, source={**config.source, **lists, "eos_token_id": [1, 2, 3]})
    got = rearrange.source_of(config, Plan.parse("2, 1, 1, 0"))
    assert got["layer_types"] == ["full", "sliding", "sliding", "full"]
    assert got["no_rope_layers"] == [0, 1, 1, 1]
    assert (got["eos_token_id"], got["num_hidden_layers"]) == ([1, 2, 3], 4)
    short = replace(config, source={**config.source, "layer_types": ["full"]})
    with pytest.raises(ConfigError, match="layer_types has 1 entries"):
        rearrange.source_of(short, Plan.parse("0"))


def test_buffers_of_a_layer_travel_with_it(sources: Sources, tmp_path: Path) -> None:
    """Old files hold buffers that nobody reads; they are no parameters."""
    case, folder = sources("neox")
    key = "gpt_neox.layers.{}.attention.rotary_emb.inv_freq"
    buffers = {key.format(layer): torch.full((2,), float(layer)) for layer in range(3)}
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_bytes((folder / "config.json").read_bytes())
    weights = load_file(folder / "model.safetensors")
    save_file(weights | buffers, tmp_path / "old" / "model.safetensors")
    made = apply_plan(tmp_path / "old", "2, 0", tmp_path / "plan")
    written = load_file(made / "model.safetensors")
    assert [float(written[key.format(place)][0]) for place in (0, 1)] == [2, 0]
    assert key.format(2) not in written
    count = json.loads((made / MANIFEST).read_text())["parameters"]
    assert count == sum(p.numel() for p in case.model.from_pretrained(made).parameters())


def test_the_norm_of_the_embedding_is_no_layers(sources: Sources) -> None:
    layout = describe(sources("rwkv")[1]).layout
    assert rearrange.owner_of(layout, "rwkv.blocks.0.pre_ln.weight") is None
    assert rearrange.owner_of(layout, "rwkv.blocks.0.ln1.weight") == 0


# Weights that depend on their place


def test_a_model_saved_after_it_ran_is_written_as_the_true_one(tmp_path: Path) -> None:
    """transformers divides RWKV's weights on the first forward, and saves them divided."""
    config = transformers.RwkvConfig(**SIZES, rescale_every=2)
    model = ref.draw(transformers.RwkvForCausalLM(config))
    with torch.no_grad():
        model(ROWS)
    model.save_pretrained(tmp_path / "source")
    made = apply_plan(tmp_path / "source", "2, 0, 1", tmp_path / "plan", rescaled=2)
    want = load(tmp_path / "source", rescaled=2).using(plan="2, 0, 1").logits(ROWS)
    assert ref.error(theirs(transformers.RwkvForCausalLM, made), want) <= TOLERANCE
    assert torch.equal(load(made).logits(ROWS), want)
    untold = apply_plan(tmp_path / "source", "2, 0, 1", tmp_path / "untold")
    assert ref.error(load(untold).logits(ROWS), want) > 100 * TOLERANCE


def test_a_converted_file_is_divided_for_its_new_places(tmp_path: Path) -> None:
    """What the `rwkv` package converts says itself by what each layer was divided."""
    source = {"model_type": "rwkv", "vocab_size": ref.VOCAB, "hidden_size": 8}
    stack = random_stack(source | {"intermediate_size": 12, "num_hidden_layers": 3}, 0)
    config = replace(stack.config, embedding=replace(stack.config.embedding, norm=None))
    extras = {"_strategy": "cpu fp32", "_version": 0.7, "_rescale_layer": 1}
    layout = families.get("rwkv4").layout_named("rwkv-converted")
    mapping = layout.bind(config, extras)
    ours = {k: p.detach() for k, p in stack.named_parameters() if not k.startswith("embed.norm")}
    file = {name: mapping.theirs(name) for name in mapping.names_of_theirs(list(ours))}
    tensors = {k: b.write(ours.__getitem__).clone() for k, b in file.items() if b is not None}
    torch.save(tensors | extras, tmp_path / "converted.pth")
    made = apply_plan(tmp_path / "converted.pth", "2, 0, 1", tmp_path / "plan")
    written = torch.load(made / "converted.pth", weights_only=True)
    assert {name: written[name] for name in extras} == extras
    key = "blocks.{}.ffn.value.weight"
    assert torch.equal(written[key.format(0)], tensors[key.format(2)] * 4)
    want = load(tmp_path / "converted.pth").using(plan="2, 0, 1").logits(ROWS)
    assert torch.equal(load(made).logits(ROWS), want)


# Refusals: the reason is named, and nothing is written


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("llama-gqa", "0, mean(1-2)", r"no family can express .* Nearest .*: 0-2$"),
        ("llama-gqa", "0, sum(1 | 2.attn)", "no family can express"),
        ("llama-gqa", "0, 2x(1), 2", r"layer 1 2x .*\(--copy\) .* cost 7,744 param"),
        ("llama-gqa", "0, 1.ffn, 1.attn", "layer 1 2x"),
        ("llama-gqa", "none", "at least one"),
        ("llama-gqa", "0, 3", "layers 0-2"),
        ("llama-gqa", "0, 3x", "character|ends where"),
        ("bert", "0, 1.attn, 2", "post-norm"),
    ],
)
def test_what_cannot_be_said_is_refused(
    sources: Sources, tmp_path: Path, name: str, text: str, reason: str
) -> None:
    with pytest.raises(PlanError, match=reason):
        apply_plan(sources(name)[1], text, tmp_path / "deep" / "plan")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "reason"),
    [("1, 2", "only layer 0 provides it"), ("0, 1, 0", "step 2 .* runs layer 0 again")],
)
def test_a_side_stream_comes_from_place_0(
    blinks: Callable[[int], Path], tmp_path: Path, text: str, reason: str
) -> None:
    with pytest.raises(PlanError, match=reason):
        apply_plan(blinks(7), text, tmp_path / "plan", copy=True)
    assert not list(tmp_path.iterdir())


def test_what_a_configuration_cannot_hold_is_refused(sources: Sources) -> None:
    """A layer's own setting that the format has no field for would be lost."""
    described = describe(sources("llama-gqa")[1])
    layers = list(described.config.layers)
    layers[1] = replace(layers[1], attn=replace(layers[1].attn, window=4))
    described = replace(described, config=replace(described.config, layers=tuple(layers)))
    with pytest.raises(PlanError, match=r"place 0 layer 1 .*attn.window None instead of 4"):
        rearrange.rearrange(described, Plan.parse("1"), copy=False, standalone=False)


def test_nothing_is_overwritten(sources: Sources, tmp_path: Path) -> None:
    (tmp_path / "plan").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("plan", "link"):
        with pytest.raises(CheckpointError, match="exists"):
            apply_plan(sources("llama-gqa")[1], "0", tmp_path / name)
    assert not list((tmp_path / "plan").iterdir())


def test_a_write_that_breaks_off_leaves_nothing(sources: Sources, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        apply_plan(sources("llama-gqa")[1], "0, 2", tmp_path / "plan", progress=stop)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_and_a_damaged_source_are_told_first(
    sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = sources("llama-gqa")
    lying = tmp_path / "lying"
    lying.mkdir()
    config = json.loads((folder / "config.json").read_text()) | {"intermediate_size": 40}
    (lying / "config.json").write_text(json.dumps(config))
    (lying / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="misshaped"):
        prepare(lying, "0, 2")
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Free", (), {"free": 10}))
    with pytest.raises(CheckpointError, match="GB free"):
        apply_plan(folder, "0, 2", tmp_path / "plan")
    assert [file.name for file in tmp_path.iterdir()] == ["lying"]


def test_every_layout_that_is_written_can_be_rearranged(tmp_path: Path) -> None:
    """flash-linear-attention's names, where the embedding's norm stands in layer 0."""
    ranks = {f"{name}_low_rank_dim": 3 for name in ("decay", "a", "v", "gate")}
    source = {"model_type": "rwkv7", "vocab_size": ref.VOCAB, "hidden_size": 8, "head_dim": 4}
    source |= {"num_hidden_layers": 3, "intermediate_size": 12, "value_dim": [8, 8, 8], **ranks}
    stack = random_stack(source, 0)
    export(stack, stack.config, tmp_path / "fla", layout="fla")
    made = apply_plan(tmp_path / "fla", "0, 2, 1, 2", tmp_path / "plan", copy=True)
    want = load(tmp_path / "fla").using(plan="0, 2, 1, 2").logits(ROWS)
    assert torch.equal(load(made).logits(ROWS), want)
    assert json.loads((made / "config.json").read_text())["value_dim"] == [8] * 4
