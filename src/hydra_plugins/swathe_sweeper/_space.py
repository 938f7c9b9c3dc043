"""The search space of an app: overrides in Hydra's grammar, read as hydra-optuna-sweeper reads them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, QuotedString, RangeSweep
from hydra.errors import HydraException
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from swathe.errors import BadInputError, SwatheError, bad_value
from swathe.events import Value
from swathe.samplers import Suggest
from swathe.space import Parameter, Space

GRAMMAR = "choice(a, b), range(start, stop, step), interval(start, end), int(...) and tag(log, ...)"
_KINDS = ("categorical", "int", "float")

# What draws more parameters of a trial: it gets the app's config and something like Optuna's trial.
Extender = Callable[[Any, Any], object]


@dataclass(frozen=True)
class Search:
    """What is searched, by the key of its override, and the overrides that are the same for every trial."""

    parameters: Mapping[str, Parameter]
    fixed: tuple[str, ...] = ()

    def overrides(self, params: Mapping[str, Value]) -> list[str]:
        """Return the overrides of a trial, the fixed ones first."""
        return [*self.fixed, *(f"{name}={self._text(name, value)}" for name, value in params.items())]

    def _text(self, name: str, value: Value) -> str:
        parameter = self.parameters.get(name)
        meaning = None if parameter is None or not isinstance(value, str) else parameter.meanings.get(value)
        if meaning is not None:
            return str(meaning)
        return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True, kw_only=True)
class AppSpace(Space):
    """The parameters of the overrides, then what the app's own function draws (`extend`, from the app's `config`)."""

    search: Search
    extend: Extender | None = None
    config: Any = field(default=None, repr=False)

    @classmethod
    def of(cls, search: Search, extend: Extender | None, config: Any) -> AppSpace:
        return cls(search.parameters, search=search, extend=extend, config=config)

    def sample(self, suggest: Suggest) -> dict[str, Value]:
        """Draw one point; see `swathe.space.Space.sample`."""
        params = {name: suggest(name, parameter.distribution) for name, parameter in self.parameters.items()}
        if self.extend is not None:
            self._extend(_Trial(params, suggest))
        return params

    def _extend(self, trial: _Trial) -> None:
        assert self.extend is not None
        try:
            self.extend(self.config, trial)
        except SwatheError:
            raise
        except Exception as error:  # Whatever the app's function raises.
            words = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")
            raise BadInputError(
                f"hydra.sweeper.custom_search_space: {getattr(self.extend, '__name__', 'it')!r} is not allowed "
                f"({words}); allowed: a function that draws with trial.suggest_float, suggest_int and "
                "suggest_categorical."
            ) from error


@dataclass(frozen=True)
class _Trial:
    """As much of Optuna's `Trial` as a function needs that draws parameters."""

    params: dict[str, Value]
    _suggest: Suggest

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        return float(self._drawn(name, FloatDistribution(low, high, log=log, step=step)))  # type: ignore[arg-type]

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        return int(self._drawn(name, IntDistribution(low, high, log=log, step=step)))  # type: ignore[arg-type]

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._drawn(name, CategoricalDistribution(tuple(choices)))

    def _drawn(self, name: str, distribution: BaseDistribution) -> Value:
        if name not in self.params:
            self.params[name] = self._suggest(name, distribution)
        return self.params[name]


def read(params: Mapping[str, Any] | None, deprecated: Mapping[str, Any] | None, arguments: Iterable[str]) -> Search:
    """Read `hydra.sweeper.params` (or `search_space`) and the words of the command line, which come last and win.

    Raises `BadInputError`, one sentence with the key.
    """
    found: dict[str, Parameter | str] = {}
    if params is None:
        for key, description in (deprecated or {}).items():
            found[str(key)] = Parameter(str(key), _described(str(key), description))
    for word in [*(f"{key}={value}" for key, value in (params or {}).items()), *arguments]:
        override = _parsed(word)
        key = override.get_key_element()
        # A plain value takes a key out of the space, whatever sign it was written with.
        found.pop(key, None)
        found[key] = _parameter(key, override) if override.is_sweep_override() else word
    parameters = {key: value for key, value in found.items() if isinstance(value, Parameter)}
    return Search(parameters, tuple(value for value in found.values() if isinstance(value, str)))


def _parsed(word: str) -> Override:
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise BadInputError(
            f"Override {word!r} is not allowed ({reason}); allowed: KEY=VALUE in Hydra's grammar."
        ) from (error)


def _parameter(key: str, override: Override) -> Parameter:
    text = str(override.input_line).partition("=")[2]
    value = override.value()
    try:
        match value:
            case ChoiceSweep():
                return _choices(key, text, value.list)
            case RangeSweep(shuffle=True):
                return _choices(key, text, value.range())
            case RangeSweep():
                return Parameter(key, _range(value))
            case IntervalSweep():
                return Parameter(key, _interval(value))
    except (ValueError, TypeError) as error:
        raise bad_value(key, text, f"a search that Optuna knows ({str(error).strip().splitlines()[0]})") from error
    raise bad_value(key, text, GRAMMAR)


def _choices(key: str, text: str, elements: Iterable[Any]) -> Parameter:
    """Return a choice, in the order written also under shuffle(): a study's choices have one order.

    Optuna gets plain values, and the override what was written, quotes and all.
    """
    plain: list[Value] = []
    meanings: dict[str, str] = {}
    for element in elements:
        value = element.text if isinstance(element, QuotedString) else element
        if isinstance(value, float) and not math.isfinite(value):
            raise bad_value(key, text, "finite numbers")
        if not isinstance(value, int | float | bool):
            written = Override._get_value_element_as_str(element)
            value = value if isinstance(value, str) else written
            meanings[value] = written
        plain.append(value)
    if any(value in plain[:index] for index, value in enumerate(plain)):
        raise bad_value(key, text, "each choice once, and 1, 1.0 and true count as one")
    return Parameter(key, CategoricalDistribution(tuple(plain)), meanings=meanings)


def _range(sweep: RangeSweep) -> BaseDistribution:
    """Return a range with its stop in it, where the steps meet it: hydra-optuna-sweeper has it so, unlike Hydra."""
    start, stop, step, log = sweep.start, sweep.stop, sweep.step, "log" in sweep.tags
    if start is None or stop is None:
        raise ValueError("a range needs both of its ends")
    if all(isinstance(number, int) for number in (start, stop, step)):
        return IntDistribution(int(start), int(stop), log=log, step=int(step))
    return FloatDistribution(float(start), float(stop), log=log, step=float(step))


def _interval(sweep: IntervalSweep) -> BaseDistribution:
    start, end, log = sweep.start, sweep.end, "log" in sweep.tags
    if start is None or end is None:
        raise ValueError("an interval needs both of its ends")
    if isinstance(start, int) and isinstance(end, int):
        return IntDistribution(start, end, log=log)
    return FloatDistribution(float(start), float(end), log=log)


def _described(key: str, description: Any) -> BaseDistribution:
    """Return a distribution of the deprecated `search_space`: {type, low, high, log, step} or {type, choices}."""
    where = f"hydra.sweeper.search_space.{key}"
    if not isinstance(description, Mapping):
        raise bad_value(where, description, "a mapping with a type: int, float or categorical")
    given = SimpleNamespace(**{"low": None, "high": None, "log": False, "step": None, "choices": None, **description})
    kind = str(getattr(given, "type", None))
    try:
        match kind:
            case "categorical":
                return CategoricalDistribution(tuple(given.choices))
            case "int":
                return IntDistribution(int(given.low), int(given.high), log=given.log, step=int(given.step or 1))
            case "float":
                return FloatDistribution(float(given.low), float(given.high), log=given.log, step=given.step)
    except (ValueError, TypeError) as error:
        raise bad_value(where, dict(description), f"what Optuna takes ({error})") from error
    raise bad_value(f"{where}.type", kind, ", ".join(_KINDS))
