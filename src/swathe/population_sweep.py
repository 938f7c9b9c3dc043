"""The populations of a sweep: which parameters their members share, which of them may change, and the jobs of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from optuna.distributions import FloatDistribution, IntDistribution

from swathe.config import ComposedSweep
from swathe.errors import BadInputError, bad_value
from swathe.events import Config, Direction, Value
from swathe.population import KEY, Dimension, Member, Population, PopulationJob
from swathe.space import Parameter, Space, ends
from swathe.training.structure import is_structural

# What may change between two epochs: what a step's coefficients and what is drawn for it are made of.
_EXPLORED = ("optim.", "schedule.", "regularization.", "augmentation.")
_ENDS_EARLY = ("regularization.patience", "regularization.min_delta")
# What is another program where it is off.
_SWITCHES = ("regularization.dropout", "regularization.l1", "regularization.clip_norm", "regularization.clip_value")


def shared(space: Space) -> frozenset[str]:
    """Return the parameters that all members of a population have in common: those that may change its program."""
    # Where an option of one group changes keys outside of the group, every swapped group may change the structure.
    return frozenset(
        name
        for name, parameter in space.parameters.items()
        if is_structural(name)
        or name == "regularization"
        or (parameter.group and not space.separable)
        or _is_switch(name, parameter)
    )


def _is_switch(name: str, parameter: Parameter) -> bool:
    """Whether some values of a parameter switch something on that others leave out, or name a file of it."""
    if not (name in _SWITCHES or name.startswith("augmentation.")):
        return False
    distribution = parameter.distribution
    if isinstance(distribution, FloatDistribution) and distribution.step is None:
        # That its end is drawn has no probability.
        return False
    return any(not value or isinstance(value, str) for value in ends(distribution))


def dimensions(space: Space) -> dict[str, Dimension]:
    """Return the parameters that members explore: numbers that a lane can change between two epochs."""
    common = shared(space)
    found: dict[str, Dimension] = {}
    for name, parameter in space.parameters.items():
        if name in common or name in _ENDS_EARLY or not name.startswith(_EXPLORED):
            continue
        match parameter.distribution:
            case FloatDistribution(low=low, high=high, step=step, log=log) if low < high:
                found[name] = Dimension(low, high, log, step)
            case IntDistribution(low=low, high=high, step=step, log=log) if low < high:
                found[name] = Dimension(low, high, log, step, integer=True)
    return found


def check(composed: ComposedSweep, space: Space) -> None:
    """Refuse a space that a sweep with populations cannot have; raises `BadInputError`."""
    if composed.population is None:
        return
    source, common = composed.source, shared(space)
    for name in ("epochs", *_ENDS_EARLY):
        if name in space.parameters:
            allowed = f"one value with {KEY}, whose members train side by side to the end"
            raise bad_value(f"{source}: {name}", composed.space.get(name, "a search"), allowed)
    precision = space.parameters.get("precision")
    if precision is not None and "fp16" in ends(precision.distribution):
        raise bad_value(f"{source}: precision", "fp16", f"fp32, tf32, bf16 with {KEY}, whose members are lanes")
    for name in common:
        for condition in space.parameters[name].conditions:
            if condition.parameter not in common:
                raise BadInputError(
                    f"{source}: {name}: the condition {condition} is not allowed; allowed: conditions on parameters "
                    f"that all members of a population share ({', '.join(sorted(common))})."
                )
    if not dimensions(space):
        raise BadInputError(
            f"{source}: {KEY}: the space has nothing that may change while a trial trains; allowed: a space with an "
            f"interval or a range in {', '.join(name.rstrip('.') for name in _EXPLORED)}."
        )


class Populations:
    """Makes the jobs of a sweep's populations from what was drawn for its trials.

    `params_of` gives the parameters of any trial that was drawn, `config_of` its config.
    """

    def __init__(
        self,
        composed: ComposedSweep,
        space: Space,
        params_of: Callable[[int], Mapping[str, Value]],
        config_of: Callable[[Mapping[str, Value], int], Config],
    ) -> None:
        assert composed.population is not None
        self._options = composed.population
        self._seed = composed.sweep.seed
        self._objective = composed.goal.first
        self._dimensions = dimensions(space)
        self._params_of = params_of
        self._config_of = config_of
        # The last one: its trials are given out together.
        self._last: PopulationJob | None = None

    def job(self, number: int) -> PopulationJob:
        """Return the population of a trial."""
        head = number - number % self._options.size
        if self._last is None or self._last.plan.head != head:
            minimize = self._objective.direction is Direction.MINIMIZE
            plan = Population(head, self._seed, self._objective.metric, minimize, self._options, self._dimensions)
            self._last = PopulationJob(plan, tuple(map(self._member, plan.numbers)))
        return self._last

    def _member(self, number: int) -> Member:
        params = self._params_of(number)
        names = tuple(sorted(params.keys() & self._dimensions.keys()))
        return Member(number, self._config_of(params, number), names)
