"""Sweeps of other tools as Swathe's own: a `sweep.yaml` of W&B, and a `param_space` of Ray Tune.

What is searched becomes Hydra's grammar under `params.`, what is fixed a parameter; the function itself stays the
user's, see docs/functions.md. Sources: W&B, "Sweep configuration options"; `ray.tune.search.sample` of Ray 2.60.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeGuard

from omegaconf import OmegaConf

from swathe.config import parse_overrides, read_yaml
from swathe.errors import BadInputError, bad_value

_DIRECTIONS = ("minimize", "maximize")
_METHODS = {"bayes": "tpe", "random": "random", "grid": "grid"}
# What Hydra's grammar reads as text without quotes, if it is none of the others.
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OTHERS = ("null", "true", "false", "nan", "inf")
_PLAIN = (str, int, float, bool, type(None))


@dataclass(frozen=True, slots=True)
class Imported:
    """A sweep that was read: its fixed parameters, nested as they were, and its searches by dotted key."""

    params: Mapping[str, Any]
    space: Mapping[str, str]
    sampler: str = "tpe"
    pruner: Mapping[str, Any] = field(default_factory=lambda: {"name": "none"})
    sweep: Mapping[str, Any] = field(default_factory=dict)

    def as_yaml(self, *, function: str, name: str, said: str) -> str:
        """Return the sweep's file, with a first line that says where it is from.

        Raises `BadInputError` for names that Hydra's grammar has not.
        """
        for key, text in self.space.items():
            _check_key(f"params.{key}", text)
        body: dict[str, Any] = {
            "defaults": [{"/sampler": self.sampler}, {"/pruner": self.pruner["name"]}, "_self_"],
            "trainable": plain("--function", function),
            "params": dict(self.params),
            **({"pruner": dict(self.pruner)} if len(self.pruner) > 1 else {}),
            "sweep": {
                "name": name,
                **plain("sweep", self.sweep),
                "space": {f"params.{key}": text for key, text in self.space.items()},
            },
        }
        # Names may hold line breaks, a comment may not. PyYAML would write the text 1e5 as OmegaConf reads a number.
        return f"# {' '.join(said.split())}\n{OmegaConf.to_yaml(OmegaConf.create(body))}"


def _check_key(key: str, search: str) -> None:
    try:
        (override,) = parse_overrides([f"{key}={search}"])
    except BadInputError:
        override = None
    if override is None or override.key_or_group != key:
        raise bad_value(key, key, "names of letters, digits, '_' and '-', with points between them")


def import_sweep(
    source: str, *, function: str | None, metric: str | None, direction: str | None, out: Path | None = None
) -> tuple[str, str]:
    """Read a sweep of another tool; return its text as a file of Swathe's, and which direction it takes for granted.

    `source`: the path of a W&B sweep, or `module:name` of a Ray Tune space, imported from the working folder.
    `function`: the user's own, as `module:function`. `metric` and `direction`: what Ray Tune is told elsewhere. `out`:
    where the text is to be written, which names a sweep that has no name. The second of what is returned is a sentence,
    empty where the direction was said. Raises `BadInputError`.
    """
    if direction not in (None, *_DIRECTIONS):
        raise bad_value("--direction", direction, ", ".join(_DIRECTIONS))
    if source.endswith((".yaml", ".yml")):
        path = Path(source)
        if not os.path.isfile(path):
            raise bad_value("SOURCE", source, "the path of an existing YAML file, or module:name")
        body = read_yaml(path, path.name)
        found = from_wandb(body, path.name)
        named, stem, tool = str(body.get("name") or ""), path.stem, "a sweep of W&B"
        function = function or _function_of(body)
    else:
        found = from_ray_tune(_space_of(source))
        named, stem, tool = "", source.partition(":")[0].rpartition(".")[2], "a space of Ray Tune"
    sweep = {**found.sweep, **({"metric": metric} if metric else {}), **({"direction": direction} if direction else {})}
    reported = sweep.get("metric", "val_loss")
    assumed = "" if "direction" in sweep else f"It minimizes {reported}; --direction maximize for the other way."
    said = f"From {Path(source).name}, {tool}. The function reports {reported} with swathe.report. {assumed}"
    text = replace(found, sweep={"direction": "minimize", **sweep}).as_yaml(
        function=function or "module:function", name=sweep_name(named, stem if out is None else out.stem), said=said
    )
    return text, assumed


def sweep_name(*given: str) -> str:
    """Return the first name that leaves something when it is put into the letters that a sweep's name may have."""
    names = (re.sub(r"[^A-Za-z0-9._-]", "-", name).strip("._-")[:100] for name in given)
    return next(filter(None, names), "imported")


def _function_of(body: Mapping[str, Any]) -> str | None:
    """Guess the function from the script that W&B runs."""
    program = body.get("program")
    return f"{Path(program).stem}:main" if isinstance(program, str) and program.endswith(".py") else None


# W&B.


def from_wandb(body: Mapping[str, Any], source: str) -> Imported:
    """Read a W&B sweep's configuration; raises `BadInputError` with the key for what has no counterpart."""
    method = body.get("method", "bayes")
    if not isinstance(method, str) or method not in _METHODS:
        raise bad_value(f"{source}: method", method, ", ".join(_METHODS))
    params: dict[str, Any] = {}
    space: dict[str, str] = {}
    for path, description in _wandb_leaves(body.get("parameters"), (), source):
        key = f"{source}: {'.'.join(('parameters', *path))}"
        value, text = _wandb_parameter(key, description)
        put(key, params, path, value)
        if text is not None:
            space[".".join(path)] = text
    sweep = _wandb_metric(body.get("metric"), source)
    if body.get("run_cap") is not None:
        sweep["trials"] = whole(f"{source}: run_cap", body["run_cap"], 1)
    return Imported(params, space, _METHODS[method], _wandb_pruner(body.get("early_terminate"), source), sweep)


def _wandb_leaves(
    parameters: Any, above: tuple[str, ...], source: str
) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    where = f"{source}: {'.'.join(('parameters', *above))}"
    if not isinstance(parameters, Mapping) or not parameters:
        raise bad_value(where, parameters, "a mapping of parameters")
    for name, description in parameters.items():
        path = (*above, *_names(where, name))
        if not isinstance(description, Mapping):
            allowed = "a mapping with value, values, or min and max"
            raise bad_value(f"{where}.{name}", description, allowed)
        if "parameters" in description:
            yield from _wandb_leaves(description["parameters"], path, source)
        else:
            yield path, description


def _wandb_parameter(key: str, given: Mapping[str, Any]) -> tuple[Any, str | None]:
    """Return a parameter's value, which for one that is searched is an example, and its search."""
    kind = given.get("distribution") or _wandb_kind(given)
    match kind:
        case "constant" if "value" in given:
            return plain(key, given["value"]), None
        case "categorical" | "categorical_w_probabilities":
            return _wandb_choice(key, given)
    low, high = given.get("min"), given.get("max")
    if not _is_number(low) or not _is_number(high):
        raise bad_value(key, dict(given), "value, values, or finite numbers min and max")
    match kind:
        case "int_uniform":
            first, last = whole(f"{key}.min", low), whole(f"{key}.max", high)
            return first, integers(key, first, last)
        case "uniform":
            return float(low), interval(key, low, high)
        case "q_uniform":
            step = number(f"{key}.q", given.get("q", 1))
            # W&B rounds what it draws to multiples of q, those beyond bounds that are none of them too: refused, as the
            # multiples within the bounds would be another search.
            if step <= 0 or any(Fraction(str(end)) % Fraction(str(step)) for end in (low, high)):
                raise bad_value(key, dict(given), "a q above 0, with a min and a max that are multiples of it")
            return float(low), steps(key, low, high, step)
        case "log_uniform_values":
            return float(low), interval(key, low, high, log=True)
        case "log_uniform":
            least, most = _power(f"{key}.min", low), _power(f"{key}.max", high)
            return least, interval(key, least, most, log=True)
    known = "constant, categorical, int_uniform, uniform, q_uniform, log_uniform, log_uniform_values"
    raise bad_value(f"{key}.distribution", kind, known)


def _wandb_kind(given: Mapping[str, Any]) -> str:
    if "value" in given:
        return "constant"
    if "values" in given:
        return "categorical"
    whole_ends = all(isinstance(given.get(end), int) for end in ("min", "max"))
    return "int_uniform" if whole_ends else "uniform"


def _wandb_choice(key: str, given: Mapping[str, Any]) -> tuple[Any, str]:
    found = choice(f"{key}.values", given.get("values"))
    weights = given.get("probabilities")
    equal = isinstance(weights, list) and weights and weights == weights[:1] * len(given["values"])
    if weights is not None and not equal:
        raise bad_value(f"{key}.probabilities", weights, "none, or equal ones, one for each of the values")
    return found


def _power(key: str, exponent: float) -> float:
    """Return e to an exponent, as which W&B has the bounds of its `log_uniform`."""
    try:
        power = math.exp(exponent)
    except OverflowError:
        power = math.inf
    if not 0 < power < math.inf:
        allowed = "an exponent to the base e from -745 to 709; log_uniform_values has the values themselves"
        raise bad_value(key, exponent, allowed)
    return power


def _wandb_metric(metric: Any, source: str) -> dict[str, Any]:
    if metric is None:
        return {}
    if not isinstance(metric, Mapping):
        raise bad_value(f"{source}: metric", metric, "a mapping with a name and a goal")
    found: dict[str, Any] = {}
    if (name := metric.get("name")) is not None:
        if not isinstance(name, str):
            raise bad_value(f"{source}: metric.name", name, "text")
        found["metric"] = plain(f"{source}: metric.name", name)
    if (goal := metric.get("goal")) is not None:
        if goal not in _DIRECTIONS:
            raise bad_value(f"{source}: metric.goal", goal, ", ".join(_DIRECTIONS))
        found["direction"] = goal
    if metric.get("target") is not None:
        found["target"] = number(f"{source}: metric.target", metric["target"])
    return found


def _wandb_pruner(given: Any, source: str) -> dict[str, Any]:
    """Return W&B's hyperband, which is one bracket of successive halving at a time, as Swathe's asha."""
    key = f"{source}: early_terminate"
    if given is None:
        return {"name": "none"}
    if not isinstance(given, Mapping) or given.get("type") != "hyperband":
        raise bad_value(f"{key}.type", given, "hyperband")
    eta = whole(f"{key}.eta", given.get("eta", 3), 2)
    if given.get("min_iter") is not None:
        first = whole(f"{key}.min_iter", given["min_iter"], 1)
    elif given.get("max_iter") is not None:
        brackets = whole(f"{key}.s", given.get("s", 1), 1)
        first = whole(f"{key}.max_iter", given["max_iter"], 1)
        # More divisions than the number has bits leave nothing.
        first = max(1, first // eta ** min(brackets, first.bit_length()))
    else:
        raise bad_value(key, dict(given), "a min_iter, or a max_iter with s")
    return {"name": "asha", "min_resource": first, "reduction_factor": eta}


# Ray Tune.


def _space_of(source: str) -> Mapping[str, Any]:
    module_name, _, name = source.partition(":")
    allowed = "module:name of a dictionary, importable from the working folder, or a YAML file"
    if not module_name or not name:
        raise bad_value("SOURCE", source, allowed)
    sys.path[:0] = [folder for folder in (os.getcwd(),) if folder not in sys.path]
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (Exception, SystemExit) as error:  # Whatever the module raises.
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
        put(key, params, path, example)
        if text is not None:
            searches[key] = text
        if _is_grid(value):
            grid.add(key)
    return Imported(params, searches, "grid" if grid and grid == set(searches) else "tpe")


def _is_grid(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) == {"grid_search"}


def _tune_leaves(space: Mapping[str, Any], above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in space.items():
        path = (*above, *_names(".".join(above) or "SOURCE", name))
        if isinstance(value, Mapping) and value and not _is_grid(value):
            yield from _tune_leaves(value, path)
        else:
            yield path, value


def _tune_domain(key: str, value: Any) -> tuple[Any, str | None]:
    """Return a value as it is, or of a domain an example and its search; domains are told by their classes' names."""
    if _is_grid(value):
        return choice(key, value["grid_search"])
    domain = type(value).__name__ if type(value).__module__.startswith("ray.tune") else ""
    if not domain:
        return plain(key, value), None
    if domain == "Categorical":
        return choice(key, value.categories)
    sampler = getattr(value, "sampler", None)
    step = getattr(sampler, "q", None)
    kind = type(getattr(sampler, "sampler", sampler)).__name__.lstrip("_")
    match domain, kind, step is not None:
        case "Float", "Uniform" | "LogUniform", False:
            low, high = number(key, value.lower), number(key, value.upper)
            return float(low), interval(key, low, high, log=kind == "LogUniform")
        case "Float", "Uniform", True:
            low, high = number(key, value.lower), number(key, value.upper)
            return float(low), steps(key, low, high, number(key, step))
        case "Integer", "Uniform" | "LogUniform", False:
            # Integers of Ray Tune end below their upper bound.
            first, last = whole(key, value.lower), whole(key, value.upper) - 1
            return first, integers(key, first, last, log=kind == "LogUniform")
        case "Integer", "Uniform", True:
            # Those in steps are the multiples within the bounds, and end at the upper one unless the step is 1.
            by = whole(key, step, 1)
            first = -(-whole(key, value.lower) // by) * by
            last = (whole(key, value.upper) - (by == 1)) // by * by
            return first, integers(key, first, last, step=by)
    allowed = "uniform, loguniform, quniform, randint, lograndint, qrandint, choice, grid_search"
    raise bad_value(key, value.domain_str if hasattr(value, "domain_str") else domain, allowed)


# Hydra's grammar. `key` is what a refusal names.


def choice(key: str, given: Any) -> tuple[Any, str]:
    """Return the first of some plain values and the choice of them, in Hydra's grammar; raises `BadInputError`."""
    values = plain(key, given)
    if not isinstance(values, list) or not values:
        raise bad_value(key, given, "a list of values")
    if any(value in values[:index] for index, value in enumerate(values)):
        raise bad_value(key, values, "each value once, and 1, 1.0 and true count as one")
    return values[0], f"choice({', '.join(_written(key, value) for value in values)})"


def interval(key: str, low: float, high: float, *, log: bool = False) -> str:
    """Return an interval of real numbers, in Hydra's grammar; raises `BadInputError`."""
    if low >= high or (log and low <= 0):
        allowed = "a lower end below the upper one" + (", and above 0, as it is in logarithms" if log else "")
        raise bad_value(key, f"{low} to {high}", allowed)
    text = f"interval({float(low)!r}, {float(high)!r})"
    return f"tag(log, {text})" if log else text


def integers(key: str, low: int, high: int, *, log: bool = False, step: int = 1) -> str:
    """Return the integers from `low` to `high`, in Hydra's grammar; raises `BadInputError`."""
    if low > high or (log and low < 1):
        allowed = "a range that holds an integer" + (", from 1 or more, as it is in logarithms" if log else "")
        raise bad_value(key, f"{low} to {high}", allowed)
    text = f"range({low}, {high + 1}{f', {step}' if step != 1 else ''})"
    return f"tag(log, {text})" if log else text


def steps(key: str, low: float, high: float, step: float) -> str:
    """Return numbers from `low` to `high` in steps, in Hydra's grammar; raises `BadInputError`."""
    # Decimal, as 0.1 * 3 is not 0.3; half a step more, as Hydra's range leaves its stop out.
    stop = float(Decimal(str(high)) + Decimal(str(step)) / 2)
    if step <= 0 or low > high or not float(high) < stop < math.inf:
        raise bad_value(key, f"{low} to {high} in steps of {step}", "a lower end, an upper one and a step above 0")
    return f"range({float(low)!r}, {stop!r}, {float(step)!r})"


def _written(key: str, value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_written(key, item) for item in value)}]"
    if isinstance(value, Mapping) or (isinstance(value, float) and not math.isfinite(value)):
        raise bad_value(key, value, "a choice of text, finite numbers, true, false, null and lists of them")
    if not isinstance(value, str):
        return json.dumps(value)
    if _WORD.fullmatch(value) and value.lower() not in _OTHERS:
        return value
    # A quote is escaped by a backslash, and backslashes are, by themselves, where a quote or the end follows.
    doubled = re.sub(r"(\\+)(?='|\Z)", r"\1\1", value)
    return "'" + doubled.replace("'", "\\'") + "'"


# Values.


def plain(key: str, value: Any) -> Any:
    """Return a value as a config can have it, with NumPy's scalars and arrays as Python's; raises `BadInputError`."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {plain(key, name): plain(f"{key}.{name}", item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(key, item) for item in value]
    if type(value) not in _PLAIN:
        # A domain of Ray Tune, which stands within a list, shows no more than its address.
        given = type(value).__name__ if type(value).__module__.startswith("ray.tune") else value
        raise bad_value(key, given, "text, numbers, true, false, null, and lists and mappings of them")
    if isinstance(value, str) and ("${" in value or value == "???"):
        # Escaped, it would be text in this file, and a reference again in the config of a trial, for `train --from`.
        raise bad_value(key, value, "text without '${', which is a reference in a config, and other than '???'")
    if isinstance(value, int):
        _check_size(key, value)
    return value


def _check_size(key: str, value: int) -> None:
    if abs(value) > sys.float_info.max:
        # Python itself refuses to print what has more than some thousand digits.
        given = value if value.bit_length() < 10_000 else f"an integer of {value.bit_length()} bits"
        raise bad_value(key, given, f"numbers from {-sys.float_info.max:.1e} to {sys.float_info.max:.1e}")


def number(key: str, value: Any) -> float:
    """Return a finite number, as it is; raises `BadInputError`."""
    value = plain(key, value)
    if not _is_number(value):
        raise bad_value(key, value, "a finite number")
    return value


def whole(key: str, value: Any, least: int | None = None) -> int:
    """Return a whole number; raises `BadInputError` for others, and for those below the least."""
    value = plain(key, value)
    if not _is_number(value) or value != int(value) or (least is not None and value < least):
        raise bad_value(key, value, "whole numbers" + (f" from {least}" if least is not None else ""))
    return int(value)


def _is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a number, and a finite one that a float can hold."""
    limit = sys.float_info.max
    return isinstance(value, int | float) and not isinstance(value, bool) and -limit <= value <= limit


def _names(where: str, name: Any) -> list[str]:
    """Return the names that a name with points stands for: they are nested in a config."""
    names = str(name).split(".")
    if isinstance(name, bool) or not isinstance(name, str | int) or not all(names):
        raise bad_value(where, name, "names of letters, digits, '_' and '-', with points between them")
    plain(where, name)
    return names


def put(key: str, params: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set a value under the names of a path, in mappings that are made where they are missing; refuses a name twice."""
    *above, last = path
    place: Any = params
    for name in above:
        place = place.setdefault(name, {})
        if not isinstance(place, dict):
            break
    if not isinstance(place, dict) or last in place:
        raise bad_value(key, ".".join(path), "each name once, and none that is a value and holds others")
    place[last] = value
