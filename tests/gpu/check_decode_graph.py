"""Captures one decode step in a CUDA graph, with a probe and an edit in it, and compares.

    python tests/gpu/check_decode_graph.py [--device cuda] [--size 512] [--layers 4]

For a Llama, an RWKV-4, an RWKV-6 and an RWKV-7 with random weights, over 16 tokens: the captured
step against the same step run eagerly and against the usual path; the tensor that the probe reads;
new values written into the edit between replays; and the same with compiled layers. Prints a line
a check and exits with 1 if one failed. On a CPU everything runs but the capture itself.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch

from laminogram.infer.decode_graph import DecodeGraph, StaticReads
from laminogram.probe import edits
from laminogram.probe.program import Program
from laminogram.stack import config as c
from laminogram.stack.batch import Batch
from laminogram.stack.stack import Stack
from laminogram.view import View

TOKENS, ROWS, CAPACITY, VOCABULARY, TOLERANCE = 16, 2, 64, 1024, 1e-4
PROMPTS = [[5, 9, 2, 44, 7], [3, 1]]
READ, EDITED, CHANNELS = ("ffn_out", 1), 1, [3, 5]


@dataclass
class Checks:
    """Prints and counts what passed."""

    failed: int = 0
    model: str = ""

    def below(self, name: str, value: float, limit: float = TOLERANCE) -> None:
        self._say(name, value <= limit, f"{value:.1e} (at most {limit:.0e})")

    def above(self, name: str, value: float, limit: float) -> None:
        self._say(name, value > limit, f"{value:.1e} (more than {limit:.0e})")

    def _say(self, name: str, passed: bool, text: str) -> None:
        self.failed += not passed
        print(f"{'PASS' if passed else 'FAIL'}  {self.model:<18} {name:<44} {text}", flush=True)


def layer_of(kind: str, size: int, first: bool) -> c.LayerConfig:
    if kind == "llama":
        norm = c.NormConfig(kind="rms", eps=1e-6)
        heads = size // 64
        attn: Any = c.AttentionConfig(
            num_attention_heads=heads,
            num_key_value_heads=heads // 2,
            head_dim=64,
            rope=c.RopeConfig(theta=1e4, rotary_dims=64),
        )
        ffn: Any = c.MLPConfig(intermediate_size=3 * size, activation="silu", gated=True)
        return c.LayerConfig(block="pre", attn=attn, ffn=ffn, norm=norm)
    norm = c.NormConfig(kind="layer", bias=True)
    if kind == "rwkv4":
        attn = c.TimeMix4Config(attention_size=size)
        ffn = c.ChannelMix4Config(intermediate_size=4 * size)
    elif kind == "rwkv6":
        attn = c.TimeMix6Config(
            num_attention_heads=size // 64, head_dim=64, mix_rank=32, decay_rank=64
        )
        ffn = c.ChannelMix6Config(intermediate_size=4 * size)
    else:
        attn = c.TimeMix7Config(
            num_attention_heads=size // 64,
            head_dim=64,
            decay_rank=32,
            a_rank=32,
            v_rank=32,
            gate_rank=64,
            provides_v_first=first,
        )
        ffn = c.ChannelMix7Config(intermediate_size=4 * size)
    return c.LayerConfig(block="pre", attn=attn, ffn=ffn, norm=norm)


def view_of(kind: str, size: int, layers: int, device: str) -> View:
    """A random model with an edit of two channels in layer 1."""
    norm = c.NormConfig(kind="rms" if kind == "llama" else "layer", bias=kind != "llama")
    config = c.StackConfig(
        family=kind,
        hidden_size=size,
        vocab_size=VOCABULARY,
        layers=tuple(layer_of(kind, size, i == 0) for i in range(layers)),
        embedding=c.EmbeddingConfig(norm=None if kind == "llama" else norm),
        final_norm=norm,
    )
    stack = Stack(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in stack.named_parameters():
            if ".mix_" in name:
                parameter.uniform_(0, 1, generator=generator)
            elif parameter.dim() > 1:
                parameter.normal_(0, parameter.shape[-1] ** -0.5, generator=generator)
            else:
                mean = float("norm" in name and name.endswith("weight"))
                parameter.normal_(mean, 0.3, generator=generator)
    view = View(stack.to(device), None, kind, stack.full_plan())
    return view.using(edits=edits.scale("ffn_out", [20.0, -30.0], layers=EDITED, channels=CHANNELS))


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """max|a - b| / max|b|."""
    return float((found.double() - wanted.double()).abs().max() / wanted.double().abs().max())


@dataclass
class Way:
    """One way to make the step: its graph, its program and what that reads."""

    graph: DecodeGraph
    program: Program
    reads: StaticReads

    @classmethod
    def of(cls, view: View, capture: bool) -> Way:
        reads = StaticReads()
        program = view.program(reads={READ[1]: READ[:1]}, sink=reads)
        return cls(DecodeGraph(view, ROWS, CAPACITY, program, capture=capture), program, reads)

    def rewrite(self, factor: float) -> None:
        """New values into the edit's own buffer."""
        self.program.taps(EDITED).edits["ffn_out"][0].scale.mul_(factor)

    def milliseconds(self, tokens: torch.Tensor) -> float:
        """Wall time of a step, after the prompts, the device's own work included."""
        self.graph.start(PROMPTS)
        wait = torch.cuda.synchronize if tokens.is_cuda else lambda: None
        wait()
        begun = time.perf_counter()
        for column in tokens.T:
            self.graph.step(column)
        wait()
        return (time.perf_counter() - begun) / tokens.shape[1] * 1e3

    def steps(self, tokens: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Logits and readings after each column of tokens, from the prompts on."""
        self.graph.start(PROMPTS)
        logits, read = [], []
        for column in tokens.T:
            logits.append(self.graph.step(column))
            read.append(self.reads[READ].clone())
        return logits, read


@torch.no_grad()
def usual(view: View, tokens: torch.Tensor) -> list[torch.Tensor]:
    """The same on the path that generation takes."""
    cache, program = view.new_cache(ROWS), view.program()
    view.run(view.tokens(PROMPTS), cache=cache, logits="last", observer=program)
    ones, zeros = (1,) * ROWS, (0,) * ROWS
    return [
        view.run(Batch(column[:, None], ones, zeros, 1), cache=cache, observer=program)[:, 0]
        for column in tokens.T
    ]


def worst(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> float:
    return max(error(a, b) for a, b in zip(found, wanted, strict=True))


def check(view: View, plain: View, checks: Checks, device: str) -> None:
    """`view` captured against `plain`, the same model neither captured nor compiled."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, VOCABULARY, (ROWS, TOKENS), generator=generator).to(device)
    captured, eager = Way.of(view, device.startswith("cuda")), Way.of(plain, False)
    logits, read = captured.steps(tokens)
    plain_logits, plain_read = eager.steps(tokens)
    checks.below("captured step equals eager step", worst(logits, plain_logits))
    checks.below("captured step equals the usual path", worst(logits, usual(plain, tokens)))
    checks.below("the probe reads the same", worst(read, plain_read))
    again, _ = captured.steps(tokens)
    checks.below("a second text begins anew", worst(again, logits), 1e-6)
    first, second = captured.milliseconds(tokens), eager.milliseconds(tokens)
    print(f"      {checks.model:<18} ms a step: captured {first:.3f}, eager {second:.3f}")
    for way in (captured, eager):
        way.rewrite(-3.0)
    moved, moved_read = captured.steps(tokens)
    plain_moved, plain_moved_read = eager.steps(tokens)
    checks.above("new values in the edit show in a replay", worst(moved, logits), 1e-3)
    checks.below("and are those of an eager step", worst(moved, plain_moved))
    checks.below("the probe reads the edited tensor", worst(moved_read, plain_moved_read))
    # Nothing before the edit depends on it, so exactly the edited channels are other ones.
    wanted = [one.clone() for one in read]
    for one in wanted:
        one[..., CHANNELS] *= -3.0
    checks.below("exactly the edited channels have the factor", worst(moved_read, wanted))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", type=int, default=512, help="hidden size, a multiple of 128")
    parser.add_argument("--layers", type=int, default=4)
    given = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    name = torch.cuda.get_device_name() if given.device.startswith("cuda") else "CPU"
    print(f"{name}, torch {torch.__version__}, {given.layers} layers of {given.size}, fp32")
    checks = Checks()
    for kind in ("llama", "rwkv4", "rwkv6", "rwkv7"):
        for compiled in (False, True):
            checks.model = f"{kind}{', compiled' if compiled else ''}"
            view, plain = (view_of(kind, given.size, given.layers, given.device) for _ in range(2))
            if compiled:
                torch._dynamo.reset()  # the limit on variants counts all models together
                view.stack.compile_layers("inductor" if given.device != "cpu" else "aot_eager")
            check(view, plain, checks, given.device)
    print("all passed" if not checks.failed else f"{checks.failed} checks FAILED")
    return 1 if checks.failed else 0


if __name__ == "__main__":
    sys.exit(main())
