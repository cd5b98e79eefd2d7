"""Conversions of a random Llama of 1.1 B parameters against a plain copy of the same bytes.

`python -m benchmarks.convert [--folder DIR] [--layers 22] [--rounds 3]`

Every row is a fresh process: seconds from the call to the flushed result, imports not counted, and
the memory of its own (anonymous pages) at its peak, above what it held before. The copy is read and
written in blocks of 16 MB and flushed like the results. Rounds are interleaved; the median and the
smallest are printed. The folder needs some 5 times the model's 2.2 GB.
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
_ROWS = ("copy", "llama -> qwen2", "qwen2 -> llama", "llama -> megatron", "megatron -> llama")


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


def one(row: str, source: Path, dst: Path) -> dict[str, float]:
    """One conversion in this process."""
    from load_once import Memory

    from laminogram.convert.megatron import to_megatron
    from laminogram.convert.write import convert

    memory = Memory()
    memory.start()
    start = time.perf_counter()
    if row == "copy":
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
    seconds = time.perf_counter() - start
    return {"seconds": seconds} | memory.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=3, metavar=("ROW", "SOURCE", "DST"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        row, source, dst = given.one
        print(json.dumps(one(row, Path(source), Path(dst))))
        return
    work = Path(tempfile.mkdtemp(dir=given.folder, prefix="convert-"))
    try:
        run(work, given.layers, given.rounds)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def run(work: Path, layers: int, rounds: int) -> None:
    llama = make_source(work / "llama", layers)
    size = (llama / "model.safetensors").stat().st_size
    print(f"{size / 1e9:.2f} GB, {os.cpu_count()} cores")
    found: dict[str, list[dict[str, float]]] = {row: [] for row in _ROWS}
    sources = {"llama": llama, "qwen2": work / "qwen2", "megatron": work / "megatron"}
    for _ in range(rounds):
        for row in _ROWS:
            source = llama if row == "copy" else sources[row.split()[0]]
            kept = sources.get(row.split()[-1], work / "result")
            dst = work / "result" if kept == llama else kept
            shutil.rmtree(dst, ignore_errors=True)
            command = [sys.executable, __file__, "--one", row, str(source), str(dst)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[row].append(json.loads(done.stdout.splitlines()[-1]))
            os.sync()
    base = statistics.median(one["seconds"] for one in found["copy"])
    print(f"{'row':20} {'median s':>9} {'min s':>7} {'x copy':>7} {'own MiB':>8} {'mapped':>8}")
    for row, ones in found.items():
        seconds = [one["seconds"] for one in ones]
        median, own = statistics.median(seconds), max(one["private_mib"] for one in ones)
        mapped = max(one["shared_mib"] for one in ones)
        ratio = f"{median / base:7.2f}"
        print(f"{row:20} {median:9.2f} {min(seconds):7.2f} {ratio} {own:8.0f} {mapped:8.0f}")


if __name__ == "__main__":
    main()
