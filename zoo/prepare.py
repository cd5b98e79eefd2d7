"""From shards of books to a stream of token ids: the tokenizer, and the encoding.

    python zoo/prepare.py tokenizer --corpus DIR --out zoo/tokenizer.json
    python zoo/prepare.py tokens --corpus DIR --out DIR2 [--tokenizer zoo/tokenizer.json]

`--corpus` holds `*.train.*.jsonl.xz` and `*.val.jsonl.xz`: one JSON object a line with the fields
`author`, `title` and `text`. Both commands are deterministic: shards in the order of their names,
documents in the order of the file.

Policy: id 0 is `<|endoftext|>`. It stands before every document of the stream, so it is both the
beginning of a text and the end of the one before. The tokenizer adds nothing by itself.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import skills
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

HERE = Path(__file__).resolve().parent
END_OF_TEXT = "<|endoftext|>"
VOCABULARY = 4096
SAMPLE_EVERY = 4  # every fourth book trains the tokenizer: about 80 MB of text


def shards(corpus: Path, part: str) -> list[Path]:
    """The shards of `part` ("train" or "val") in `corpus`, sorted by name.

    Raises FileNotFoundError when the folder holds none.
    """
    found = sorted(corpus.glob("*.train.*.jsonl.xz" if part == "train" else "*.val.jsonl.xz"))
    if not found:
        raise FileNotFoundError(f"no {part} shards (*.{part}*.jsonl.xz) in {corpus}")
    return found


def documents(shard: Path) -> Iterator[dict[str, str]]:
    """The documents of one shard: dictionaries with at least `text`."""
    with lzma.open(shard, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def train_tokenizer(corpus: Path, every: int = SAMPLE_EVERY, size: int = VOCABULARY) -> Tokenizer:
    """A byte-level BPE of `size` tokens trained on every `every`-th document of all shards.

    No text normalisation; digits stand alone, so that numbers are spelled one way.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )

    def sample() -> Iterator[str]:
        for shard in shards(corpus, "train"):
            for index, document in enumerate(documents(shard)):
                if index % every == 0:
                    yield document["text"]

    tokenizer.train_from_iterator(sample(), trainer=trainer)
    return tokenizer


def encode_shard(shard: Path, out: Path, tokenizer: Path, batch: int = 64) -> str:
    """Write all documents of a shard as one uint16 stream, `<|endoftext|>` before each.

    `batch` documents at a time bound the memory. Returns a line that says what was done.
    """
    begin = time.perf_counter()
    encoder = Tokenizer.from_file(str(tokenizer))
    end = encoder.token_to_id(END_OF_TEXT)
    pieces: list[np.ndarray] = []
    texts = [document["text"] for document in documents(shard)]
    for start in range(0, len(texts), batch):
        for encoded in encoder.encode_batch_fast(texts[start : start + batch]):
            pieces.append(np.array([end, *encoded.ids], dtype=np.uint16))
    stream = np.concatenate(pieces)
    write_stream(out, stream)
    return f"{shard.name}: {len(stream):,} tokens in {time.perf_counter() - begin:.1f} s"


def write_stream(path: Path, stream: np.ndarray) -> None:
    """Write `stream` as raw little-endian uint16; the file appears only when it is complete.

    Two processes may write the same file at once: each writes its own part, the last one stays.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    stream.astype("<u2").tofile(partial)
    os.replace(partial, path)


def _threads(count: int) -> None:
    os.environ["RAYON_NUM_THREADS"] = str(count)


def prepare_tokens(corpus: Path, out: Path, tokenizer: Path) -> list[Path]:
    """Encode every training shard found in `corpus`; one `.bin` a shard in `out`, kept if there.

    Shards are encoded side by side, in processes that share the cores.
    """
    out.mkdir(parents=True, exist_ok=True)
    streams = {
        shard: out / (shard.name.removesuffix(".jsonl.xz") + ".bin")
        for shard in shards(corpus, "train")
    }
    missing = {shard: path for shard, path in streams.items() if not path.exists()}
    if missing:
        cores = os.cpu_count() or 1
        workers = min(len(missing), max(1, cores // 2))
        with ProcessPoolExecutor(
            workers,
            mp_context=get_context("spawn"),
            initializer=_threads,
            initargs=(max(1, cores // workers),),
        ) as pool:
            jobs = [pool.submit(encode_shard, *job, tokenizer) for job in missing.items()]
            for job in jobs:
                print(job.result(), flush=True)
    return list(streams.values())


def prepare_skill(skill: str, lines: int, seed: int, out: Path, tokenizer: Path) -> Path:
    """Encode `lines` training lines of a skill (see skills.py) into `out`; kept if there."""
    path = out / f"{skill}.{lines}.{seed}.bin"
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        encoder = Tokenizer.from_file(str(tokenizer))
        end = encoder.token_to_id(END_OF_TEXT)
        pages = encoder.encode_batch_fast(list(skills.documents(skill, lines, seed)))
        ids = (i for page in pages for i in (end, *page.ids))
        write_stream(path, np.fromiter(ids, dtype=np.uint16))
    return path


def bytes_per_token(corpus: Path, tokenizer: Tokenizer) -> float:
    """UTF-8 bytes per token over the held-out documents."""
    size = tokens = 0
    for shard in shards(corpus, "val"):
        for document in documents(shard):
            size += len(document["text"].encode())
            tokens += len(tokenizer.encode(document["text"]).ids)
    return size / tokens


def main(argv: list[str] | None = None) -> None:
    """Command line: see the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("tokenizer", "tokens"))
    parser.add_argument("--corpus", type=Path, required=True, help="folder with the .jsonl.xz")
    parser.add_argument("--out", type=Path, required=True, help="tokenizer.json, or a folder")
    parser.add_argument("--tokenizer", type=Path, default=HERE / "tokenizer.json")
    args = parser.parse_args(argv)
    if args.what == "tokenizer":
        tokenizer = train_tokenizer(args.corpus)
        tokenizer.save(str(args.out), pretty=False)
        print(f"{args.out}: {bytes_per_token(args.corpus, tokenizer):.3f} bytes per held-out token")
    else:
        prepare_tokens(args.corpus, args.out, args.tokenizer)


if __name__ == "__main__":
    main()
