"""Recording while generating: one frame a token, the prompt first."""

from __future__ import annotations

import torch

from laminogram.errors import ConfigError
from laminogram.infer.generate import Generation, generate
from laminogram.probe.gram import Gram
from laminogram.probe.program import check_effects
from laminogram.probe.recorder import Recorder
from laminogram.probe.recording import GramLayout, Request, recording_manifest
from laminogram.probe.subject import Subject, Text


def record_generation(
    view: Subject, text: Text, request: Request, device: torch.device, *, whole: bool = True
) -> Gram:
    """Record while generating: one frame a token, prompt first, rows left-aligned."""
    request.check()
    if "cache" in request.options:
        raise ConfigError("a recording begins with its text: give the whole text, and no cache")
    batch = view.tokens(text)
    recorder = Recorder(device, request.phase)
    program = recorder.program = view.program(reads=request.reads(view), sink=recorder.sink)
    options = dict(request.options)
    if "pattern" in request.names and any(at.attn.kind != "attention" for at in view.config.layers):
        # A recurrent step knows its own token only: its pattern needs the text read as a whole.
        options["use_cache"] = False
    answer = generate(view, batch, max_new_tokens=request.new_tokens, observer=program, **options)
    made = [answer] if isinstance(answer, Generation) else list(answer)
    if whole:
        check_effects(program.effects())
    # The last token of each row was drawn but never read, so it has no frame.
    rows = [[*one.prompt_tokens, *one.tokens][: program.frames(i)] for i, one in enumerate(made)]
    if request.phase == "prompt":
        rows = [list(one.prompt_tokens) for one in made]
    elif request.phase == "new":
        rows = [row[len(one.prompt_tokens) :] for row, one in zip(rows, made)]
    lengths = tuple(len(row) for row in rows)
    tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    prompts = (0,) * len(rows) if request.phase == "new" else batch.lengths
    facts = recording_manifest(view, batch, rows, request, program)
    layout = GramLayout(view, batch, tokens, lengths, prompts, restore=False)
    return layout.gram(recorder.tensors(), facts)
