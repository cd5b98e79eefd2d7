"""Train the models of the study, several at a time, on every GPU there is.

    python experiments/outliers/train.py --corpus DIR --out DIR [--jobs 3] [--only llama-l-1 ...]

Each is one run of zoo/train.py with a recipe of this folder; what is done already is left alone, so
a run that was killed is started again with the same command. Together about 60 GPU minutes.
"""

from __future__ import annotations

import argparse
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path

import torch
from sizes import SEEDS, names, write_recipes

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "zoo"))

from prepare import prepare_tokens  # noqa: E402


def main() -> None:
    """Command line: see the top of the file."""
    args = _arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    write_recipes(args.out / "recipes")
    args.tokens = args.tokens or args.out / "tokens"
    prepare_tokens(args.corpus, args.tokens, ROOT / "zoo" / "tokenizer.json")  # once, for all
    wanted = [f"{name}-{seed}" for seed in SEEDS for name in names()]
    wanted.sort(key=lambda run: names().index(run.rsplit("-", 1)[0]))  # the largest first
    jobs: queue.Queue[str] = queue.Queue()
    for run in wanted:
        if (not args.only or run in args.only) and not (args.out / run / "card.json").exists():
            jobs.put(run)
    places = max(torch.cuda.device_count(), 1)
    workers = [
        threading.Thread(target=_work, args=(args, jobs, number % places))
        for number in range(args.jobs * places)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--corpus", type=Path, required=True, help="folder with the .jsonl.xz")
    parser.add_argument("--tokens", type=Path, help="folder of encoded shards")
    parser.add_argument("--out", type=Path, required=True, help="where the models go")
    parser.add_argument("--jobs", type=int, default=3, help="runs at a time on each GPU")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="llama-l-1, ...")
    parser.add_argument("--dry-run", action="store_true", help="everything, tiny, in seconds")
    return parser.parse_args()


def _work(args: argparse.Namespace, jobs: queue.Queue[str], gpu: int) -> None:
    while True:
        try:
            run = jobs.get_nowait()
        except queue.Empty:
            return
        name, seed = run.rsplit("-", 1)
        command = [sys.executable, str(ROOT / "zoo" / "train.py"), name]
        command += ["--recipes", str(args.out / "recipes"), "--seed", seed]
        command += ["--corpus", str(args.corpus), "--tokens", str(args.tokens)]
        command += ["--out", str(args.out / run)]
        command += ["--dry-run"] if args.dry_run else []
        seen = {**os.environ, "CUDA_VISIBLE_DEVICES": str(gpu)}
        with (args.out / f"{run}.log").open("w") as log:
            done = subprocess.run(command, env=seen, stdout=log, stderr=subprocess.STDOUT)
        print(f"{run}: {'done' if done.returncode == 0 else f'FAILED, see {run}.log'}", flush=True)


if __name__ == "__main__":
    main()
