"""The stock harness, with its own Hugging Face model on the same checkpoint, says the same.

Independent source: lm-evaluation-harness' `HFLM` and `evaluate` over `transformers`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="needs the extra [eval]")
pytest.importorskip("transformers", reason="needs the extra [hf]")

import torch
from tests.evaluate.benchmarks import write_benchmarks
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

import laminogram
from laminogram.evaluate.evaluate import answer, evaluate
from laminogram.evaluate.harness import harness, local_task
from laminogram.evaluate.tasks import Task, open_task

LIKELIHOOD = ("arc_easy", "winogrande", "lambada_openai", "sst2", "addition")
LENGTH = 72


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with a byte-level tokenizer that begins texts with a token of its own."""
    import transformers

    path: Path = tmp_path_factory.mktemp("llama")
    specials = ["<s>", "</s>", "<pad>"]
    names = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġt", "he", "Ġthe"]
    inner = Tokenizer(
        models.BPE(
            {name: i for i, name in enumerate(names)}, [("Ġ", "t"), ("h", "e"), ("Ġt", "he")]
        )
    )
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    ).save_pretrained(path)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(names),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=LENGTH,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_benchmarks(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def stock(folder: Path) -> Iterator[Any]:
    """The harness' own model, in fp32 on the CPU."""
    known = dict(os.environ)
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    try:
        made = harness("lm_eval.models.huggingface").HFLM(
            pretrained=str(folder), device="cpu", dtype="float32", batch_size=3
        )
        yield made
    finally:
        os.environ.clear()
        os.environ.update(known)


@pytest.fixture(scope="module")
def view(folder: Path) -> laminogram.View:
    return laminogram.load(folder)


def opened(name: str, data: Path) -> Task:
    return open_task(name, data=data, limit=6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", LIKELIHOOD)
def test_log_likelihoods_item_by_item(
    name: str, data: Path, stock: Any, view: laminogram.View
) -> None:
    task = opened(name, data)
    ours = answer(view, task.requests)[0]
    theirs = stock.loglikelihood(task.instances, disable_tqdm=True)
    assert len(ours) == len(theirs) > 4
    for (found, greedy), (wanted, likeliest) in zip(ours, theirs, strict=True):
        assert found == pytest.approx(wanted, rel=1e-4, abs=1e-4)
        assert greedy == likeliest


@pytest.mark.filterwarnings("ignore")
def test_rolling_item_by_item(data: Path, stock: Any, view: laminogram.View) -> None:
    task = opened("wikitext", data)
    ours = answer(view, task.requests)[0]
    theirs = stock.loglikelihood_rolling(task.instances, disable_tqdm=True)
    assert max(len(request.context) for request in task.requests) > 2 * LENGTH
    assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_generations_item_by_item(data: Path, stock: Any, view: laminogram.View) -> None:
    inner = local_task("gsm8k", data, shots=2)
    inner.config.generation_kwargs = {"until": ["the", "\n"], "max_gen_toks": 24}
    task = Task(inner, limit=6)
    ours = answer(view, task.requests)[0]
    theirs = stock.generate_until(task.instances, disable_tqdm=True)
    assert ours == theirs
    assert len(set(ours)) > 1


@pytest.mark.filterwarnings("ignore")
def test_metrics_are_those_of_the_harness(data: Path, stock: Any, view: laminogram.View) -> None:
    names = ("arc_easy", "winogrande", "lambada_openai", "sst2", "wikitext", "addition")
    ours = {one.task: one for one in evaluate(view, [opened(n, data) for n in names])}
    fresh = {name: opened(name, data).inner for name in names}
    theirs = harness("lm_eval.evaluator").evaluate(
        stock, {"tasks": fresh}, limit=6, bootstrap_iters=0
    )
    for name in names:
        wanted = theirs["results"][name]
        assert ours[name].documents == theirs["n-samples"][name]["effective"]
        for metric, value in ours[name].metrics.items():
            assert value == pytest.approx(wanted[metric], rel=1e-4), (name, metric)
