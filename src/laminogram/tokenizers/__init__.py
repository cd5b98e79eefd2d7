"""Text to token ids and back, from the files that a checkpoint ships; none of them is executed.

One file a format, each with a function that reads it; `finding` chooses by the files that exist.
"""

from __future__ import annotations

from laminogram.tokenizers.base import Tokenizer
from laminogram.tokenizers.fast import FastTokenizer
from laminogram.tokenizers.finding import Found, find_tokenizer, load_tokenizer

__all__ = ["FastTokenizer", "Found", "Tokenizer", "find_tokenizer", "load_tokenizer"]
