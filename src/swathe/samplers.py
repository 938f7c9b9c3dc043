"""What draws a trial's parameters: Optuna's samplers, seeded a trial at a time, and the grid."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Protocol

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    PartialFixedSampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.trial import FrozenTrial

from swathe.bohb import at_highest_budget, draws_at_random
from swathe.errors import bad_value
from swathe.events import Direction, Value
from swathe.points import seen_points
from swathe.pruners import Rungs
from swathe.repetition import Repetition
from swathe.seen import Seeing, Sight, seen_trial, with_earlier

# More points than a sweep can run, and as many as fit in memory easily.
MAX_GRID = 1_000_000
_NOTHING: Mapping[str, Value] = MappingProxyType({})

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
        return self.sharing(self._sampler(number), head)

    def sharing(self, sampler: BaseSampler, head: Mapping[str, Value]) -> BaseSampler:
        """Let a sampler draw what a trial does not share with its group's first one, whose parameters are `head`."""
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

    def suggest(self, number: int, study: optuna.Study, given: Mapping[str, Value] = _NOTHING) -> Suggest:
        """Return what draws the values of one trial, but for those that are given."""
        drawn = self._draw(number, study)
        return lambda name, distribution: given[name] if name in given else drawn(name, distribution)

    def _draw(self, number: int, study: optuna.Study) -> Suggest:
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
        return _random_stream(self._seed, number, study)


def _random_stream(seed: int, number: int, study: optuna.Study) -> Suggest:
    sampler = RandomSampler(sampler_seed(seed, number))
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
        self._seed = seed

    @property
    def exhausted(self) -> bool:
        return not self._points

    def leave_out(self, past: Iterable[Mapping[str, Value]]) -> None:
        """Take out the points that were drawn before."""
        drawn = {_point_key(params) for params in past}
        self._points = [point for point in self._points if _point_key(point) not in drawn]

    def suggest(self, number: int, study: optuna.Study, given: Mapping[str, Value] = _NOTHING) -> Suggest:
        """Return what draws the values of one trial: those of the next point that has what is given.

        Where all such points were tried before, the rest is drawn at random.
        """
        places = range(len(self._points) - 1, -1, -1)
        place = next((place for place in places if given.items() <= self._points[place].items()), None)
        if place is None:
            rest = _random_stream(self._seed, number, study)
            return lambda name, distribution: given[name] if name in given else rest(name, distribution)
        point = self._points.pop(place)
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


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


_FLAG = (lambda value: isinstance(value, bool), "true or false")
_COUNT = (_is_count(0), "an integer of at least 0")
_ONE_OR_MORE = (_is_count(1), "an integer of at least 1")
_GENETIC: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "population_size": (_is_count(2), "an integer of at least 2"),
    "mutation_prob": (lambda value: value is None or _is_share(value), "0 to 1, or null for one parameter a trial"),
    "crossover_prob": (_is_share, "0 to 1"),
    "swapping_prob": (_is_share, "0 to 1"),
}
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
    "bohb": {
        "random_fraction": (_is_share, "0 to 1"),
        "min_points_in_model": (
            lambda value: value is None or _is_count(1)(value),
            "an integer of at least 1, or null for one more than there are parameters",
        ),
        "n_ei_candidates": _ONE_OR_MORE,
    },
    "nsga2": _GENETIC,
    "nsga3": _GENETIC,
}


@dataclass(frozen=True, slots=True)
class Known:
    """What a sampler may use beside the sweep's own trials and space.

    `earlier`: trials of earlier sweeps, with those parameters that they share with this one's space. `rungs`: the steps
    at which the sweep's pruner compares trials, where they are known from the start. `minimize`: the direction.
    `repetition`: which trials are one point.
    """

    earlier: Sequence[FrozenTrial] = ()
    rungs: Rungs | None = None
    minimize: bool = True
    repetition: Repetition = field(default_factory=Repetition)


def build(
    options: Mapping[str, Any],
    space: SearchSpace,
    seed: int,
    groups: Groups | None = None,
    known: Known | None = None,
) -> Drawing:
    """Build what draws the points; the options are called as in Optuna.

    What Optuna's sampler cannot draw together with the rest (CMA-ES: categorical and conditional parameters; QMC and
    GP: conditional ones; all: the first trials) it draws at random, without a warning. CMA-ES and QMC draw no groups:
    their points are a population and a sequence, which would lose what they are by a value that is given. Nor does GP:
    Optuna fits it without the parameters whose values are given, and it then proposes the same point again. NSGA-II and
    NSGA-III draw none either: a child would have its parents' other values without theirs of those parameters.
    """
    groups, known = groups or Groups(), known or Known()
    given = _check_options(options)
    # The options that must be the same for all trials of a sweep take this seed.
    base = random.Random(seed).getrandbits(32)

    def independent(number: int) -> BaseSampler:
        return RandomSampler(sampler_seed(seed, number))

    match options["name"]:
        case "random":
            return RandomDraw(seed, space, groups)
        case "grid":
            return Grid(space, seed, replace(groups, size=max(1, groups.size // known.repetition.count)))
        case "tpe":
            # Groups are for parameters that are not always there, and are a form of the multivariate estimator.
            given = {"multivariate": True, "group": True} | given
            given["group"] = given["group"] and given["multivariate"] and _is_ragged(space, known.earlier)
            return Guided(
                _seeing(lambda number: TPESampler(seed=sampler_seed(seed, number), **given), _sight(known)),
                space,
                groups,
            )
        case "bohb":
            return Guided(_bohb(space, seed, known, **given), space, groups)
        case "cmaes":
            quiet: dict[str, Any] = {"warn_independent_sampling": False}
            given |= _sources(space, known.earlier)
            return Guided(
                _seeing(
                    lambda number: CmaEsSampler(seed=base, independent_sampler=independent(number), **quiet, **given),
                    _points_alone(known),
                ),
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
        case "nsga2" | "nsga3" as name:
            # Generations and their parents are attributes in the storage, so that a sampler need remember nothing.
            genetic = NSGAIISampler if name == "nsga2" else NSGAIIISampler
            return Guided(lambda number: genetic(seed=sampler_seed(seed, number), **given), space, Groups())
        case _:
            quiet = {"warn_independent_sampling": False}
            whole = [trial for trial in known.earlier if _always(space) <= trial.params.keys()]
            return Guided(
                _seeing(
                    lambda number: GPSampler(
                        seed=sampler_seed(seed, number), independent_sampler=independent(number), **quiet, **given
                    ),
                    _sight(replace(known, earlier=whole)),
                ),
                space,
                Groups(),
            )


_Make = Callable[[int], BaseSampler]


def _seeing(make: _Make, sight: Sight | None) -> _Make:
    """Let samplers see other trials than the sweep's own, where there is a sight of them."""
    if sight is None:
        return make
    return lambda number: Seeing(make(number), sight)


def _sight(known: Known) -> Sight | None:
    """Return what lets a sampler see trials of earlier sweeps before its own, or points of several trials each."""
    return with_earlier(known.earlier) if known.earlier else _points_alone(known)


def _points_alone(known: Known) -> Sight | None:
    if not known.repetition.several:
        return None
    return seen_points(known.repetition, Direction.MINIMIZE if known.minimize else Direction.MAXIMIZE)


def _always(space: SearchSpace) -> set[str]:
    """Return the parameters that every trial has."""
    return {name for name, parameter in space.parameters.items() if len(parameter.conditions) == 0}


def _is_ragged(space: SearchSpace, earlier: Iterable[FrozenTrial]) -> bool:
    """Whether trials differ in which parameters they have."""
    names = space.parameters.keys()
    return _always(space) != names or any(trial.params.keys() != names for trial in earlier)


def _sources(space: SearchSpace, earlier: Iterable[FrozenTrial]) -> dict[str, Any]:
    """Return what CMA-ES begins with (Nomura et al. 2021): the earlier trials that have all that it draws itself."""
    numbers = {
        name: parameter.distribution
        for name, parameter in space.parameters.items()
        if name in _always(space)
        and not isinstance(parameter.distribution, CategoricalDistribution)
        and not parameter.distribution.single()
    }
    whole = [
        seen_trial(
            trial.number,
            trial.state,
            trial.value,
            params={name: trial.params[name] for name in numbers},
            distributions=numbers,
        )
        for trial in earlier
        if numbers.keys() <= trial.params.keys() and trial.state is optuna.trial.TrialState.COMPLETE
    ]
    return {"source_trials": whole} if whole else {}


def _bohb(
    space: SearchSpace,
    seed: int,
    known: Known,
    *,
    random_fraction: float = 1 / 3,
    min_points_in_model: int | None = None,
    n_ei_candidates: int = 64,
) -> _Make:
    if known.rungs is None:
        allowed = "with pruner=hyperband, or pruner=asha with a number as its min_resource: their rungs are its budgets"
        raise bad_value("sampler.name", "bohb", allowed)
    # One more than there are parameters, and two more so that good and bad ones can be told apart (section 4.1).
    good = min_points_in_model or len(space.parameters) + 1
    least = good + 2
    before = with_earlier(known.earlier)
    highest = at_highest_budget(known.rungs, least, minimize=known.minimize)
    group = _is_ragged(space, known.earlier)

    def sight(trials: list[FrozenTrial]) -> list[FrozenTrial]:
        return highest(before(trials))

    def make(number: int) -> BaseSampler:
        if draws_at_random(seed, number, random_fraction):
            return RandomSampler(sampler_seed(seed, number))
        model = TPESampler(
            seed=sampler_seed(seed, number),
            n_startup_trials=least,
            n_ei_candidates=n_ei_candidates,
            # Equations 2 and 3: the best 15 %, and no fewer than a model needs.
            gamma=lambda count: max(good, math.ceil(0.15 * count)),
            multivariate=True,
            group=group,
        )
        return Seeing(model, sight)

    return make


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
