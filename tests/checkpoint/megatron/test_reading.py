"""Reading: both layouts, old names and orders, and what is wrong told by name."""

from __future__ import annotations

import json
import shutil
import warnings
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from tests.checkpoint.megatron.cases import TINY, parameters, reread
from tests.families.sources import random_stack
from torch import Tensor

from laminogram import families
from laminogram.checkpoint.megatron import is_megatron, read_megatron, write_megatron
from laminogram.checkpoint.megatron.arguments import arguments_of, source_of
from laminogram.errors import CheckpointError, ConfigError, FamilyError
from laminogram.stack.stack import Stack

X = torch.arange(11)[None]
EARLY = TINY | {"num_key_value_heads": 4, "vocab_size": 12}


def written(folder: Path, fields: dict[str, Any] | None = None, **choices: Any) -> Stack:
    stack = random_stack(TINY | (fields or {}), seed=3)
    write_megatron(parameters(stack), stack.config, folder, **choices)
    return stack


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    ours, theirs = parameters(a), parameters(b)
    return set(ours) == set(theirs) and all(torch.equal(ours[n], theirs[n]) for n in ours)


def rows_in_order(q: Tensor, k: Tensor, v: Tensor, heads: int, version: float) -> Tensor:
    """A rank's fused rows as early versions stored them: one head has one query, key and value."""
    each = [x.reshape(heads, -1, *x.shape[1:]) for x in (q, k, v)]
    axis = {0.0: 0, 1.0: 2}.get(version, 1)
    stacked = torch.stack(each, dim=axis)
    return stacked.reshape(-1, *q.shape[1:])


def write_early(root: Path, stack: Stack, version: float, pp: int) -> None:
    """Files as the first versions nested and named them, by hand: two tensor ranks."""
    own = parameters(stack)
    args = arguments_of(stack.config)
    args |= {"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": pp}
    layers = stack.config.num_layers
    bounds = [0, layers] if pp == 1 else [0, layers - 1, layers]
    for rank in range(2):
        for stage in range(pp):
            encoder: dict[str, Tensor] = {}
            for local, layer in enumerate(range(bounds[stage], bounds[stage + 1])):
                of = {n.removeprefix(f"layers.{layer}."): t for n, t in own.items()}
                q, k, v = (of[f"attn.{x}.weight"].chunk(2)[rank] for x in "qkv")
                name = f"layers.{local}"
                gate, up = (of[f"ffn.{x}.weight"].chunk(2)[rank] for x in ("gate", "up"))
                encoder |= {
                    f"{name}.input_norm.weight": of["attn_norm.weight"],
                    f"{name}.attention.query_key_value.weight": rows_in_order(q, k, v, 2, version),
                    f"{name}.attention.dense.weight": of["attn.o.weight"].chunk(2, 1)[rank],
                    f"{name}.post_attention_norm.weight": of["ffn_norm.weight"],
                    f"{name}.mlp.dense_h_to_4h.weight": torch.cat([gate, up]),
                    f"{name}.mlp.dense_4h_to_h.weight": of["ffn.down.weight"].chunk(2, 1)[rank],
                }
            model: dict[str, Any] = {"encoder": encoder}
            if stage == 0:
                table = own["embed.tokens.weight"].chunk(2)[rank]
                model["embedding"] = {"word_embeddings": {"weight": table}}
            if stage == pp - 1:
                encoder["final_norm.weight"] = own["final_norm.weight"]
                model["output_layer"] = {"weight": own["head.weight"].chunk(2)[rank]}
            ending = f"_{stage:03d}" if pp > 1 else ""
            file = root / "iter_0000100" / f"mp_rank_{rank:02d}{ending}" / "model_optim_rng.pt"
            file.parent.mkdir(parents=True)
            content = {"args": Namespace(**args), "iteration": 100, "optimizer": {"step": 3}}
            content |= {"model": {"language_model": model}}
            torch.save(content | ({"checkpoint_version": version} if version else {}), file)
    (root / "latest_checkpointed_iteration.txt").write_text("100")


@pytest.mark.parametrize("version", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("pp", [1, 2])
def test_names_and_orders_of_early_versions(tmp_path: Path, version: float, pp: int) -> None:
    stack = random_stack(EARLY, seed=1)
    write_early(tmp_path / "m", stack, version, pp)
    described = read_megatron(tmp_path / "m")
    assert same(reread(tmp_path / "m"), stack)
    assert described.checkpoint.extras["iteration"] == 100
    assert described.checkpoint.extras["tp"] == 2


@pytest.mark.parametrize(
    ("fields", "family"),
    [
        ({}, "llama"),
        ({"tie_word_embeddings": True}, "llama"),
        ({"attention_bias": True, "mlp_bias": True}, "llama"),
        ({"model_type": "qwen2"}, "qwen2"),
        ({"model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 0}, "qwen2"),
        ({"model_type": "qwen3", "head_dim": 16}, "qwen3"),
        ({"model_type": "mistral", "sliding_window": 8}, "mistral"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 4.0}}, "llama"),
    ],
)
def test_arguments_say_what_the_configuration_said(fields: dict[str, Any], family: str) -> None:
    config = random_stack(TINY | fields, seed=0).config
    source = source_of(arguments_of(config), 128)
    again = families.find(source).config(source)
    assert again.family == family
    assert again.layers == config.layers
    assert (again.head, again.vocab_size) == (config.head, config.vocab_size)


def test_both_paddings_and_unknown_sizes(tmp_path: Path) -> None:
    for padding, layout in (("zero", "torch_dist"), ("last", "legacy")):
        folder = tmp_path / padding
        stack = written(folder, tp=2, vocab_padding=padding, layout=layout)
        assert read_megatron(folder).checkpoint.shapes["output_layer.weight"] == (13, 32)
        (folder / "config.json").unlink()
        assert same(reread(folder), stack)
        with pytest.raises(CheckpointError, match="256 rows of vocabulary; the model should"):
            read_megatron(folder, vocab_size=300)
        shorter = read_megatron(folder, vocab_size=7)
        assert shorter.config.vocab_size == 7
        assert shorter.checkpoint.get("embedding.word_embeddings.weight").shape == (7, 32)


def test_a_configuration_wins_over_stored_arguments(tmp_path: Path) -> None:
    stack = written(tmp_path / "m", {"model_type": "internlm2", "bias": False})
    assert read_megatron(tmp_path / "m").family.name == "internlm2"
    given = {**stack.config.source, "rms_norm_eps": 0.25}
    assert read_megatron(tmp_path / "m", config=given).config.layers[0].norm.eps == 0.25
    (tmp_path / "m" / "config.json").unlink()
    assert read_megatron(tmp_path / "m").family.name == "llama"
    assert torch.equal(reread(tmp_path / "m")(X), stack(X))


def test_biases_of_zeros_that_megatron_needed(tmp_path: Path) -> None:
    stack = written(tmp_path / "m", {"attention_bias": True})
    assert same(reread(tmp_path / "m"), stack)
    (tmp_path / "m" / "config.json").unlink()
    back = reread(tmp_path / "m")
    assert not torch.count_nonzero(parameters(back)["layers.0.ffn.down.bias"])
    assert torch.allclose(back(X), stack(X), atol=1e-5)


def test_what_is_a_checkpoint_of_megatron(tmp_path: Path) -> None:
    written(tmp_path / "m")
    written(tmp_path / "d", layout="torch_dist", iteration=12)
    assert is_megatron(tmp_path / "m") and is_megatron(tmp_path / "m" / "release")
    assert is_megatron(tmp_path / "d") and is_megatron(tmp_path / "d" / "iter_0000012")
    assert not is_megatron(tmp_path) and not is_megatron(tmp_path / "m" / "config.json")
    assert same(reread(tmp_path / "m"), reread(tmp_path / "d" / "iter_0000012"))
    assert (tmp_path / "d" / "latest_checkpointed_iteration.txt").read_text() == "12"
    (tmp_path / "d" / "latest_checkpointed_iteration.txt").unlink()
    with pytest.raises(CheckpointError, match="so what it holds may be incomplete"):
        read_megatron(tmp_path / "d")
    with pytest.raises(CheckpointError, match=r"holds .*; expected mp_rank_00"):
        read_megatron(tmp_path)


def test_missing_and_damaged_ranks_are_named(tmp_path: Path) -> None:
    written(tmp_path / "m", tp=2, pp=2, stages=(1, 2))
    folder = tmp_path / "m" / "release"
    rank = folder / "mp_rank_01_001"
    file = rank / "model_optim_rng.pt"
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=r"mp_rank_01_001.* is truncated"):
        read_megatron(tmp_path / "m")
    file.unlink()
    with pytest.raises(CheckpointError, match=r"mp_rank_01_001 has no model_optim_rng.pt"):
        read_megatron(tmp_path / "m")
    rank.rmdir()
    with pytest.raises(CheckpointError, match="3 of 4 ranks; missing: tensor rank 1 of stage 1"):
        read_megatron(tmp_path / "m")
    shutil.rmtree(folder / "mp_rank_01_000")
    with pytest.raises(CheckpointError, match="written by 2 tensor and 2 pipeline ranks; files"):
        read_megatron(tmp_path / "m")


def test_missing_and_damaged_distributed_files_are_named(tmp_path: Path) -> None:
    written(tmp_path / "m", layout="torch_dist")
    folder = tmp_path / "m" / "release"
    file = folder / "__0_0.distcp"
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=r"__0_0.distcp is truncated"):
        reread(tmp_path / "m")
    file.unlink()
    with pytest.raises(CheckpointError, match=r"lacks __0_0.distcp, which holds"):
        read_megatron(tmp_path / "m")
    file.write_bytes(data)
    (folder / "metadata.json").write_text(json.dumps({"sharded_backend": "zarr"}))
    with pytest.raises(CheckpointError, match="names the format 'zarr'; expected torch_dist"):
        read_megatron(tmp_path / "m")
    (folder / "metadata.json").write_text(json.dumps({"sharded_backend": "torch_dist"}))
    (folder / ".metadata").write_bytes(b"\x80\x04cos\nsystem\n.")
    with pytest.raises(CheckpointError, match=r"\.metadata is no readable table"):
        read_megatron(tmp_path / "m")


def test_layers_of_several_kinds_are_not_stacked(tmp_path: Path) -> None:
    """As torch's own writer stores them: one key a layer, gate and up each with its own."""
    stack = random_stack(TINY, seed=3)
    write_megatron(parameters(stack), stack.config, tmp_path / "m", vocab_divisible_by=1)
    checkpoint = read_megatron(tmp_path / "m").checkpoint
    state: dict[str, Any] = {"optimizer.state.exp_avg.embedding.word_embeddings": torch.ones(2)}
    for name in checkpoint.tensors:
        tensor = checkpoint.get(name).clone()
        if ".linear_fc1.weight" in name:
            state[f"{name}_w"], state[f"{name}_v"] = (half.clone() for half in tensor.chunk(2))
        else:
            state[name] = tensor
    folder = tmp_path / "d"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(state, checkpoint_id=str(folder), no_dist=True)
    torch.save({"args": Namespace(**arguments_of(stack.config))}, folder / "common.pt")
    (folder / "metadata.json").write_text(json.dumps({"sharded_backend": "torch_dist"}))
    assert same(reread(folder), stack)


def test_a_tied_copy_that_differs_is_an_error(tmp_path: Path) -> None:
    written(tmp_path / "m", {"tie_word_embeddings": True}, pp=3)
    file = tmp_path / "m" / "release" / "mp_rank_00_002" / "model_optim_rng.pt"
    content = torch.load(file, weights_only=False)
    content["model"]["output_layer.weight"][0] += 1
    torch.save(content, file)
    with pytest.raises(CheckpointError, match=r"output_layer.weight differs from embedding"):
        reread(tmp_path / "m")


def test_models_of_another_kind_are_refused_by_their_arguments() -> None:
    arguments = arguments_of(random_stack(TINY, seed=0).config)
    for name, value in (
        ("num_experts", 8),
        ("normalization", "LayerNorm"),
        ("rotary_percent", 0.5),
        ("position_embedding_type", "learned_absolute"),
        ("multi_latent_attention", True),
    ):
        with pytest.raises(FamilyError, match=f"have {name}="):
            source_of({**arguments, name: value}, 128)
    with pytest.raises(CheckpointError, match="have no hidden_size; give the model's config"):
        source_of({**arguments, "hidden_size": None}, 128)
    with pytest.raises(FamilyError, match="no published form"):
        source_of({**arguments, "qk_layernorm": True, "add_bias_linear": True}, 128)
    source = source_of({**arguments, "num_query_groups": 3}, 128)
    with pytest.raises(ConfigError, match="num_key_value_heads"):
        families.find(source).config(source)
