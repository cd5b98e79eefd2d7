"""The recipes of the zoo, run whole and tiny on this machine."""

from __future__ import annotations

import json
import lzma
import math
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from safetensors import safe_open

from laminogram import families
from laminogram.stack.stack import Stack
from laminogram.train import build_optimiser

ZOO = Path(__file__).resolve().parents[2] / "zoo"
sys.path.insert(0, str(ZOO))
import recipes  # noqa: E402
import train  # noqa: E402

SENTENCES = (
    "The old captain looked at the grey sea and said nothing for a while.",
    '"I do not believe you," she replied, and closed the door.',
    "In the morning the train arrived, two hours late — as always.",
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for name, count in (("toy.train.0", 6), ("toy.train.1", 4), ("toy.val", 2)):
        with lzma.open(folder / f"{name}.jsonl.xz", "wt", encoding="utf-8") as file:
            for number in range(count):
                text = " ".join(SENTENCES[(number + i * i) % 3] for i in range(40))
                book = {"author": "Nobody", "title": f"Book {number}", "year": 1900, "text": text}
                file.write(json.dumps(book) + "\n")
    return folder


@pytest.mark.parametrize(
    ("name", "parameters", "sources"),
    [("tiny-rwkv4", 2.75e6, 1), ("tiny-rwkv7", 0.9e6, 1), ("small-llama", 5.9e6, 4)],
)
def test_a_dry_run_leaves_everything(name, parameters, sources, corpus, tmp_path):
    out = tmp_path / name
    folders = {"corpus": corpus, "out": out, "work": tmp_path / "work"}
    options = [word for name, path in folders.items() for word in (f"--{name}", str(path))]
    train.main([name, "--dry-run", "--device", "cpu", *options])
    card = json.loads((out / "card.json").read_text())
    curve = pq.read_table(out / "loss.parquet").to_pylist()
    assert [row["step"] for row in curve] == [5, 10, 15, 20]
    assert card["training"]["curve"][-1]["step"] == 20
    assert card["training"]["tokens_seen"] == 20 * 4 * 32
    # Untrained or hardly trained, it is near a uniform choice among 4096 tokens.
    assert card["held_out"]["nats_per_token"] < math.log(4096) + 0.5
    assert len(card["held_out"]["by_book"]) == 2
    assert card["parameters"] == pytest.approx(parameters, rel=0.02)
    shares = {name: source["share"] for name, source in card["data"]["sources"].items()}
    assert shares["books"] == 1 / sources
    assert len(shares) == sources and sum(shares.values()) == 1.0
    for name in shares:
        assert card["training"]["curve"][-1][f"loss_{name}"] == round(curve[-1][f"loss_{name}"], 4)
    assert {kind.split()[0] for kind in card["held_out"]["skills"]} == set(shares) - {"books"}
    with safe_open(out / "model.safetensors", "pt") as weights:
        numbers = 0
        for key in list(weights.keys()):
            tensor = weights.get_slice(key)
            assert tensor.get_dtype() == "BF16"
            numbers += math.prod(tensor.get_shape())
    assert numbers == card["parameters"]
    config = json.loads((out / "config.json").read_text())
    assert config["vocab_size"] == 4096
    assert (out / "tokenizer.json").read_bytes() == (ZOO / "tokenizer.json").read_bytes()
    assert (out / "samples.md").read_text().count("> **") == 10 + 3 * (sources - 1)
    assert (out / "loss.svg").read_text().count("<path") == sources


def test_every_recipe_is_of_a_model_that_can_be_built():
    sizes = {}
    for path in sorted(ZOO.glob("*/recipe.json")):
        recipe = recipes.Recipe.named(path.parent.name)
        stack = Stack(families.find(recipe.config).config(recipe.config), device="meta")
        build_optimiser(stack, recipe.train.optimiser)
        sizes[recipe.name] = (len(stack.layers), sum(p.numel() for p in stack.parameters()))
        assert sum(recipe.rows.values()) == recipe.batch == 128
        assert recipe.rows["books"] >= 0.96 * recipe.batch
    assert sizes["small-llama"][0] == sizes["small-rwkv4"][0] == 12
    assert sizes["small-rwkv4"][1] == pytest.approx(sizes["small-llama"][1], rel=0.01)
    assert len(sizes) == 5


def test_the_tokenizer_loses_nothing_and_ends_texts_with_zero():
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(ZOO / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == 4096
    assert tokenizer.token_to_id("<|endoftext|>") == 0
    text = "Zwölf Boxkämpfer — 12 + 34 = 46,\n\n\t诗 🙂 caf\u0065\u0301"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert 0 not in tokenizer.encode(text).ids
