"""Plans out of mergekit's configuration files.

    merge_method: passthrough
    slices:
      - sources: [{model: some/model, layer_range: [0, 24]}]
      - sources: [{model: some/model, layer_range: [8, 32]}]

A passthrough merge takes layers as they are, slice after slice; a `layer_range` [a, b) is layers a
to b - 1. Such a file is a plan if it names one model. What changes weights, or mixes models, is no
order of layers and is refused with the reason. Format: the documentation of arcee-ai/mergekit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from laminogram.errors import PlanError
from laminogram.plans.plan import MOST_STEPS, Plan


def read(path: str | Path, num_layers: int | None = None) -> Plan:
    """The plan of a mergekit file; with `num_layers`, checked against a stack of so many layers.

    PlanError where the file cannot be read, is no passthrough merge of one model, or names layers
    that are not there.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise PlanError(f"{path} is no UTF-8 text: byte {error.start} cannot be read") from error
    except OSError as error:
        raise PlanError(f"cannot read {path}: {error.strerror}") from error
    return parse(text, num_layers, source=str(path))


def parse(text: str, num_layers: int | None = None, source: str = "the configuration") -> Plan:
    """`read` on the text itself; errors name it by `source`."""
    data = _yaml(text, source)
    try:
        plan = _plan(data)
        return plan if num_layers is None else plan.check(num_layers)
    except PlanError as error:
        raise PlanError(f"{source}: {error}") from error


def _yaml(text: str, source: str) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise PlanError("reading mergekit files needs PyYAML: pip install pyyaml") from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise PlanError(f"{source} is no YAML: {' '.join(str(error).split())}") from error


def _plan(data: Any) -> Plan:
    if not isinstance(data, Mapping):
        raise PlanError("a mergekit configuration is a mapping with merge_method and slices")
    method = data.get("merge_method")
    if method != "passthrough":
        raise PlanError(
            f"merge_method is {method!r}; only passthrough takes layers as they are, every other "
            "method makes new weights"
        )
    if "slices" not in data:
        other = next((key for key in ("models", "modules") if key in data), None)
        said = f"it has {other} instead" if other else "there are none"
        raise PlanError(f"a plan is read from slices with a layer_range each; {said}")
    _refuse_scale(data, "the configuration")
    slices = _filled_list(data["slices"], "slices")
    models: dict[str, int] = {}
    layers: list[int] = []
    for number, one in enumerate(slices):
        model, chosen = _slice(one, number)
        models.setdefault(model, number)
        layers += chosen
    base = _model(data["base_model"]) if data.get("base_model") is not None else None
    if len(models) > 1 or (base is not None and base not in models):
        named = list(dict.fromkeys([*models, *([base] if base else [])]))
        raise PlanError(f"{len(named)} models are named ({', '.join(named)}): a plan orders one")
    return Plan(layers)


def _slice(one: Any, number: int) -> tuple[str, range]:
    """The model and the layers of one output slice."""
    where = f"slice {number}"
    if not isinstance(one, Mapping):
        raise PlanError(f"{where} is no mapping with sources")
    if one.get("residual_weight") is not None:
        raise PlanError(f"{where} has a residual_weight, which changes weights")
    _refuse_scale(one, where)
    sources = _filled_list(one.get("sources"), f"sources of {where}")
    if len(sources) > 1:
        raise PlanError(f"{where} has {len(sources)} sources; passthrough takes one")
    source = sources[0]
    if not isinstance(source, Mapping) or "model" not in source or "layer_range" not in source:
        raise PlanError(f"the source of {where} needs model and layer_range")
    _refuse_scale(source, where)
    return _model(source["model"]), _layers(source["layer_range"], where)


def _layers(found: Any, where: str) -> range:
    if (
        not isinstance(found, list)
        or len(found) != 2
        or not all(isinstance(end, int) and not isinstance(end, bool) for end in found)
    ):
        raise PlanError(f"the layer_range of {where} is {found!r}, not two whole numbers [a, b]")
    first, end = found
    if not 0 <= first < end:
        raise PlanError(
            f"the layer_range of {where} is [{first}, {end}]: it runs from a up to b - 1, "
            "so 0 <= a < b"
        )
    if end > MOST_STEPS:
        raise PlanError(f"the layer_range of {where} ends at {end}; at most {MOST_STEPS} are run")
    return range(first, end)


def _model(found: Any) -> str:
    """A model's name: text, or a mapping whose `model` is text or a mapping with a path."""
    named: Any = found
    if isinstance(named, Mapping):
        if named.get("lora") is not None:
            raise PlanError(f"the model {found!r} has a LoRA, which changes weights")
        inner = named.get("model", named)
        named = _path(inner) if isinstance(inner, Mapping) else inner
    if not isinstance(named, str) or not named.strip():
        raise PlanError(f"{found!r} names no model")
    if "+" in named:
        raise PlanError(f"the model {named!r} has a LoRA after its +, which changes weights")
    return named.rstrip("/")


def _path(found: Mapping[str, Any]) -> Any:
    """A path, with its revision where one is named: another revision is another model."""
    path, revision = found.get("path"), found.get("revision")
    return path if revision is None or not isinstance(path, str) else f"{path}@{revision}"


def _filled_list(found: Any, what: str) -> list[Any]:
    if not isinstance(found, list) or not found:
        raise PlanError(f"{what}: a list with at least one entry was expected")
    return found


def _refuse_scale(found: Mapping[str, Any], where: str) -> None:
    """PlanError where a `scale` other than 1 multiplies tensors: a plan leaves weights alone."""
    parameters = found.get("parameters") or {}
    scale = parameters.get("scale") if isinstance(parameters, Mapping) else parameters
    if scale is not None and any(value != 1 for value in _values(scale)):
        raise PlanError(f"{where} has a scale, which changes weights: a plan only orders layers")


def _values(setting: Any) -> Iterator[Any]:
    """The numbers of a setting: itself, a list, or the values of its filters."""
    if isinstance(setting, Mapping):
        yield from _values(setting.get("value"))
    elif isinstance(setting, list):
        for one in setting:
            yield from _values(one)
    else:
        yield setting
