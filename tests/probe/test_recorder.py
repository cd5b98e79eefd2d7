"""In which order copies leave a GPU; streams and events are stand-ins that do things late here."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager

import pytest
import torch

from laminogram.probe import recorder

GPU = torch.device("cuda", 0)


class _Stream:
    """What was given to it, done when somebody waits for it."""

    current: _Stream

    def __init__(self, device: torch.device = GPU) -> None:
        self.work: list[Callable[[], None]] = []

    def run(self, until: int) -> None:
        """Do the first `until` things that were given, each once."""
        for n in range(until):
            work, self.work[n] = self.work[n], lambda: None
            work()


class _Event:
    def __init__(self) -> None:
        self.at: tuple[_Stream, int] | None = None

    def record(self, stream: _Stream) -> None:
        self.at = stream, len(stream.work)

    def wait(self, stream: _Stream) -> None:
        if self.at is not None:
            source, until = self.at  # as it was recorded now, whatever is recorded later
            stream.work.append(lambda: source.run(until))

    def synchronize(self) -> None:
        if self.at is not None:
            source, until = self.at
            source.run(until)


class _OnGpu:
    """A tensor whose value its stream writes later."""

    is_cuda, device, shape, dtype = True, GPU, (1,), torch.float32

    def __init__(self, value: float) -> None:
        self.value = float("nan")
        _Stream.current.work.append(lambda: setattr(self, "value", value))

    def detach(self) -> _OnGpu:
        return self

    def record_stream(self, stream: _Stream) -> None:
        pass


@pytest.fixture
def copied(monkeypatch):
    """The values that arrived so far, in order."""
    arrived: list[float] = []

    class Pinned:
        def copy_(self, x: _OnGpu, non_blocking: bool) -> None:
            _Stream.current.work.append(lambda: arrived.append(x.value))

    @contextmanager
    def chosen(stream):
        before, _Stream.current = _Stream.current, stream
        yield
        _Stream.current = before

    _Stream.current = _Stream()
    monkeypatch.setattr(torch.cuda, "Stream", _Stream)
    monkeypatch.setattr(torch.cuda, "Event", _Event)
    monkeypatch.setattr(torch.cuda, "stream", chosen)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: _Stream.current)
    monkeypatch.setattr(torch, "empty", lambda shape, **options: Pinned())
    monkeypatch.setattr(recorder, "_latest", {})
    return arrived


def _recorded(values):
    copier = recorder._Copier(torch.device("cpu"))
    for value in values:
        copier(_OnGpu(value))
    return copier


def test_a_recorder_waits_for_its_own_copies_and_for_no_later_ones(copied):
    first, second = _recorded([1.0, 2.0]), _recorded([3.0, 4.0])
    first.wait()
    assert copied == [1.0, 2.0]
    second.wait()
    assert copied == [1.0, 2.0, 3.0, 4.0]


def test_copies_of_a_recorder_follow_those_of_the_one_before(copied):
    _recorded([1.0, 2.0])
    _recorded([3.0]).wait()
    assert copied == [1.0, 2.0, 3.0]
