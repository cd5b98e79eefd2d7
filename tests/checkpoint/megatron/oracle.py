"""megatron-core itself, on the CPU: loads checkpoints, runs them, writes others.

Run by an interpreter that has it (`python oracle.py jobs.json`), never imported by the tests. One
group of processes serves every job; a job says how the model is cut, what to load and save, and
where its logits go. Three patches let it run without a GPU: no synchronising, no device, no random
states of one.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import warnings
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as processes

WORLD = 4


def start(rank: int, meeting: Path) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.environ.update(LOCAL_RANK=str(rank))
    torch.cuda.synchronize = lambda *_: None
    torch.cuda.current_device = lambda: "cpu"
    torch.Tensor.cuda = lambda self, *_, **__: self
    # A file to meet at: a port that was free may be taken by another process in between.
    where = meeting.absolute().as_uri()
    dist.init_process_group("gloo", init_method=where, rank=rank, world_size=WORLD)
    from megatron.core.tensor_parallel import random

    random.CudaRNGStatesTracker.fork = lambda *_, **__: contextlib.nullcontext()


def serve(rank: int, file: str) -> None:
    start(rank, Path(file).with_name("meeting"))
    for job in json.loads(Path(file).read_text()):
        run(job)
        dist.barrier()


def run(job: dict[str, Any]) -> None:
    from megatron.core import parallel_state as state

    state.destroy_model_parallel()
    vpp = job["vpp"] if job["vpp"] > 1 else None
    state.initialize_model_parallel(job["tp"], job["pp"], virtual_pipeline_model_parallel_size=vpp)
    chunks = build(job, vpp)
    if job.get("load"):
        load(job, chunks)
    else:
        randomise(chunks)
    logits = forward(job, chunks)
    first = state.get_tensor_model_parallel_rank() == 0 and state.get_data_parallel_rank() == 0
    if logits is not None and first:
        torch.save(logits, job["logits"])
    if job.get("save"):
        save(job, chunks)


def build(job: dict[str, Any], vpp: int | None) -> list[Any]:
    from megatron.core import parallel_state as state
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.models.gpt.gpt_model import GPTModel
    from megatron.core.transformer.transformer_config import TransformerConfig

    args = Namespace(**job["args"])
    config = TransformerConfig(
        num_layers=args.num_layers,
        hidden_size=args.hidden_size,
        num_attention_heads=args.num_attention_heads,
        num_query_groups=args.num_query_groups,
        kv_channels=args.kv_channels,
        ffn_hidden_size=args.ffn_hidden_size,
        gated_linear_unit=args.swiglu,
        activation_func=torch.nn.functional.silu,
        add_bias_linear=args.add_bias_linear,
        add_qkv_bias=args.add_qkv_bias,
        qk_layernorm=args.qk_layernorm,
        normalization=args.normalization,
        layernorm_epsilon=args.norm_epsilon,
        tensor_model_parallel_size=job["tp"],
        pipeline_model_parallel_size=job["pp"],
        virtual_pipeline_model_parallel_size=vpp,
        num_layers_in_first_pipeline_stage=job.get("first"),
        num_layers_in_last_pipeline_stage=job.get("last"),
        pipeline_dtype=torch.float32,
        use_cpu_initialization=True,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        bias_dropout_fusion=False,
        bias_activation_fusion=False,
        masked_softmax_fusion=False,
        gradient_accumulation_fusion=False,
    )
    spec = get_gpt_layer_local_spec(
        normalization=args.normalization, qk_layernorm=args.qk_layernorm
    )
    models = []
    for chunk in range(vpp or 1):
        stage = chunk if vpp else None
        torch.manual_seed(10 * state.get_pipeline_model_parallel_rank() + chunk)
        models.append(
            GPTModel(
                config,
                spec,
                vocab_size=job["padded_vocab_size"],
                max_sequence_length=args.max_position_embeddings,
                pre_process=state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=stage),
                post_process=state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=stage),
                parallel_output=False,
                share_embeddings_and_output_weights=not args.untie_embeddings_and_output_weights,
                position_embedding_type="rope",
                rotary_base=args.rotary_base,
                rope_scaling=args.use_rope_scaling,
                rope_scaling_factor=getattr(args, "rope_scaling_factor", 8.0),
                seq_len_interpolation_factor=getattr(
                    args, "rotary_seq_len_interpolation_factor", None
                ),
                vp_stage=stage,
            ).eval()
        )
    return models


def randomise(chunks: list[Any]) -> None:
    """Norms and biases that are not all alike; every rank draws the whole and keeps its share."""
    from megatron.core import parallel_state as state

    rank, ranks = (
        state.get_tensor_model_parallel_rank(),
        state.get_tensor_model_parallel_world_size(),
    )
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for model in chunks:
            for p in model.parameters():
                if p.dim() == 1:
                    share = ranks if getattr(p, "tensor_model_parallel", False) else 1
                    drawn = torch.randn(len(p) * share, generator=generator)
                    p.add_(drawn.chunk(share)[rank % share])


def names(job: dict[str, Any]) -> list[str]:
    return ["model"] if job["vpp"] == 1 else [f"model{n}" for n in range(job["vpp"])]


def rank_file(folder: Path, job: dict[str, Any]) -> Path:
    from megatron.core import parallel_state as state

    stage = state.get_pipeline_model_parallel_rank()
    ending = f"_{stage:03d}" if job["pp"] > 1 else ""
    tensor = state.get_tensor_model_parallel_rank()
    return folder / f"mp_rank_{tensor:02d}{ending}" / "model_optim_rng.pt"


def load(job: dict[str, Any], chunks: list[Any]) -> None:
    from megatron.core import dist_checkpointing

    folder = Path(job["load"])
    if job["layout"] == "legacy":
        # As Megatron reads it, and also as torch's restricted reader does.
        with torch.serialization.safe_globals([Namespace]):
            content = torch.load(rank_file(folder, job), map_location="cpu", weights_only=True)
    else:
        wanted = {n: m.sharded_state_dict() for n, m in zip(names(job), chunks)}
        with torch.serialization.safe_globals([Namespace]):
            content = dist_checkpointing.load(wanted, str(folder))
    assert isinstance(content["args"], Namespace)
    assert content["checkpoint_version"] == 3.0
    for name, model in zip(names(job), chunks):
        model.load_state_dict(content[name], strict=True)


def forward(job: dict[str, Any], chunks: list[Any]) -> torch.Tensor | None:
    from megatron.core import parallel_state as state

    tokens = torch.tensor(job["tokens"])
    batch, length = tokens.shape
    positions = torch.arange(length).expand(batch, length)
    mask = torch.ones(1, 1, length, length).tril() < 0.5
    stage, last = state.get_pipeline_model_parallel_rank(), job["pp"] - 1
    hidden = torch.empty(length, batch, job["args"]["hidden_size"])
    out = None
    with torch.no_grad():
        for number, model in enumerate(chunks):
            if stage or number:
                dist.recv(hidden, state.get_pipeline_model_parallel_prev_rank())
                model.set_input_tensor(hidden)
            out = model(tokens, positions, mask)
            if stage < last or number < len(chunks) - 1:
                dist.send(out.contiguous(), state.get_pipeline_model_parallel_next_rank())
    return out if stage == last else None


def save(job: dict[str, Any], chunks: list[Any]) -> None:
    from megatron.core import dist_checkpointing
    from megatron.core import parallel_state as state
    from megatron.core.enums import ModelType

    args = Namespace(
        **job["args"],
        tensor_model_parallel_size=job["tp"],
        pipeline_model_parallel_size=job["pp"],
        padded_vocab_size=job["padded_vocab_size"],
        model_type=ModelType.encoder_or_decoder,
        params_dtype=torch.float32,
    )
    rest = {"args": args, "checkpoint_version": 3.0, "iteration": 7}
    root = Path(job["save"])
    folder = root / "iter_0000007"
    if dist.get_rank() == 0:
        folder.mkdir(parents=True)
        (root / "latest_checkpointed_iteration.txt").write_text("7")
    dist.barrier()
    if job["layout"] == "legacy":
        models = {n: m.state_dict_for_save_checkpoint() for n, m in zip(names(job), chunks)}
        if state.get_data_parallel_rank() == 0:
            file = rank_file(folder, job)
            file.parent.mkdir(parents=True)
            torch.save({**rest, **models}, file)
    else:
        models = {n: m.sharded_state_dict() for n, m in zip(names(job), chunks)}
        dist_checkpointing.save({**rest, **models}, str(folder))


if __name__ == "__main__":
    processes.spawn(serve, args=(sys.argv[1],), nprocs=WORLD)
