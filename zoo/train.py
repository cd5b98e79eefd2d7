"""Train a model of the zoo again, on one GPU, with one command.

    python zoo/train.py tiny-llama --corpus DIR --out DIR [--minutes M] [--seed S]

`--corpus` holds the shards (see prepare.py). They are encoded into `--tokens` first, where they are
not yet there; a run that was killed goes on from its checkpoint in `--work`. `--dry-run` does
everything, tiny, on any machine: 20 steps, a few thousand bytes to judge, short samples.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from prepare import END_OF_TEXT, documents, prepare_skill, prepare_tokens, shards
from recipes import HERE, PROMPTS, Recipe
from results import thinned, write_curve, write_json, write_samples
from tokenizers import Tokenizer

from laminogram import families
from laminogram.checkpoint.write import export
from laminogram.evaluate.problems import held_out_problems
from laminogram.stack.stack import Stack
from laminogram.train import (
    Answered,
    BitsPerByte,
    Blocks,
    Document,
    Mixture,
    Question,
    TokenStream,
    Trainer,
    TrainResult,
    answered,
    bits_per_byte,
    initialise,
    sample,
)

TEMPERATURE, TOP_P = 0.8, 0.95
DRY_STEPS, DRY_BYTES, DRY_LINES = 20, 2000, 500
QUESTIONS, DRY_QUESTIONS = 500, 20  # held-out problems of each skill


def main(argv: Sequence[str] | None = None) -> None:
    """Command line: see the top of the file."""
    args = _arguments(argv)
    recipe = _recipe(args)
    if args.out.exists():
        raise SystemExit(f"{args.out} exists; results are never written over others")
    device = torch.device(args.device)
    begin = time.perf_counter()
    tokenizer = Tokenizer.from_file(str(args.tokenizer))
    work = args.work or args.out.with_name(args.out.name + ".work")
    tokens = args.tokens or work / "tokens"
    prepare_tokens(args.corpus, tokens, args.tokenizer)
    mixture = _mixture(recipe, args.seed, tokens, args.tokenizer, device)
    print(f"text ready after {time.perf_counter() - begin:.0f} s:", flush=True)
    for name, blocks in mixture.sources.items():
        print(f"  {name}: {len(blocks.stream):,} tokens, {blocks.batch} rows", flush=True)

    stack = Stack(families.find(recipe.config).config(recipe.config), device="cpu")
    initialise(stack, args.seed)
    stack.to(device)
    folder = work / recipe.name
    trainer = Trainer(stack, mixture, recipe.train, folder, _report, mixture.places)
    result = trainer.run()
    print(
        f"compiled: {result.compiled}; {result.steps} steps in {result.seconds:.0f} s", flush=True
    )

    _round_to_bf16(stack)
    whole, books = _judge(stack, recipe, args.corpus, tokenizer, dry=args.dry_run)
    print(f"held out: {whole.value:.4f} bits per byte", flush=True)
    answers = _question(stack, recipe, tokenizer, dry=args.dry_run)
    for kind, result_of in answers.items():
        print(f"held out: {kind}: {100 * result_of.accuracy:.1f} % exact", flush=True)
    prompts, texts = _samples(stack, recipe, tokenizer, args.seed)
    _export(stack, recipe, args.out, args.tokenizer)
    how = (
        f"Temperature {TEMPERATURE}, top-p {TOP_P}, {recipe.new_tokens} tokens, "
        f"seed {args.seed}, bf16 weights in fp32 arithmetic."
    )
    write_samples(args.out / "samples.md", recipe.name, prompts, texts, how)
    write_curve(args.out, result.curve, f"{recipe.name}: training loss")
    card = _card(args, recipe, stack, mixture, result, whole, books, answers)
    card["seconds"] = {
        "training": round(result.seconds, 1),
        "all": round(time.perf_counter() - begin, 1),
    }
    write_json(args.out / "card.json", card)
    if not args.keep_work:
        shutil.rmtree(folder)
    print(f"{args.out}: done after {time.perf_counter() - begin:.0f} s", flush=True)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("name", help="a folder of zoo/ that holds a recipe.json")
    parser.add_argument("--corpus", type=Path, required=True, help="folder with the .jsonl.xz")
    parser.add_argument("--out", type=Path, required=True, help="where the results go")
    parser.add_argument("--minutes", type=float, help="training time (default: the recipe's)")
    parser.add_argument("--steps", type=int, help="a number of steps instead of minutes")
    parser.add_argument("--lr", type=float, help="another peak learning rate")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tokens", type=Path, help="folder of encoded shards (default: in --work)")
    parser.add_argument("--work", type=Path, help="checkpoints (default: OUT.work)")
    parser.add_argument("--keep-work", action="store_true", help="keep the last checkpoint")
    parser.add_argument("--tokenizer", type=Path, default=HERE / "tokenizer.json")
    parser.add_argument("--recipes", type=Path, default=HERE, help="folder of recipes")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="another value for a field of the model's configuration",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--no-compile", action="store_true", help="train eagerly, slower")
    parser.add_argument("--dry-run", action="store_true", help="everything, tiny, in seconds")
    return parser.parse_args(argv)


def _recipe(args: argparse.Namespace) -> Recipe:
    """The recipe with what the command line changes in it."""
    recipe = Recipe.named(args.name, args.recipes)
    config = dict(recipe.config)
    for change in args.set:
        field, _, value = change.partition("=")
        if field not in config:
            raise SystemExit(f"--set {field}: the configuration has {', '.join(config)}")
        config[field] = json.loads(value)
    recipe = replace(recipe, config=config)
    train = recipe.train
    if args.dry_run:
        train = replace(
            train, steps=DRY_STEPS, minutes=None, precision="fp32", log_every=5, save_every=10
        )
        recipe = replace(recipe, batch=4, context=32, evaluate_context=32, stride=16, new_tokens=8)
        recipe = replace(recipe, skills=dict.fromkeys(recipe.skills, 1), lines=DRY_LINES)
    elif args.steps is not None:
        train = replace(train, steps=args.steps, minutes=None)
    elif args.minutes is not None:
        train = replace(train, steps=None, minutes=args.minutes)
    if args.lr is not None:
        train = replace(train, optimiser=replace(train.optimiser, lr=args.lr))
    on_gpu = torch.device(args.device).type == "cuda"
    return replace(recipe, train=replace(train, compile=on_gpu and not args.no_compile))


def _mixture(
    recipe: Recipe, seed: int, tokens: Path, tokenizer: Path, device: torch.device
) -> Mixture:
    """The books, and the skills where the recipe has any, each with its rows of every batch."""
    files = {"books": sorted(tokens.glob("*.bin"))}
    for skill in recipe.skills:
        path = prepare_skill(skill, recipe.lines, seed, tokens / "skills", tokenizer)
        files[skill] = [path]
    return Mixture(
        {
            name: Blocks(TokenStream(paths, device), recipe.context, recipe.rows[name], seed)
            for name, paths in files.items()
        }
    )


def _report(row: dict[str, float]) -> None:
    if row["step"] % 500 == 0 or row["replanned"] or row["fraction"] == 1.0:
        sources = {k.removeprefix("loss_"): v for k, v in row.items() if k.startswith("loss_")}
        each = ", ".join(f"{name} {loss:.3f}" for name, loss in sources.items())
        print(
            f"step {row['step']:>6.0f}  {100 * row['fraction']:5.1f} %  loss {row['loss']:.4f}  "
            + (f"({each})  " if len(sources) > 1 else "")
            + f"norm {row['gradient_norm']:.2f}  lr {row['lr']:.2e}  "
            f"{row['tokens_per_second'] / 1e6:.3f} M tokens/s  {row['seconds']:.0f} s",
            flush=True,
        )


@torch.no_grad()
def _round_to_bf16(stack: Stack) -> None:
    """What is judged is what is saved: weights of bf16, here in fp32 arithmetic."""
    stack.eval()
    for parameter in stack.parameters():
        parameter.copy_(parameter.bfloat16())


def _judge(
    stack: Stack, recipe: Recipe, corpus: Path, tokenizer: Tokenizer, *, dry: bool
) -> tuple[BitsPerByte, list[BitsPerByte]]:
    held_out = []
    for shard in shards(corpus, "val"):
        for document in documents(shard):
            text = document["text"][:DRY_BYTES] if dry else document["text"]
            name = f"{document['author']}: {document['title']}"
            ids = tokenizer.encode(text).ids
            held_out.append(Document(name=name, ids=ids, size=len(text.encode())))
    return bits_per_byte(
        stack,
        held_out,
        bos=tokenizer.token_to_id(END_OF_TEXT),
        context=recipe.evaluate_context,
        stride=recipe.stride,
    )


def _question(
    stack: Stack, recipe: Recipe, tokenizer: Tokenizer, *, dry: bool
) -> dict[str, Answered]:
    """Held-out problems of every skill, all together and by the number of their items."""
    questions = []
    for skill in recipe.skills:
        for problem in held_out_problems(skill, DRY_QUESTIONS if dry else QUESTIONS):
            prompt, answer = (tokenizer.encode(it).ids for it in (problem.prompt, problem.answer))
            kinds = (skill,) if skill == "addition" else (skill, f"{skill} of {problem.items}")
            questions.append(Question(prompt=prompt, answer=answer, kinds=kinds))
    return answered(stack, questions, bos=tokenizer.token_to_id(END_OF_TEXT))


def _samples(
    stack: Stack, recipe: Recipe, tokenizer: Tokenizer, seed: int
) -> tuple[list[str], list[str]]:
    """Prompts and what the model wrote: openings of prose, and held-out problems of its skills."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    prompts = list(PROMPTS)
    for skill in recipe.skills:
        prompts += [problem.prompt for problem in held_out_problems(skill, 3, seed=1)]
    made = sample(
        stack,
        [[end, *tokenizer.encode(prompt).ids] for prompt in prompts],
        new_tokens=recipe.new_tokens,
        temperature=TEMPERATURE,
        top_p=TOP_P,
        seed=seed,
    )
    texts = []
    for number, ids in enumerate(made):
        ids = ids[: ids.index(end)] if end in ids else ids
        text = tokenizer.decode(ids)
        texts.append(text if number < len(PROMPTS) else text.split("\n")[0])
    return prompts, texts


def _export(stack: Stack, recipe: Recipe, out: Path, tokenizer: Path) -> None:
    """Make the folder `out` with config.json, model.safetensors and tokenizer.json."""
    stack.to("cpu", torch.bfloat16)
    export(stack, stack.config, out, layout=recipe.layout, extra_files=[tokenizer])


def _card(
    args: argparse.Namespace,
    recipe: Recipe,
    stack: Stack,
    mixture: Mixture,
    result: TrainResult,
    whole: BitsPerByte,
    books: list[BitsPerByte],
    answers: dict[str, Answered],
) -> dict[str, Any]:
    command = f"python zoo/train.py {recipe.name} --corpus DIR --out DIR --seed {args.seed}"
    if recipe.train.minutes is not None:
        command += f" --minutes {recipe.train.minutes:g}"
    else:
        command += f" --steps {recipe.train.steps}"
    on_gpu = torch.device(args.device).type == "cuda"
    stream = mixture.sources["books"].stream
    return {
        "name": recipe.name,
        "summary": recipe.summary,
        "parameters": sum(parameter.numel() for parameter in stack.parameters()),
        "data": {
            "text": "English books first published in 1928 or earlier",
            "files": [path.stem for path in stream.paths],
            "tokens": len(stream),
            "tokenizer": "byte-level BPE, 4096 tokens, <|endoftext|> (id 0) before each document",
            "sources": {name: _source(name, mixture, result) for name in mixture.sources},
        },
        "training": {
            "steps": result.steps,
            "tokens_seen": result.tokens,
            "epochs": round(result.tokens * mixture.shares["books"] / len(stream), 2),
            "batch": recipe.batch,
            "context": recipe.context,
            "seed": args.seed,
            "compiled": result.compiled,
            "settings": asdict(recipe.train),
            "curve": thinned(result.curve),
        },
        "held_out": {
            "bits_per_byte": round(whole.value, 5),
            "nats_per_token": round(whole.nats_per_token, 5),
            "bytes": whole.size,
            "tokens": whole.tokens,
            "context": recipe.evaluate_context,
            "stride": recipe.stride,
            "arithmetic": "bf16 weights, fp32 products",
            "by_book": {book.name: round(book.value, 5) for book in books},
            "skills": {kind: _answers(each) for kind, each in answers.items()},
        },
        "command": command,
        "device": torch.cuda.get_device_name(args.device) if on_gpu else "CPU",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "laminogram": _version("laminogram"),
        },
    }


def _source(name: str, mixture: Mixture, result: TrainResult) -> dict[str, Any]:
    """A source of text for the card: what it is, its share of the batch, how often it was read."""
    blocks = mixture.sources[name]
    share = mixture.shares[name]
    return {
        "text": "the books" if name == "books" else f"lines of {name}, made by zoo/skills.py",
        "files": [path.stem for path in blocks.stream.paths],
        "rows": blocks.batch,
        "share": round(share, 5),
        "tokens": len(blocks.stream),
        "tokens_seen": round(result.tokens * share),
        "epochs": round(result.tokens * share / len(blocks.stream), 2),
    }


def _answers(each: Answered) -> dict[str, float]:
    return {
        "questions": each.questions,
        "exact": round(each.accuracy, 4),
        "nats_per_token": round(each.nats_per_token, 5),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed; run from its source"


if __name__ == "__main__":
    main()
