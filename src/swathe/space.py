"""The search space: Hydra's override grammar becomes Optuna distributions, and a trial's parameters its config."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from hydra.core.override_parser.types import ChoiceSweep, Glob, IntervalSweep, RangeSweep, Sweep
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, ConfigTypeError, OmegaConfBaseException
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from swathe.config import NOT_A_TRIALS, ComposedSweep, group_options, parse_overrides, plain_values
from swathe.errors import BadInputError, bad_value
from swathe.events import Config, Value
from swathe.plain import put
from swathe.training.recipe import recipe_from_config

Suggest = Callable[[str, BaseDistribution], Value]

_SEARCHES = "choice(a, b), range(start, stop, step), interval(start, end), int(...) and tag(log, ...)"

_RECIPE_KEYS = frozenset({"batch_size", "precision", "epochs"})


@dataclass(frozen=True, slots=True)
class Condition:
    """Holds when `parameter` was drawn with one of `values`."""

    parameter: str
    values: tuple[Value, ...]

    def holds(self, params: Mapping[str, Value]) -> bool:
        return self.parameter in params and params[self.parameter] in self.values

    def __str__(self) -> str:
        return f"{self.parameter}={','.join(map(str, self.values))}"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One dimension of the space: it exists when all `conditions` hold. `group`: it swaps a whole config group.

    Optuna and MLflow know a list only as text: `decode` gives what such a text stands for in a config.
    """

    name: str
    distribution: BaseDistribution
    conditions: tuple[Condition, ...] = ()
    group: bool = False
    meanings: Mapping[str, Any] = field(default_factory=dict)

    def decode(self, value: Value) -> Any:
        return self.meanings.get(value, value) if isinstance(value, str) else value


@dataclass(frozen=True)
class Space:
    """All parameters, each after those that its conditions speak of.

    `variants[group][option]` is the trial part of the config under that option; `separable` says that a group's option
    changes nothing outside of the group, so that combinations need not be composed one by one.
    """

    parameters: Mapping[str, Parameter]
    variants: Mapping[str, Mapping[str, Config]] = field(repr=False, default_factory=dict)
    separable: bool = True

    @classmethod
    def parse(cls, composed: ComposedSweep) -> Space:
        """Read the space of a sweep and check it against the config's types; raises `BadInputError`, one sentence."""
        return _Parser(composed).parse()

    def sample(self, suggest: Suggest) -> dict[str, Value]:
        """Draw one point: `suggest(name, distribution)` is asked for each parameter that exists under those before."""
        params: dict[str, Value] = {}
        for name, parameter in self.parameters.items():
            if all(condition.holds(params) for condition in parameter.conditions):
                params[name] = suggest(name, parameter.distribution)
        return params


class _Parser:
    def __init__(self, composed: ComposedSweep) -> None:
        self._composed = composed
        self._groups = group_options()
        self._parameters: dict[str, Parameter] = {}
        # (parameter, type and value of a choice as written) -> the choice in the key's own type.
        self._meant: dict[tuple[str, type, Value], Value] = {}

    def parse(self) -> Space:
        for name, text in self._composed.space.items():
            self._add(name, text, ())
        self._add_conditional(self._composed.when, ())
        configs = {
            name: {str(option): self._compose(name, str(option)) for option in _choices(parameter)}
            for name, parameter in self._parameters.items()
            if parameter.group
        }
        base = _trial_part(self._composed.config)
        variants = {
            group: {option: _trial_part(config) for option, config in options.items()}
            for group, options in configs.items()
        }
        for name, parameter in self._parameters.items():
            if not parameter.group:
                self._parameters[name] = self._fit(parameter, configs)
        for name, parameter in self._parameters.items():
            self._parameters[name] = replace(parameter, conditions=tuple(map(self._in_key_types, parameter.conditions)))
        separable = all(
            _without(variant, group) == _without(base, group)
            for group, options in variants.items()
            for variant in options.values()
        )
        self._check_recipes(base, variants)
        return Space(self._parameters, variants, separable)

    def _where(self, name: str) -> str:
        return "the command line" if name in self._composed.searched else self._composed.source

    def _refuse(self, name: str, text: str, allowed: str) -> BadInputError:
        return bad_value(f"{self._where(name)}: {name}", text, allowed)

    # Reading.

    def _add(self, name: str, text: str, conditions: tuple[Condition, ...]) -> None:
        if name in self._parameters:
            raise BadInputError(
                f"{self._where(name)}: {name}: stands twice in the space; allowed: once, "
                "and for several choices under one condition such as 'optim=sgd,adam'."
            )
        if name.split(".")[0] in NOT_A_TRIALS | {"trainable"}:
            raise self._refuse(name, text, "a search over what a trial depends on, not over the sweep's own settings")
        try:
            (override,) = parse_overrides([f"{name}={text}"])
        except BadInputError as error:
            raise BadInputError(f"{self._where(name)}: {error}") from error
        group = name in self._groups
        value = override.value()
        try:
            distribution, meanings = self._distribution(name, text, value)
        except ArithmeticError as error:
            # The limits of decimal numbers, by which Optuna counts steps.
            raise self._refuse(name, text, "numbers that are not so large, and not so many of them") from error
        self._parameters[name] = Parameter(name, distribution, conditions, group, meanings)
        if group:
            self._check_options(name, text)

    def _distribution(self, name: str, text: str, value: Any) -> tuple[BaseDistribution, dict[str, Any]]:
        match value:
            case ChoiceSweep():
                return self._choice(name, text, value)
            case RangeSweep():
                return self._range(name, text, value), {}
            case IntervalSweep():
                return self._interval(name, text, value), {}
            case Glob() if name in self._groups:
                options = tuple(value.filter(self._groups[name]))
                if not options:
                    raise self._refuse(name, text, f"a pattern for some of {', '.join(self._groups[name])}")
                return CategoricalDistribution(options), {}
        raise self._refuse(name, text, f"a search: {_SEARCHES}")

    def _check_options(self, name: str, text: str) -> None:
        for option in _choices(self._parameters[name]):
            if option not in self._groups[name]:
                raise self._refuse(name, str(option), ", ".join(self._groups[name]))
        if not _choices(self._parameters[name]):
            raise self._refuse(name, text, f"a choice of {', '.join(self._groups[name])}")

    def _choice(self, name: str, text: str, sweep: ChoiceSweep) -> tuple[BaseDistribution, dict[str, Any]]:
        if sweep.tags:
            raise self._refuse(name, text, "a choice without tags")
        values: list[Value] = []
        meanings: dict[str, Any] = {}
        # In the order written, even under the grammar's shuffle(...): a study's choices have one order.
        for element in sweep.list:
            plain = _plain(element)
            if isinstance(plain, (list, dict)):
                try:
                    encoded = json.dumps(plain)
                except TypeError as error:
                    raise self._refuse(name, text, "lists and mappings of plain values") from error
                meanings[encoded] = plain
                values.append(encoded)
            elif isinstance(plain, float) and not math.isfinite(plain):
                raise self._refuse(name, text, "finite numbers")
            elif isinstance(plain, Sweep | Glob):
                raise self._refuse(name, text, "a choice of values, not of searches")
            else:
                values.append(plain)
        self._refuse_equals(name, text, values)
        return CategoricalDistribution(values), meanings

    def _refuse_equals(self, name: str, text: str, values: Sequence[Value]) -> None:
        # 1, 1.0 and true are equal in Python, and so one and the same choice for Optuna.
        if any(value in values[:index] for index, value in enumerate(values)):
            raise self._refuse(name, text, "each choice once, and 1, 1.0 and true count as one")

    def _range(self, name: str, text: str, sweep: RangeSweep) -> BaseDistribution:
        log = self._log(name, text, sweep.tags)
        start, stop, step = (Decimal(str(number)) for number in (sweep.start, sweep.stop, sweep.step))
        if not all(number.is_finite() for number in (start, stop, step)) or step <= 0 or start >= stop:
            raise self._refuse(
                name, text, "range(start, stop, step) with start below stop, which is left out, and step above 0"
            )
        last = start + step * (math.ceil((stop - start) / step) - 1)
        if log and (step != 1 or start < 1 or start != int(start)):
            raise self._refuse(name, text, "in logarithms a range of integers from 1 or more, with step 1")
        if all(isinstance(number, int) for number in (sweep.start, sweep.stop, sweep.step)):
            return IntDistribution(int(start), int(last), log=log, step=int(step))
        return FloatDistribution(float(start), float(last), step=float(step))

    def _interval(self, name: str, text: str, sweep: IntervalSweep) -> BaseDistribution:
        log = self._log(name, text, sweep.tags)
        start, end = sweep.start, sweep.end
        if start is None or end is None or not (math.isfinite(start) and math.isfinite(end)) or start >= end:
            raise self._refuse(name, text, "interval(start, end) with start below end, both finite")
        if log and start <= 0:
            raise self._refuse(name, text, "a start above 0, as the logarithm of 0 and less does not exist")
        if isinstance(start, int) and isinstance(end, int):
            return IntDistribution(start, end, log=log)
        return FloatDistribution(float(start), float(end), log=log)

    def _log(self, name: str, text: str, tags: set[str]) -> bool:
        if tags - {"log"}:
            raise self._refuse(name, text, "the tag log, or none")
        return "log" in tags

    def _add_conditional(self, when: Any, outer: tuple[Condition, ...]) -> None:
        source = self._composed.source
        if not isinstance(when, Mapping):
            raise bad_value(
                f"{source}: sweep.when", when, "conditions such as 'optim=momentum', each with its parameters"
            )
        for text, branch in when.items():
            if not isinstance(branch, Mapping):
                allowed = "a mapping of parameters to searches, such as {optim.momentum: 'interval(0.5, 0.99)'}"
                raise bad_value(f"{source}: sweep.when.{text}", branch, allowed)
            held = self._condition(str(text))
            if held is False:
                continue  # Its parameter is fixed on the command line, to another value.
            conditions = outer if held is True else (*outer, held)
            for name, search in branch.items():
                if name == "when":
                    continue
                if not isinstance(search, str):
                    raise bad_value(f"{source}: sweep.when.{text}.{name}", search, f"a search: {_SEARCHES}")
                self._add(str(name), search, conditions)
            self._add_conditional(branch.get("when", {}), conditions)

    def _condition(self, text: str) -> Condition | bool:
        """Read a condition; True or False where the command line has settled it."""
        key = f"{self._composed.source}: sweep.when"
        try:
            (override,) = parse_overrides([text])
        except BadInputError as error:
            allowed = "a condition such as 'optim=momentum' or 'optim=sgd,adam'"
            raise bad_value(key, text, allowed) from error
        name, value = override.key_or_group, override.value()
        if override.is_sweep_override() and not isinstance(value, ChoiceSweep):
            raise bad_value(key, text, "a condition on values, such as 'optim=sgd,adam'")
        values = [_plain(item) for item in override.sweep_iterator()] if isinstance(value, ChoiceSweep) else [value]
        if name in self._composed.fixed and name not in self._composed.searched:
            return self._composed.fixed[name] in values
        parameter = self._parameters.get(name)
        if parameter is None:
            known = ", ".join(known for known, found in self._parameters.items() if _choices(found)) or "none"
            raise bad_value(key, text, f"a condition on a choice of the space: {known}")
        encoded: list[Any] = [json.dumps(item) if isinstance(item, (list, dict)) else item for item in values]
        choices = _choices(parameter)
        if name in self._composed.searched:
            # The command line searches fewer choices than the file: conditions on the others never hold.
            encoded = [item for item in encoded if item in choices]
            if not encoded:
                return False
        for item in encoded:
            if item not in choices:
                allowed = ", ".join(map(str, choices)) or "conditions on choices only"
                raise bad_value(f"{key}: {name}", item, allowed)
        return Condition(name, tuple(encoded))

    # Checking against the config.

    def _in_key_types(self, condition: Condition) -> Condition:
        name = condition.parameter
        values = tuple(self._meant.get((name, type(value), value), value) for value in condition.values)
        return Condition(name, values)

    def _compose(self, group: str, option: str) -> DictConfig:
        return self._composed.composition.compose({group: option})

    def _fit(self, parameter: Parameter, configs: Mapping[str, Mapping[str, DictConfig]]) -> Parameter:
        """Check that the key exists wherever it is drawn and takes its values; return it in the key's type."""
        owner = parameter.name.split(".")[0]
        under: Sequence[tuple[str, DictConfig]] = [("", self._composed.config)]
        if owner in configs:
            allowed = set(configs[owner])
            for condition in parameter.conditions:
                if condition.parameter == owner:
                    allowed &= set(map(str, condition.values))
            under = [(f" under {owner}={name}", config) for name, config in configs[owner].items() if name in allowed]
        for where, config in under:
            parameter = self._fit_one(parameter, config, where)
        return parameter

    def _fit_one(self, parameter: Parameter, config: DictConfig, where: str) -> Parameter:
        name = parameter.name
        found = self._select(name, config, where)
        before = OmegaConf.to_container(found) if OmegaConf.is_config(found) else found
        try:
            taken = [self._set(name, config, parameter.decode(value), where) for value in _probes(parameter)]
        finally:
            OmegaConf.update(config, name, before)
        distribution = parameter.distribution
        if isinstance(distribution, IntDistribution) and isinstance(taken[0], float):
            return replace(parameter, distribution=self._as_floats(name, distribution))
        if not isinstance(distribution, CategoricalDistribution):
            return parameter
        # The key's own type, so that the sampler, the config and MLflow say the same: 1 for a number becomes 1.0.
        values = [
            value if isinstance(value, str) and value in parameter.meanings else new
            for value, new in zip(distribution.choices, taken, strict=True)
        ]
        self._refuse_equals(name, ", ".join(map(str, distribution.choices)), values)
        # Conditions speak of the choices as they were written.
        self._meant.update({(name, type(old), old): new for old, new in zip(distribution.choices, values, strict=True)})
        return replace(parameter, distribution=CategoricalDistribution(values))

    def _as_floats(self, name: str, distribution: IntDistribution) -> FloatDistribution:
        """Return a range of integers for a key that takes real numbers: the same values, as floats."""
        if distribution.log:
            allowed = "tag(log, interval(...)), since this key takes real numbers"
            raise self._refuse(name, f"{distribution.low} .. {distribution.high} in logarithms", allowed)
        try:
            return FloatDistribution(distribution.low, distribution.high, step=distribution.step)
        except ArithmeticError as error:
            given = f"{distribution.low} .. {distribution.high}"
            raise self._refuse(name, given, "numbers that are not so large") from error

    def _select(self, name: str, config: DictConfig, where: str) -> Any:
        try:
            found = OmegaConf.select(config, name, throw_on_missing=True)
        except OmegaConfBaseException:
            found = None
        parent, _, last = name.rpartition(".")
        holder = OmegaConf.select(config, parent) if parent else config
        if not isinstance(holder, DictConfig) or last not in holder:
            known = ", ".join(map(str, holder)) if isinstance(holder, DictConfig) else ""
            known = known or ", ".join(map(str, config))
            hint = "; for one choice only, put it under sweep.when" if where else ""
            raise BadInputError(f"{self._where(name)}: {name}: there is no such key{where}; allowed: {known}{hint}.")
        if isinstance(found, DictConfig):
            raise self._refuse(name, name, f"a single key, such as {name}.{next(map(str, found), 'key')}")
        return found

    def _set(self, name: str, config: DictConfig, value: Any, where: str) -> Any:
        try:
            OmegaConf.update(config, name, value)
        except (ConfigAttributeError, ConfigKeyError, ConfigTypeError) as error:
            raise self._refuse(name, str(value), f"an existing key{where}") from error
        except (OmegaConfBaseException, ArithmeticError) as error:
            kind = _kind(config, name)
            hint = ", so int(interval(...)) or range(...)" if kind == "an integer" and isinstance(value, float) else ""
            raise self._refuse(name, str(value), f"{kind}{where}{hint}") from error
        taken = OmegaConf.select(config, name)
        return OmegaConf.to_container(taken) if OmegaConf.is_config(taken) else taken

    def _check_recipes(self, base: Config, variants: Mapping[str, Mapping[str, Config]]) -> None:
        """Check the fixed config and every end of every range as the training would: the values' meaning."""
        if self._composed.values.get("trainable") is not None:
            return
        try:
            for options in variants.values():
                for variant in options.values():
                    recipe_from_config(variant)
            if not variants:
                recipe_from_config(base)
        except BadInputError as error:
            raise BadInputError(f"{self._composed.source}: {error}") from error
        for name, parameter in self._parameters.items():
            if parameter.group:
                continue
            config = self._example(parameter, base, variants)
            for value in _probes(parameter):
                put(config, name, parameter.decode(value))
                try:
                    recipe_from_config(config)
                except BadInputError as error:
                    raise BadInputError(f"{self._where(name)}: {error}") from error

    def _example(self, parameter: Parameter, base: Config, variants: Mapping[str, Mapping[str, Config]]) -> Config:
        """Return a trial's config in which the parameter exists."""
        config = copy.deepcopy(base)
        for group, options in variants.items():
            held = [c for c in parameter.conditions if c.parameter == group]
            option = str(held[-1].values[0]) if held else next(iter(options))
            config[group] = copy.deepcopy(options[option][group])
        return config


def _trial_part(config: DictConfig) -> Config:
    values = plain_values(config)
    # Root's keys of a recipe say nothing of a function, which has what it needs among its own parameters.
    left_out = NOT_A_TRIALS | (_RECIPE_KEYS if values.get("trainable") is not None else frozenset())
    return {key: value for key, value in values.items() if key not in left_out}


def _without(config: Config, group: str) -> Config:
    return {key: value for key, value in config.items() if key != group}


def ends(distribution: BaseDistribution) -> tuple[Value, ...]:
    """Return all choices of a distribution, or the two ends of its range, which may be one."""
    if isinstance(distribution, CategoricalDistribution):
        return tuple(distribution.choices)
    assert isinstance(distribution, (IntDistribution, FloatDistribution))
    return tuple(dict.fromkeys((distribution.low, distribution.high)))


def _choices(parameter: Parameter) -> tuple[Any, ...]:
    return tuple(getattr(parameter.distribution, "choices", ()))


def _probes(parameter: Parameter) -> list[Value]:
    """Return the values by which a distribution is checked: its ends, and for numbers one that is no integer."""
    distribution = parameter.distribution
    probes = list(ends(distribution))
    if isinstance(distribution, FloatDistribution) and distribution.step is None:
        # An irrational place between the ends: a key for integers must refuse the interval, whatever its ends are.
        probes.append(distribution.low + (distribution.high - distribution.low) * 0.6180339887498949)
    return probes


def _kind(config: DictConfig, name: str) -> str:
    parent, _, last = name.rpartition(".")
    holder = OmegaConf.select(config, parent) if parent else config
    node = holder._get_node(last)
    words = {"FloatNode": "a number", "IntegerNode": "an integer", "BooleanNode": "true or false", "StringNode": "text"}
    if type(node).__name__ == "UnionNode":
        return "an integer or text"
    if type(node).__name__ == "ListConfig":
        return "a list"
    return words.get(type(node).__name__, "a value of the key's type")


def _plain(element: Any) -> Any:
    """Return an element of the grammar as plain data: quoted strings without their quotes."""
    if hasattr(element, "text") and hasattr(element, "quote"):
        return element.text
    if isinstance(element, list):
        return [_plain(item) for item in element]
    if isinstance(element, dict):
        return {_plain(key): _plain(value) for key, value in element.items()}
    return element


class TrialComposer:
    """Turns a trial's parameters into its config, and into what MLflow shows of it.

    `weights`: the digests of the weights that a transfer may name, see `swathe.weights`.
    """

    def __init__(self, composed: ComposedSweep, space: Space, weights: Mapping[str, str] | None = None) -> None:
        self._composed = composed
        self._space = space
        self._weights = weights or {}
        self._groups = [name for name, parameter in space.parameters.items() if parameter.group]
        self._base = _trial_part(composed.config)
        self._by_choices: dict[tuple[Value, ...], tuple[Config, dict[str, Value]]] = {}

    def trial_config(self, params: Mapping[str, Value]) -> Config:
        """Return the trial's whole config; the sweep's own parts (sampler, cluster ...) are not in it."""
        config = copy.deepcopy(self._under(params)[0])
        for name, value in params.items():
            parameter = self._space.parameters[name]
            if not parameter.group:
                put(config, name, parameter.decode(value))
        transfer = config.get("transfer", {})
        if (digest := self._weights.get(transfer.get("weights"))) is not None:
            transfer["sha256"] = digest
        return config

    def logged_params(self, params: Mapping[str, Value]) -> dict[str, Value]:
        """Return every leaf of the trial's config by its dotted name, a swapped group by its option."""
        return {**self._under(params)[1], **params}

    def _under(self, params: Mapping[str, Value]) -> tuple[Config, dict[str, Value]]:
        choices = tuple(params.get(group) for group in self._groups)
        found = self._by_choices.get(choices)
        if found is None:
            config = self._compose({group: str(params[group]) for group in self._groups if group in params})
            # A swapped group says its option itself: `optim`, and not `optim.name` once more.
            twice = {f"{group}.name" for group in self._groups}
            leaves = {name: value for name, value in _leaves(config, "") if name not in twice}
            found = self._by_choices[choices] = (config, leaves)
        return found

    def _compose(self, choices: Mapping[str, str]) -> Config:
        if not self._space.separable:
            return _trial_part(self._composed.composition.compose(choices))
        return {**self._base, **{group: self._space.variants[group][name][group] for group, name in choices.items()}}


def _leaves(config: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Value]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value) if isinstance(value, list) else value
