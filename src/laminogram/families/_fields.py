"""Reading a configuration: every field is checked, and none that changes the result is missed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NoReturn

from laminogram.errors import ConfigError
from laminogram.stack.norms import ACTIVATIONS

# Fields that training, generation or bookkeeping read, and inference of the logits does not.
_HARMLESS = re.compile(
    r"""_.* | architectures | model_type | transformers_version | (torch_)?dtype | auto_map
    | .*dropout.* | (.*_)?initializer_.* | use_cache | .*_token_id | .*pretraining_tp
    | name_or_path | id2label | label2id | num_labels | problem_type | return_dict | output_.*
    | gradient_checkpointing | tokenizer_.* | prefix | finetuning_task | task_specific_params
    | max_sequence_length | model_max_length | .*softmax_in_fp32
    | unsloth_.* | .*_version | max_length | min_length | max_new_tokens | do_sample
    | early_stopping | num_beams | top_k | top_p | typical_p | temperature | .*_penalty
    | .*no_repeat_ngram_size | bad_words_ids | num_return_sequences | remove_invalid_values
    | (begin_)?suppress_tokens | num_beam_groups | chunk_size_feed_forward | attn_implementation
    | transformers\.js_config | fuse_.* | use_bfloat16 | tf_legacy_loss | torchscript
    | is_decoder""",
    re.VERBOSE,
)
# Fields that change the result unless they hold this value.
_NEUTRAL: dict[str, Any] = {
    "add_cross_attention": False,
    "is_encoder_decoder": False,
    "tie_encoder_decoder": False,
    "rope_interleaved": False,
    "use_mrope": False,
    "use_sliding_window": False,
    "partial_rotary_factor": 1.0,
}

# Beyond any model there is: a damaged number must not cost the machine's memory.
_MOST = {
    r"layers?$": 4096,
    r"experts$": 65_536,
    r"vocab|position|length|window": 2**31 - 1,
    r"": 2**20,
}
_LARGEST = 1e18


def is_positive(value: Any) -> bool:
    """Whether a value is a number above zero that arithmetic can hold."""
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    return numeric and 0 < value <= _LARGEST


class Fields:
    """A configuration (the contents of config.json) read field by field.

    Every field that was asked for counts as understood; `finish` refuses what nobody asked for,
    unless it is known to leave the logits alone. All errors are ConfigError and name the field,
    what was found and what was expected. `names` are fields that the family calls otherwise than
    they are asked for here, `defaults` its values of absent ones; a field that is null stays null.
    """

    def __init__(
        self,
        source: Mapping[str, Any],
        family: str,
        *,
        names: Mapping[str, str] | None = None,
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        self.source, self.family = {**(defaults or {}), **source}, family
        self._names = dict(names or {})
        self._seen: set[str] = set()

    def raw(self, name: str, default: Any = None) -> Any:
        """The field as it stands, or `default` where it is absent or null."""
        name = self._names.get(name, name)
        self._seen.add(name)
        value = self.source.get(name)
        return default if value is None else value

    def integer(self, name: str, default: int | None = None) -> int:
        """A positive whole number; required where `default` is None."""
        value = self._given(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            self.refuse(name, value, "a positive whole number")
        most = next(most for pattern, most in _MOST.items() if re.search(pattern, name))
        if value > most:
            self.refuse(name, value, f"a positive whole number of at most {most:,}")
        return int(value)

    def optional(self, name: str) -> int | None:
        """A positive whole number, or None where the field is absent."""
        return None if self.raw(name) is None else self.integer(name)

    def number(self, name: str, default: float | None = None) -> float:
        """A positive number; required where `default` is None."""
        value = self._given(name, default)
        if not is_positive(value):
            self.refuse(name, value, "a positive number")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """True or False."""
        value = self._given(name, default)
        if not isinstance(value, bool):
            self.refuse(name, value, "true or false")
        return bool(value)

    def activation(self, name: str, default: str) -> str:
        """The name of an activation function that the stack has."""
        value = self._given(name, default)
        if not isinstance(value, str) or value not in ACTIVATIONS:
            self.refuse(name, value, "one of " + ", ".join(sorted(ACTIVATIONS)))
        return value

    def listed(self, name: str) -> list[str]:
        """A list of texts, empty where the field is absent."""
        value = self.raw(name, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.refuse(name, value, "a list of texts")
        return list(value)

    def token(self, name: str) -> int | None:
        """A token id, or None."""
        value = self.raw(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            self.refuse(name, value, "a token id or null")
        return value

    def tokens(self, name: str) -> tuple[int, ...]:
        """One token id or a list of them, as a tuple."""
        value = self.raw(name, [])
        values = value if isinstance(value, list) else [value]
        if any(isinstance(item, bool) or not isinstance(item, int) for item in values):
            self.refuse(name, value, "a token id, a list of them or null")
        return tuple(values)

    def only(self, name: str, *allowed: Any) -> None:
        """Refuses the field unless it is absent or holds one of the values that are computed."""
        value = self.raw(name)
        if value is not None and value not in allowed:
            self.refuse(name, value, " or ".join(map(repr, allowed)))

    def refuse(self, name: str, found: Any, expected: str) -> NoReturn:
        """Raises the ConfigError that names field, finding and expectation."""
        name = self._names.get(name, name)
        what = "is missing" if found is None and name not in self.source else f"is {found!r}"
        raise ConfigError(f"{self.family} configuration: {name} {what}; expected {expected}")

    def finish(self, harmless: tuple[str, ...] = ()) -> None:
        """Refuses the fields that nobody read and that may change the result."""
        unknown = {
            name: value
            for name, value in self.source.items()
            if name not in self._seen
            and name not in harmless
            and not _HARMLESS.fullmatch(name)
            and not (name in _NEUTRAL and value == _NEUTRAL[name])
            and not (name in self._names and value == self.source.get(self._names[name]))
            and value not in (None, [], {}, "")
        }
        if unknown:
            listed = ", ".join(f"{name}={value!r}"[:80] for name, value in unknown.items())
            raise ConfigError(
                f"{self.family} configuration: the family does not know {listed}. A field that may "
                "change the result is refused rather than ignored; if it does not, remove it from "
                "the configuration"
            )

    def _given(self, name: str, default: Any) -> Any:
        value = self.raw(name, default)
        if value is None:
            self.refuse(name, None, "a value, for the family has no default")
        return value


def heads(fields: Fields, name: str = "num_attention_heads") -> tuple[int, int]:
    """The number of heads and the head size, from `head_dim` or the hidden size."""
    count, hidden = fields.integer(name), fields.integer("hidden_size")
    size = fields.optional("head_dim")
    if size is None and hidden % count:
        fields.refuse(name, count, f"a divisor of hidden_size, {hidden}")
    return count, size or hidden // count
