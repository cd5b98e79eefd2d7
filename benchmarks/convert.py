"""Conversions of a random Llama of 1.1 B parameters against a plain copy of the same bytes.

`python -m benchmarks.convert [--folder DIR] [--layers 22] [--rounds 3] [--rows ROW ...]`

Every row is a fresh process: seconds from the call to the flushed result, imports not counted. The
copy is read and written in blocks of 16 MB and flushed like the results. Rounds are interleaved;
the median, the smallest, and the median of (row / the copy of that round) are printed. Memory is
that of its own (anonymous pages) at its peak, above what the process held before, and what it had
mapped; sampling it slows the work, so one more process of each row does that alone. The folder
needs some 5 times the model's 2.2 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_BLOCK = 1 << 24
_COPY = "copy"
_ROWS = (_COPY, "llama -> qwen2", "qwen2 -> llama", "llama -> megatron", "megatron -> llama")


def make_source(folder: Path, layers: int) -> Path:
    """A Llama of TinyLlama's shape in bf16, written tensor by tensor."""
    import torch

    from laminogram import families
    from laminogram.checkpoint.reading import TensorInfo
    from laminogram.checkpoint.write import write_shards, write_text
    from laminogram.convert.route import Form

    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 32_000,
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": layers,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 2048,
    }
    family = families.get("llama")
    shapes = Form(family, family.layouts[0]).shapes(family.config(config))
    infos = {name: TensorInfo(shape, torch.bfloat16) for name, shape in shapes.items()}
    generator = torch.Generator().manual_seed(0)

    def make(name: str) -> torch.Tensor:
        return torch.randn(shapes[name], generator=generator).mul_(0.02).to(torch.bfloat16)

    folder.mkdir(parents=True)
    write_shards(folder, infos, make, 5_000_000_000)
    write_text(folder / "config.json", json.dumps(config))
    return folder


def one(row: str, source: Path, dst: Path, what: str) -> dict[str, float]:
    """One conversion in this process: its `time`, or its `memory`."""
    from benchmarks.load_once import Memory
    from laminogram.convert.megatron import to_megatron
    from laminogram.convert.write import convert

    memory = Memory() if what == "memory" else None
    if memory is not None:
        memory.start()
    start = time.perf_counter()
    if row == _COPY:
        dst.mkdir()
        for file in source.iterdir():
            with file.open("rb") as read, (dst / file.name).open("wb") as write:
                while block := read.read(_BLOCK):
                    write.write(block)
                write.flush()
                os.fsync(write.fileno())
    elif row.endswith("megatron"):
        to_megatron(source, dst, tp=2, pp=2, verify=False)
    else:
        convert(source, dst, row.split()[-1], verify=False)
    return memory.stop() if memory is not None else {"seconds": time.perf_counter() - start}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--rows",
        nargs="+",
        choices=_ROWS,
        default=_ROWS,
        metavar="ROW",
        help=f"which of {', '.join(map(repr, _ROWS))}; the copy is always among them",
    )
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        row, source, dst, what = given.one
        print(json.dumps(one(row, Path(source), Path(dst), what)))
        return
    work = Path(tempfile.mkdtemp(dir=given.folder, prefix="convert-"))
    try:
        run(work, given.layers, given.rounds, (_COPY, *(x for x in given.rows if x != _COPY)))
    finally:
        shutil.rmtree(work, ignore_errors=True)


def run(work: Path, layers: int, rounds: int, rows: tuple[str, ...]) -> None:
    """Make the sources, run the rows in turn, print the table."""
    sources = {"llama": make_source(work / "llama", layers)}
    size = (sources["llama"] / "model.safetensors").stat().st_size
    print(f"{size / 1e9:.2f} GB, {os.cpu_count()} cores")
    for name in dict.fromkeys(row.split()[0] for row in rows):
        if name not in (*sources, _COPY):
            sources[name] = work / name
            child(f"llama -> {name}", sources["llama"], sources[name], "time")
    result = work / "result"
    seconds: dict[str, list[float]] = {row: [] for row in rows}
    for _ in range(rounds):
        for row in rows:
            source = sources["llama" if row == _COPY else row.split()[0]]
            seconds[row].append(child(row, source, result, "time")["seconds"])
            shutil.rmtree(result)
    print(
        f"{'row':20} {'median s':>9} {'min s':>7} {'x copy':>7} {'of min':>7} {'own MiB':>8} "
        f"{'mapped':>8}"
    )
    for row, ones in seconds.items():
        held = child(row, sources["llama" if row == _COPY else row.split()[0]], result, "memory")
        shutil.rmtree(result)
        ratio = statistics.median(a / b for a, b in zip(ones, seconds[_COPY], strict=True))
        least = min(ones) / min(seconds[_COPY])
        print(
            f"{row:20} {statistics.median(ones):9.2f} {min(ones):7.2f} {ratio:7.2f} {least:7.2f} "
            f"{held['private_mib']:8.0f} {held['shared_mib']:8.0f}"
        )


def child(row: str, source: Path, dst: Path, what: str) -> dict[str, float]:
    """What a process of its own says of one row; nothing of it is left to be flushed after."""
    command = [sys.executable, "-m", "benchmarks.convert", "--one", row, str(source), str(dst)]
    root = Path(__file__).parents[1]
    done = subprocess.run([*command, what], cwd=root, check=True, capture_output=True, text=True)
    os.sync()
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
