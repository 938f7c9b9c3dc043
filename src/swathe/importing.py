"""Sweeps of other tools as Swathe's own: a `sweep.yaml` of W&B, and a `param_space` of Ray Tune.

What is searched becomes Hydra's grammar under `params.`, what is fixed a parameter; the function itself stays the
user's, see docs/functions.md. Sources: W&B, "Sweep configuration options"; `ray.tune.search.sample` of Ray 2.60.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from swathe.config import read_yaml
from swathe.errors import BadInputError, bad_value

_GOALS = {"minimize": "minimize", "maximize": "maximize"}
_METHODS = {"bayes": "tpe", "random": "random", "grid": "grid"}
_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./")


@dataclass(frozen=True, slots=True)
class Imported:
    """A sweep that was read: its fixed parameters, nested as they were, and its searches by dotted key."""

    params: Mapping[str, Any]
    space: Mapping[str, str]
    sampler: str = "tpe"
    pruner: Mapping[str, Any] = field(default_factory=lambda: {"name": "none"})
    sweep: Mapping[str, Any] = field(default_factory=dict)

    def as_yaml(self, *, function: str, name: str, said: str) -> str:
        """Return the sweep's file, with a first line that says where it is from."""
        body: dict[str, Any] = {
            "defaults": [{"/sampler": self.sampler}, {"/pruner": self.pruner["name"]}, "_self_"],
            "trainable": function,
            "params": dict(self.params),
            **({"pruner": dict(self.pruner)} if len(self.pruner) > 1 else {}),
            "sweep": {
                "name": name,
                **self.sweep,
                "space": {f"params.{key}": text for key, text in self.space.items()},
            },
        }
        return f"# {said}\n{yaml.safe_dump(body, sort_keys=False)}"


def import_sweep(source: str, *, function: str | None, metric: str | None, direction: str | None) -> tuple[str, str]:
    """Read a sweep of another tool; return a name for it and its text as a file of Swathe's.

    `source`: the path of a W&B sweep, or `module:name` of a Ray Tune space, imported from the working folder.
    `function`: the user's own, as `module:function`. `metric` and `direction`: what Ray Tune is told elsewhere. Raises
    `BadInputError`.
    """
    if source.endswith((".yaml", ".yml")):
        path = Path(source)
        if not path.is_file():
            raise bad_value("SOURCE", source, "the path of an existing YAML file, or module:name")
        body = read_yaml(path, path.name)
        found = from_wandb(body, path.name)
        name, tool = str(body.get("name") or path.stem), "a sweep of W&B"
        function = function or _function_of(body)
    else:
        found = from_ray_tune(_space_of(source))
        name, tool = source.partition(":")[0].rpartition(".")[2], "a space of Ray Tune"
    sweep = {**found.sweep, **({"metric": metric} if metric else {}), **({"direction": direction} if direction else {})}
    found = Imported(found.params, found.space, found.sampler, found.pruner, sweep)
    said = (
        f"From {Path(source).name}, {tool}. The function reports {sweep.get('metric', 'val_loss')} with swathe.report."
    )
    name = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in name)
    return name, found.as_yaml(function=function or "module:function", name=name, said=said)


def _function_of(body: Mapping[str, Any]) -> str | None:
    """Guess the function from the script that W&B runs."""
    program = body.get("program")
    return f"{Path(program).stem}:main" if isinstance(program, str) and program.endswith(".py") else None


# W&B.


def from_wandb(body: Mapping[str, Any], source: str) -> Imported:
    """Read a W&B sweep's configuration; raises `BadInputError` with the key for what has no counterpart."""
    method = body.get("method", "bayes")
    if method not in _METHODS:
        raise bad_value(f"{source}: method", method, ", ".join(_METHODS))
    parameters = body.get("parameters")
    if not isinstance(parameters, Mapping) or not parameters:
        raise bad_value(f"{source}: parameters", parameters, "a mapping of parameters")
    params: dict[str, Any] = {}
    space: dict[str, str] = {}
    for path, description in _wandb_leaves(parameters, (), source):
        key = ".".join(path)
        value, text = _wandb_parameter(f"{source}: parameters.{key}", description)
        put(params, path, value)
        if text is not None:
            space[key] = text
    sweep: dict[str, Any] = {}
    metric = body.get("metric")
    if isinstance(metric, Mapping):
        goal = metric.get("goal", "minimize")
        if goal not in _GOALS:
            raise bad_value(f"{source}: metric.goal", goal, ", ".join(_GOALS))
        sweep |= {"metric": str(metric.get("name", "val_loss")), "direction": goal}
        if metric.get("target") is not None:
            sweep["target"] = metric["target"]
    if body.get("run_cap") is not None:
        sweep["trials"] = body["run_cap"]
    return Imported(params, space, _METHODS[method], _wandb_pruner(body.get("early_terminate"), source), sweep)


def _wandb_leaves(
    parameters: Mapping[str, Any], above: tuple[str, ...], source: str
) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    for name, description in parameters.items():
        path = (*above, str(name))
        if not isinstance(description, Mapping):
            allowed = "a mapping with value, values, or min and max"
            raise bad_value(f"{source}: parameters.{'.'.join(path)}", description, allowed)
        if isinstance(description.get("parameters"), Mapping):
            yield from _wandb_leaves(description["parameters"], path, source)
        else:
            yield path, description


def _wandb_parameter(key: str, given: Mapping[str, Any]) -> tuple[Any, str | None]:
    """Return a parameter's value, which for one that is searched is an example, and its search."""
    kind = given.get("distribution") or _wandb_kind(given)
    if kind == "constant":
        return given.get("value"), None
    if kind == "categorical":
        values = given.get("values")
        if not isinstance(values, Sequence) or isinstance(values, str) or not values:
            raise bad_value(f"{key}.values", values, "a list of values")
        return values[0], choice(values)
    low, high = given.get("min"), given.get("max")
    if not _is_number(low) or not _is_number(high):
        raise bad_value(key, dict(given), "value, values, or numbers min and max")
    step = given.get("q", 1)
    match kind:
        case "int_uniform":
            return int(low), integers(int(low), int(high))
        case "uniform":
            return float(low), interval(low, high)
        case "q_uniform":
            return float(low), steps(low, high, step)
        case "log_uniform_values":
            return float(low), interval(low, high, log=True)
        case "log_uniform":
            # Of the exponents, to the base e.
            return math.exp(low), interval(math.exp(low), math.exp(high), log=True)
    known = "constant, categorical, int_uniform, uniform, q_uniform, log_uniform, log_uniform_values"
    raise bad_value(f"{key}.distribution", kind, known)


def _wandb_kind(given: Mapping[str, Any]) -> str:
    if "value" in given:
        return "constant"
    if "values" in given:
        return "categorical"
    whole = all(isinstance(given.get(end), int) for end in ("min", "max"))
    return "int_uniform" if whole else "uniform"


def _wandb_pruner(given: Any, source: str) -> dict[str, Any]:
    """Return W&B's hyperband, which is one bracket of successive halving at a time, as Swathe's asha."""
    if given is None:
        return {"name": "none"}
    if not isinstance(given, Mapping) or given.get("type") != "hyperband":
        raise bad_value(f"{source}: early_terminate.type", given, "hyperband")
    eta = int(given.get("eta", 3))
    if given.get("min_iter") is not None:
        return {"name": "asha", "min_resource": int(given["min_iter"]), "reduction_factor": eta}
    if given.get("max_iter") is None:
        raise bad_value(f"{source}: early_terminate", dict(given), "a min_iter, or a max_iter with s")
    first = int(given["max_iter"]) // eta ** int(given.get("s", 1))
    return {"name": "asha", "min_resource": max(1, first), "reduction_factor": eta}


# Ray Tune.


def _space_of(source: str) -> Mapping[str, Any]:
    module_name, _, name = source.partition(":")
    allowed = "module:name of a dictionary, importable from the working folder, or a YAML file"
    if not module_name or not name:
        raise bad_value("SOURCE", source, allowed)
    sys.path[:0] = [folder for folder in (os.getcwd(),) if folder not in sys.path]
    try:
        found = getattr(importlib.import_module(module_name), name)
    except Exception as error:  # Whatever the module raises.
        raise bad_value("SOURCE", source, f"{allowed} ({type(error).__name__}: {error})") from error
    if not isinstance(found, Mapping):
        raise bad_value("SOURCE", source, allowed)
    return found


def from_ray_tune(space: Mapping[str, Any]) -> Imported:
    """Read a `param_space` of Ray Tune; raises `BadInputError` with the key for what has no counterpart."""
    params: dict[str, Any] = {}
    searches: dict[str, str] = {}
    grid: set[str] = set()
    for path, value in _tune_leaves(space, ()):
        key = ".".join(path)
        example, text = _tune_domain(key, value)
        put(params, path, example)
        if text is not None:
            searches[key] = text
        if isinstance(value, Mapping):
            grid.add(key)
    return Imported(params, searches, "grid" if grid and grid == set(searches) else "tpe")


def _tune_leaves(space: Mapping[str, Any], above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in space.items():
        if isinstance(value, Mapping) and set(value) != {"grid_search"}:
            yield from _tune_leaves(value, (*above, str(name)))
        else:
            yield (*above, str(name)), value


def _tune_domain(key: str, value: Any) -> tuple[Any, str | None]:
    """Return a value as it is, or of a domain an example and its search; domains are told by their classes' names."""
    if isinstance(value, Mapping):
        return value["grid_search"][0], choice(value["grid_search"])
    domain = type(value).__name__ if type(value).__module__.startswith("ray.tune") else ""
    if not domain:
        if not isinstance(value, str | int | float | bool | list | tuple | None):
            raise bad_value(key, value, "text, numbers, lists and Ray Tune's domains")
        return list(value) if isinstance(value, tuple) else value, None
    sampler = getattr(value, "sampler", None)
    step = getattr(sampler, "q", None)
    inner = getattr(sampler, "sampler", sampler)
    kind = type(inner).__name__.lstrip("_")
    if domain == "Categorical":
        return value.categories[0], choice(value.categories)
    read = _TUNE.get((domain, kind, step is not None))
    if read is None:
        allowed = "uniform, loguniform, quniform, randint, lograndint, qrandint, choice, grid_search"
        raise bad_value(key, value.domain_str if hasattr(value, "domain_str") else domain, allowed)
    low = int(value.lower) if domain == "Integer" else float(value.lower)
    return low, read(value.lower, value.upper, step)


_Read = Callable[[Any, Any, Any], str]
# Integers of Ray Tune end below their upper bound, those in steps at it.
_TUNE: Mapping[tuple[str, str, bool], _Read] = {
    ("Float", "Uniform", False): lambda low, high, step: interval(low, high),
    ("Float", "LogUniform", False): lambda low, high, step: interval(low, high, log=True),
    ("Float", "Uniform", True): lambda low, high, step: steps(low, high, step),
    ("Integer", "Uniform", False): lambda low, high, step: integers(low, high - 1),
    ("Integer", "LogUniform", False): lambda low, high, step: integers(low, high - 1, log=True),
    ("Integer", "Uniform", True): lambda low, high, step: f"range({low}, {high + 1}, {step})",
}


# Hydra's grammar.


def choice(values: Sequence[Any]) -> str:
    """Return a choice of plain values, in Hydra's grammar."""
    return f"choice({', '.join(map(_written, values))})"


def interval(low: float, high: float, *, log: bool = False) -> str:
    """Return an interval of real numbers, in Hydra's grammar."""
    text = f"interval({float(low)!r}, {float(high)!r})"
    return f"tag(log, {text})" if log else text


def integers(low: int, high: int, *, log: bool = False) -> str:
    """Return the integers from `low` to `high`, in Hydra's grammar."""
    return f"tag(log, range({low}, {high + 1}))" if log else f"range({low}, {high + 1})"


def steps(low: float, high: float, step: float) -> str:
    """Return multiples of a step from `low` to `high`, in Hydra's grammar."""
    # Decimal, as 0.1 * 3 is not 0.3; half a step more, as Hydra's range leaves its stop out.
    stop = Decimal(str(high)) + Decimal(str(step)) / 2
    return f"range({float(low)!r}, {float(stop)!r}, {float(step)!r})"


def _written(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_written, value))}]"
    if isinstance(value, str) and not (value and set(value) <= _WORD and not _is_other(value)):
        quoted = value.replace("'", "\\'")
        return f"'{quoted}'"
    if isinstance(value, str | int | float):
        return str(value)
    raise BadInputError(f"values: {value!r} is not allowed; allowed: text, numbers, true, false and lists of them.")


def _is_other(text: str) -> bool:
    """Whether a word would be read as something else than text."""
    return not isinstance(yaml.safe_load(text), str) or text.lower() in ("null", "true", "false", "nan", "inf")


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def put(params: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set a value under the names of a path, in mappings that are made where they are missing."""
    for name in path[:-1]:
        params = params.setdefault(name, {})
    params[path[-1]] = value
