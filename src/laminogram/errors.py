"""The errors that laminogram raises on purpose.

Each message says what was wrong, what was expected and what exists. The command line prints any of
them as one line; everything else is a bug and keeps its traceback.
"""

from __future__ import annotations


class LaminogramError(Exception):
    """Base of every error that laminogram raises on purpose."""


class CheckpointError(LaminogramError, ValueError):
    """A checkpoint is missing, truncated, or holds other tensors than its configuration asks."""


class FamilyError(LaminogramError, ValueError):
    """A model's family is unknown, or does not support what was asked of it."""


class SiteError(LaminogramError, ValueError):
    """A site, layer, head, channel or position does not exist in this stack."""


class EditError(LaminogramError, ValueError):
    """An edit selects nothing, or cannot be made at its site."""


class PlanError(LaminogramError, ValueError):
    """A plan cannot be parsed, or cannot run on this stack."""


class CacheError(LaminogramError, ValueError):
    """A cache or state was continued under other conditions than it was made under."""


class TokenError(LaminogramError, ValueError):
    """A token id is out of range, or text was given to a stack without a tokenizer."""


class ConfigError(LaminogramError, ValueError):
    """A configuration field or an option is missing, unknown or out of range."""
