"""The recurrences' Triton kernels under Triton's interpreter, and what happens without Triton."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.stack.kernels.kernel_cases import wkv4_case, wkv6_case, wkv7_case

from laminogram.stack.kernels import wkv4_triton, wkv6_triton, wkv7_triton


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_interpreted_kernels_equal_autograd_through_the_naive_loops() -> None:
    root = Path(__file__).parents[3]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.stack.kernels.triton_interpreted"],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("equal\n") >= 13  # as many as hypothesis likes among them
    assert done.stdout.endswith("traced\nrefused\n")


def test_without_triton_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("laminogram.stack.kernels.wkv4_triton")
    monkeypatch.setattr(module, "_MISSING", "it is not installed.")
    with pytest.raises(RuntimeError, match="wkv4_triton needs Triton"):
        wkv4_triton(*wkv4_case(0, 1, 3, 4, dtype=torch.float32)[:4])
    with pytest.raises(RuntimeError, match="wkv6_triton needs Triton"):
        wkv6_triton(*wkv6_case(0, 1, 3, 1, 16, dtype=torch.float32))
    with pytest.raises(RuntimeError, match="wkv7_triton needs Triton"):
        wkv7_triton(*wkv7_case(0, 1, 3, 1, 16, dtype=torch.float32))


def test_what_the_kernels_are_not_written_for_is_refused() -> None:
    with pytest.raises(TypeError, match="float64"):
        wkv4_triton(*wkv4_case(0, 1, 3, 4)[:4])
    with pytest.raises(TypeError, match="float64"):
        wkv6_triton(*wkv6_case(0, 1, 3, 1, 16))
    with pytest.raises(ValueError, match="heads of 16, 32, 64 and got 8"):
        wkv6_triton(*wkv6_case(0, 1, 3, 1, 8, dtype=torch.float32))
    with pytest.raises(TypeError, match="float64"):
        wkv7_triton(*wkv7_case(0, 1, 3, 1, 16))
    with pytest.raises(ValueError, match="heads of 16, 32, 64 and got 8"):
        wkv7_triton(*wkv7_case(0, 1, 3, 1, 8, dtype=torch.float32))
