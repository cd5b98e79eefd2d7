"""The decode kernels under Triton's interpreter, and what happens without Triton."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from laminogram.stack.kernels.row_naive import RowProduct
from laminogram.stack.kernels.row_triton import project


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_interpreted_kernels_decode_like_the_usual_path() -> None:
    root = Path(__file__).parents[3]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.stack.kernels.row_interpreted"],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("equal\n") == 15


def test_without_triton_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("laminogram.stack.kernels.wkv4_triton")
    monkeypatch.setattr(module, "_MISSING", "it is not installed.")
    with pytest.raises(RuntimeError, match="needs Triton"):
        project(torch.ones(1, 1, 4), [RowProduct(torch.ones(2, 4))])
