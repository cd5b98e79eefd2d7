"""The attention pattern of one layer, against the forward without it."""

from __future__ import annotations

from benchmarks.gpu._llama import Llama
from benchmarks.lab import Lab, Result, Target, row


@row("llama-pattern")
def pattern(lab: Lab) -> Result:
    llama = Llama.of(lab)
    kept: dict[str, object] = {}
    step = llama.shape.layers // 2

    def sink(site: str, step: int, x: object) -> None:
        kept[site] = x

    sink.capturable = True  # type: ignore[attr-defined]
    program = llama.view.program(reads={step: ["pattern"]}, sink=sink)

    def ours() -> object:
        return llama.view.run(llama.batch, observer=program, logits="none")

    times = lab.race({"laminogram": ours, "plain": llama.plain}, repeat=3)
    return Result(times, work=(llama.ids.numel(), "tok"), targets=(Target("plain", 1.10),))
