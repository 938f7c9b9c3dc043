"""What draws a trial's parameters: Optuna's samplers, seeded a trial at a time, and the grid."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sized
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    PartialFixedSampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)

from swathe.errors import bad_value
from swathe.events import Value

# More points than a sweep can run, and as many as fit in memory easily.
MAX_GRID = 1_000_000

Suggest = Callable[[str, BaseDistribution], Value]


class Parameter(Protocol):
    """One parameter of a space: how it is distributed, and under which conditions it exists."""

    @property
    def distribution(self) -> BaseDistribution: ...
    @property
    def conditions(self) -> Sized: ...


class SearchSpace(Protocol):
    """What a study must know of a space: it is walked by asking for one active parameter after the other."""

    @property
    def parameters(self) -> Mapping[str, Parameter]: ...
    def sample(self, suggest: Suggest) -> dict[str, Value]: ...


@dataclass(frozen=True, slots=True)
class Groups:
    """Trials are drawn in groups of `size` consecutive numbers that have the values of `shared` in common.

    The first of a group, its head, is drawn in full; the others take from it the values of those of the shared
    parameters that both have, and draw the rest.
    """

    size: int = 1
    shared: frozenset[str] = frozenset()

    def head(self, number: int) -> int:
        return number - number % self.size


class Guided:
    """Points drawn by one of Optuna's samplers from the trials so far.

    A new sampler for each trial, with a seed of the trial's own, keeps nothing of the session: what it draws follows
    from the storage alone.
    """

    exhausted = False

    def __init__(self, sampler: Callable[[int], BaseSampler], space: SearchSpace, groups: Groups) -> None:
        self._sampler = sampler
        self._space = space
        self.groups = groups

    def sampler(self, number: int, head: Mapping[str, Value]) -> BaseSampler:
        """Return what draws the values of one trial; `head` are the parameters of its group's first one."""
        sampler = self._sampler(number)
        fixed = {
            name: value
            for name, value in head.items()
            if name in self.groups.shared and _holds(self._space.parameters[name].distribution, value)
        }
        return PartialFixedSampler(fixed, sampler) if fixed else sampler


class RandomDraw:
    """Independent draws, those of a group's shared parameters once for the group.

    Over the groups the joint distribution of a trial's parameters is that of independent drawing: each value is drawn
    from its own distribution, and whether the head's draw or the trial's own is used does not depend on that value.
    """

    exhausted = False

    def __init__(self, seed: int, space: SearchSpace, groups: Groups) -> None:
        self._seed = seed
        self._space = space
        self._groups = groups
        self._head: tuple[int, Mapping[str, Value]] = (-1, {})

    def suggest(self, number: int, study: optuna.Study) -> Suggest:
        """Return what draws the values of one trial."""
        own = self._stream(number, study)
        head = self._groups.head(number)
        if head == number:
            return own
        if self._head[0] != head:
            # A function of the seed and the head's number alone, also where the head was enqueued with other values.
            self._head = head, self._space.sample(self._stream(head, study))
        drawn = self._head[1]
        shared = {name: value for name, value in drawn.items() if name in self._groups.shared}
        return lambda name, distribution: shared[name] if name in shared else own(name, distribution)

    def _stream(self, number: int, study: optuna.Study) -> Suggest:
        sampler = RandomSampler(sampler_seed(self._seed, number))
        nothing = optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING)
        return lambda name, distribution: sampler.sample_independent(study, nothing, name, distribution)


class Grid:
    """Each point of a discrete space once, in an order shuffled by the seed; those of a group follow each other."""

    def __init__(self, space: SearchSpace, seed: int, groups: Groups) -> None:
        order = random.Random(seed)
        points = _enumerate(space)
        order.shuffle(points)
        if groups.size > 1:
            points = _in_runs(points, groups, order)
        points.reverse()
        self._points = points

    @property
    def exhausted(self) -> bool:
        return not self._points

    def leave_out(self, past: Iterable[Mapping[str, Value]]) -> None:
        """Take out the points that were drawn before."""
        drawn = {_point_key(params) for params in past}
        self._points = [point for point in self._points if _point_key(point) not in drawn]

    def suggest(self, number: int, study: optuna.Study) -> Suggest:
        """Return what draws the values of one trial."""
        point = self._points.pop()
        return lambda name, distribution: point[name]


def _in_runs(points: Iterable[dict[str, Value]], groups: Groups, order: random.Random) -> list[dict[str, Value]]:
    """Put points with the same shared values together, in runs of a group's size whose order is shuffled."""
    alike: dict[str, list[dict[str, Value]]] = {}
    for point in points:
        shared = {name: value for name, value in point.items() if name in groups.shared}
        alike.setdefault(_point_key(shared), []).append(point)
    runs = [same[start : start + groups.size] for same in alike.values() for start in range(0, len(same), groups.size)]
    order.shuffle(runs)
    return [point for run in runs for point in run]


Drawing = Guided | RandomDraw | Grid


def _point_key(params: Mapping[str, Value]) -> str:
    return repr(sorted(params.items()))


def _enumerate(space: SearchSpace) -> list[dict[str, Value]]:
    """Return all points of a space: walk it again and again, each time with the last choice that can move on moved."""
    levels = {name: _levels(name, parameter.distribution) for name, parameter in space.parameters.items()}
    points: list[dict[str, Value]] = []
    path: list[int] = []
    while True:
        names: list[str] = []

        def suggest(
            name: str, distribution: BaseDistribution, path: list[int] = path, names: list[str] = names
        ) -> Value:
            names.append(name)
            if len(names) > len(path):
                path.append(0)
            return levels[name][path[len(names) - 1]]

        points.append(space.sample(suggest))
        if len(points) > MAX_GRID:
            raise bad_value("sampler.name", "grid", f"a space of at most {MAX_GRID} points, or another sampler")
        while path and path[-1] == len(levels[names[len(path) - 1]]) - 1:
            path.pop()
        if not path:
            return points
        path[-1] += 1


def _levels(name: str, distribution: BaseDistribution) -> list[Value]:
    """Return the values of a discrete distribution in order."""
    match distribution:
        case CategoricalDistribution():
            return list(distribution.choices)
        case IntDistribution():
            return list(range(distribution.low, distribution.high + 1, distribution.step))
        case FloatDistribution() if distribution.single():
            return [distribution.low]
        case FloatDistribution(step=float() as step):
            # Decimal, so that 0.1 * 3 is 0.3.
            low, high, width = (Decimal(str(number)) for number in (distribution.low, distribution.high, step))
            return [float(low + index * width) for index in range(int((high - low) / width) + 1)]
    raise bad_value(
        "sampler.name", "grid", f"a space without intervals, unlike {name}: use choice, range or a step there"
    )


def suggest_from(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> Value:
    """Draw one parameter with the sampler of a trial of Optuna's."""
    match distribution:
        case CategoricalDistribution():
            return trial.suggest_categorical(name, distribution.choices)
        case IntDistribution(low=low, high=high, step=step, log=log):
            return trial.suggest_int(name, low, high, step=step, log=log)
        case FloatDistribution(low=low, high=high, step=step, log=log):
            return trial.suggest_float(name, low, high, step=step, log=log)
    raise TypeError(f"{name} has an unknown distribution: {distribution}")


def _holds(distribution: BaseDistribution, value: Value) -> bool:
    try:
        return bool(distribution._contains(distribution.to_internal_repr(value)))
    except ValueError:
        return False  # No choice of a categorical distribution, or no number.


def sampler_seed(seed: int, number: int) -> int:
    """Return the seed (32 bits) of what is drawn for one trial."""
    return random.Random(f"{seed} {number}").getrandbits(32)


def _is_count(least: int) -> Callable[[object], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


_FLAG = (lambda value: isinstance(value, bool), "true or false")
_COUNT = (_is_count(0), "an integer of at least 0")
_ONE_OR_MORE = (_is_count(1), "an integer of at least 1")
_OPTIONS: Mapping[str, Mapping[str, tuple[Callable[[object], bool], str]]] = {
    "random": {},
    "grid": {},
    "tpe": {
        "n_startup_trials": _COUNT,
        "n_ei_candidates": _ONE_OR_MORE,
        "multivariate": _FLAG,
        "group": _FLAG,
        "constant_liar": _FLAG,
    },
    "cmaes": {
        "n_startup_trials": _COUNT,
        "sigma0": (lambda value: value is None or _is_positive(value), "a number above 0, or null for Optuna's choice"),
        "popsize": (lambda value: value is None or _is_count(3)(value), "an integer of at least 3, or null"),
        "consider_pruned_trials": _FLAG,
        "use_separable_cma": _FLAG,
        "with_margin": _FLAG,
        "lr_adapt": _FLAG,
    },
    "qmc": {"qmc_type": (lambda value: value in ("sobol", "halton"), "sobol, halton"), "scramble": _FLAG},
    "gp": {"n_startup_trials": _COUNT, "deterministic_objective": _FLAG},
}


def build(options: Mapping[str, Any], space: SearchSpace, seed: int, groups: Groups | None = None) -> Drawing:
    """Build what draws the points; the options are called as in Optuna.

    What Optuna's sampler cannot draw together with the rest (CMA-ES: categorical and conditional parameters; QMC and
    GP: conditional ones; all: the first trials) it draws at random, without a warning. CMA-ES and QMC draw no groups:
    their points are a population and a sequence, which would lose what they are by a value that is given. Nor does GP:
    Optuna fits it without the parameters whose values are given, and it then proposes the same point again.
    """
    groups = groups or Groups()
    given = _check_options(options)
    # The options that must be the same for all trials of a sweep take this seed.
    base = random.Random(seed).getrandbits(32)

    def independent(number: int) -> BaseSampler:
        return RandomSampler(sampler_seed(seed, number))

    match options["name"]:
        case "random":
            return RandomDraw(seed, space, groups)
        case "grid":
            return Grid(space, seed, groups)
        case "tpe":
            # Groups are for parameters that are not always there, and are a form of the multivariate estimator.
            conditional = any(len(parameter.conditions) > 0 for parameter in space.parameters.values())
            given = {"multivariate": True, "group": True} | given
            given["group"] = given["group"] and given["multivariate"] and conditional
            return Guided(lambda number: TPESampler(seed=sampler_seed(seed, number), **given), space, groups)
        case "cmaes":
            quiet: dict[str, Any] = {"warn_independent_sampling": False}
            return Guided(
                lambda number: CmaEsSampler(seed=base, independent_sampler=independent(number), **quiet, **given),
                space,
                Groups(),
            )
        case "qmc":
            given.setdefault("scramble", True)
            quiet = {"warn_independent_sampling": False, "warn_asynchronous_seeding": False}
            return Guided(
                lambda number: QMCSampler(seed=base, independent_sampler=independent(number), **quiet, **given),
                space,
                Groups(),
            )
        case _:
            quiet = {"warn_independent_sampling": False}
            return Guided(
                lambda number: GPSampler(
                    seed=sampler_seed(seed, number), independent_sampler=independent(number), **quiet, **given
                ),
                space,
                Groups(),
            )


def _check_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a sampler without its name; raises `BadInputError` for what it does not have."""
    name = options.get("name")
    known = _OPTIONS.get(name) if isinstance(name, str) else None
    if known is None:
        raise bad_value("sampler.name", name, ", ".join(_OPTIONS))
    given = {key: value for key, value in options.items() if key != "name"}
    for key, value in given.items():
        if key not in known:
            allowed = f"for {name}: {', '.join(known)}" if known else f"no option for {name}"
            raise bad_value(f"sampler.{key}", value, allowed)
        holds, allowed = known[key]
        if not holds(value):
            raise bad_value(f"sampler.{key}", value, allowed)
    return given
