"""Against megatron-core itself: it loads what we wrote and gives our logits; we read what it saves.

The interpreter that has it may be another one, named by LAMINOGRAM_MEGATRON_PYTHON.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.checkpoint.megatron.cases import TINY, parameters, reread
from tests.families.sources import random_stack
from torch import Tensor

from laminogram.checkpoint.megatron import read_megatron, write_megatron
from laminogram.checkpoint.megatron.arguments import arguments_of

TOKENS = [[5, 1, 22, 3, 3, 90, 41, 17, 8, 60, 2], [7, 101, 4, 4, 9, 0, 33, 12, 71, 64, 99]]
ATOL = 2e-4  # of logits of size ten or so, between two programs' orders of summing in fp32

QWEN2 = {"model_type": "qwen2"}
QWEN3 = {"model_type": "qwen3", "head_dim": 16}
# Name, fields of the configuration, choices of the writer. Transformer Engine's modules run on GPUs
# alone: of the legacy layout the plain names are loaded here, and the other layout's are the same.
LOADED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("llama", {}, {"norms": "local"}),
    ("llama-tp2", {}, {"tp": 2, "norms": "local"}),
    ("llama-tp4-more-ranks-than-groups", {}, {"tp": 4, "norms": "local"}),
    ("llama-biases-tp2", {"attention_bias": True, "mlp_bias": True}, {"tp": 2, "norms": "local"}),
    ("llama-output-bias", {"attention_bias": True}, {"norms": "local"}),
    ("llama-tied-pp2", {"tie_word_embeddings": True}, {"pp": 2, "norms": "local"}),
    ("llama-uneven", {}, {"pp": 2, "stages": (3, 1), "norms": "local"}),
    ("llama-virtual", {}, {"tp": 2, "pp": 2, "vpp": 2, "norms": "local"}),
    ("llama3-rope", {"rope_scaling": "llama3"}, {"norms": "local"}),
    ("linear-rope", {"rope_scaling": "linear"}, {"norms": "local"}),
    ("qwen2-tp4", QWEN2, {"tp": 4, "norms": "local"}),
    ("qwen2-tp2-pp2", QWEN2, {"tp": 2, "pp": 2, "norms": "local", "vocab_padding": "last"}),
    ("qwen3-tp2-pp2", QWEN3, {"tp": 2, "pp": 2, "norms": "local"}),
    ("internlm2-tp2", {"model_type": "internlm2", "bias": False}, {"tp": 2, "norms": "local"}),
    ("dist-llama", {}, {"layout": "torch_dist"}),
    ("dist-llama-tp4", {}, {"layout": "torch_dist", "tp": 4}),
    ("dist-llama-tied-pp2", {"tie_word_embeddings": True}, {"layout": "torch_dist", "pp": 2}),
    ("dist-qwen2-tp2-pp2", QWEN2, {"layout": "torch_dist", "tp": 2, "pp": 2}),
    ("dist-qwen3-virtual", QWEN3, {"layout": "torch_dist", "pp": 2, "vpp": 2}),
]
SAVED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (f"saved-{layout}-{name}", fields, {"layout": layout, **cut})
    for layout in ("legacy", "torch_dist")
    for name, fields, cut in (
        ("llama-tp4", {"attention_bias": True, "mlp_bias": True}, {"tp": 4}),
        ("qwen2-tp2-pp2", QWEN2, {"tp": 2, "pp": 2}),
        ("qwen3-uneven", QWEN3, {"pp": 2, "stages": (3, 1)}),
        ("llama-virtual", {}, {"tp": 2, "pp": 2, "vpp": 2}),
        ("llama-tied", {"tie_word_embeddings": True}, {"tp": 2, "pp": 2}),
    )
]


def interpreter() -> str | None:
    """A Python that has megatron-core, or None."""
    named = os.environ.get("LAMINOGRAM_MEGATRON_PYTHON")
    if named or importlib.util.find_spec("megatron") is None:
        return named
    return sys.executable


pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        interpreter() is None,
        reason="megatron-core is not installed, here or under LAMINOGRAM_MEGATRON_PYTHON",
    ),
]


def source(fields: dict[str, Any]) -> dict[str, Any]:
    made = TINY | {"num_hidden_layers": 4, "vocab_size": 120} | fields
    if made.get("rope_scaling") == "llama3":
        made["rope_scaling"] = {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
    elif made.get("rope_scaling") == "linear":
        made["rope_scaling"] = {"rope_type": "linear", "factor": 4.0}
    return made


def job(name: str, fields: dict[str, Any], choices: dict[str, Any], folder: Path) -> dict[str, Any]:
    from laminogram import families

    made = source(fields)
    tp, stages = choices.get("tp", 1), choices.get("stages")
    return {
        "args": arguments_of(families.find(made).config(made)),
        "tp": tp,
        "pp": choices.get("pp", 1),
        "vpp": choices.get("vpp", 1),
        "first": stages[0] if stages else None,
        "layout": choices.get("layout", "legacy"),
        "padded_vocab_size": 128 * tp,
        "tokens": TOKENS,
        "logits": str(folder / f"{name}.pt"),
    }


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Tensor, Tensor]]:
    """For each case the logits of megatron-core and ours, all from one run of it."""
    folder = tmp_path_factory.mktemp("megatron")
    jobs, ours = [], {}
    for seed, (name, fields, choices) in enumerate(LOADED):
        stack = random_stack(source(fields), seed)
        with torch.no_grad():
            ours[name] = stack(torch.tensor(TOKENS))
        root = write_megatron(parameters(stack), stack.config, folder / name, **choices)
        jobs.append(job(name, fields, choices, folder) | {"load": str(root / "release")})
    for name, fields, choices in SAVED:
        jobs.append(job(name, fields, choices, folder) | {"save": str(folder / name)})
    (folder / "jobs.json").write_text(json.dumps(jobs))
    python = interpreter()
    assert python is not None
    command = [python, str(Path(__file__).with_name("oracle.py")), str(folder / "jobs.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    for name, fields, _ in SAVED:
        described = read_megatron(folder / name, vocab_size=120)
        assert described.config.num_layers == 4
        assert described.family.name == source(fields)["model_type"]
        stack = reread(folder / name, vocab_size=120)
        with torch.no_grad():
            ours[name] = stack(torch.tensor(TOKENS))
    return {name: (torch.load(folder / f"{name}.pt"), logits) for name, logits in ours.items()}


@pytest.mark.parametrize("name", [case[0] for case in (*LOADED, *SAVED)])
def test_the_same_logits(name: str, answers: dict[str, tuple[Tensor, Tensor]]) -> None:
    theirs, ours = answers[name]
    scale = float(ours.abs().max())
    assert scale > 0.1
    assert float((theirs[..., :120] - ours).abs().max()) < ATOL * max(1.0, scale)
