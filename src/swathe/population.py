"""Population based training (Jaderberg et al. 2017, arXiv:1711.09846): who copies whom, and with which values.

The names of the options are those of Ray Tune's `PopulationBasedTraining`. What is decided at an epoch is a function of
the sweep's seed, the population's first trial, the member, the epoch, and what the members have reported at it.
"""

from __future__ import annotations

import copy
import json
import math
import operator
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from swathe.errors import BadInputError, bad_value
from swathe.events import Config
from swathe.plain import put

# The tags of a member: what its population is, what it has copied when, and by which values its parameters came about.
PLAN, COPIES, LINEAGE = "swathe.population_plan", "swathe.population", "swathe.lineage"
# What the metrics that say the values of an epoch begin with.
VALUE = "hp/"
LEAST = 4
KEY = "sweep.population"

Number = int | float
Values = Mapping[str, Number]


@dataclass(frozen=True, slots=True)
class Options:
    """`sweep.population`: how many trials are one, and how they learn from each other.

    Every `perturbation_interval` epochs each member of the worst `quantile_fraction` copies one of the best such share,
    and goes on with its values, each drawn anew with `resample_probability` or else times one of `factors`.
    """

    size: int = 8
    perturbation_interval: int = 2
    quantile_fraction: float = 0.25
    resample_probability: float = 0.25
    factors: tuple[float, ...] = (0.8, 1.25)

    def is_due(self, epoch: int) -> bool:
        """Whether members copy each other after an epoch, the first being 1."""
        return epoch % self.perturbation_interval == 0

    def quantile(self, members: int) -> int:
        """Return how many of so many members are the best ones, and how many the worst, as Ray Tune counts them."""
        return min(math.ceil(members * self.quantile_fraction), members // 2)


@dataclass(frozen=True, slots=True)
class Dimension:
    """A number that may change while a trial trains, from `low` to `high`, with a `step` on a grid from `low`.

    `log`: it is drawn uniformly in logarithms.
    """

    low: Number
    high: Number
    log: bool = False
    step: Number | None = None
    integer: bool = False

    def nearest(self, value: float) -> Number:
        """Return the value of this dimension that is nearest to another one."""
        found = min(max(value, self.low), self.high)
        if self.step is not None:
            found = min(self.low + round((found - self.low) / self.step) * self.step, self.high)
        return round(found) if self.integer else float(found)

    def draw(self, stream: random.Random) -> Number:
        """Draw a value, as independent drawing does."""
        if self.log:
            # As Optuna has it, so that the ends of integers are as likely as others.
            margin = 0.5 if self.integer else 0.0
            low, high = math.log(self.low - margin), math.log(self.high + margin)
            return self.nearest(math.exp(stream.uniform(low, high)))
        if self.step is not None:
            return self.nearest(self.low + self.step * stream.randint(0, round((self.high - self.low) / self.step)))
        return self.nearest(stream.uniform(self.low, self.high))


@dataclass(frozen=True, slots=True)
class Population:
    """The trials of a sweep from `head` on that train together; of `dimensions` a member has those of its branch."""

    head: int
    seed: int
    metric: str
    minimize: bool
    options: Options
    dimensions: Mapping[str, Dimension]

    @property
    def numbers(self) -> range:
        """Its members."""
        return range(self.head, self.head + self.options.size)


@dataclass(frozen=True, slots=True)
class Member:
    """A trial with its config as it begins; `names`: the dimensions that its config has."""

    number: int
    config: Config = field(repr=False)
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PopulationJob:
    """A whole population, as each of its trials brings it to a worker: those that are over are needed there, too."""

    plan: Population
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class Copy:
    """A member that goes on as a copy of `source` with other values."""

    member: int
    source: int
    params: Values


def copies(plan: Population, epoch: int, reached: Mapping[int, float], values: Mapping[int, Values]) -> list[Copy]:
    """Say who copies whom after an epoch, and goes on with which values.

    `reached` is the metric of each member that still trains, `values` are what it has trained with.
    """
    sign = 1.0 if plan.minimize else -1.0
    ranked = sorted(reached, key=lambda number: (sign * reached[number], number))
    count = plan.options.quantile(len(ranked))
    found = []
    for member in sorted(ranked[len(ranked) - count :]):
        stream = random.Random(f"population {plan.seed} {plan.head} {member} {epoch}")
        source = stream.choice(ranked[:count])
        found.append(Copy(member, source, explored(plan, values[source], stream)))
    return found


def explored(plan: Population, values: Values, stream: random.Random) -> dict[str, Number]:
    """Return values near others, or new ones (Jaderberg et al. 2017, section 4.1.1: perturb and resample)."""
    found: dict[str, Number] = {}
    for name in sorted(values):
        dimension, options = plan.dimensions[name], plan.options
        if stream.random() < options.resample_probability:
            found[name] = dimension.draw(stream)
        else:
            found[name] = dimension.nearest(values[name] * stream.choice(options.factors))
    return found


# Configs of members.


def values_of(config: Mapping[str, Any], names: Sequence[str]) -> dict[str, Number]:
    """Return the values that a config has under these dotted names."""
    found: dict[str, Number] = {}
    for name in names:
        place: Any = config
        for part in name.split("."):
            place = place[part]
        found[name] = place
    return found


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """Return a config with these values under their dotted names."""
    found = copy.deepcopy(config)
    for name, value in values.items():
        put(found, name, value)
    return found


# Reading and writing.


def plan_tag(job: PopulationJob, number: int) -> str:
    """Return the tag that says of a member what its population is, without its fellows' configs."""
    names = next(member.names for member in job.members if member.number == number)
    return json.dumps({**asdict(job.plan), "names": names})


def read_plan(text: str) -> tuple[Population, tuple[str, ...]]:
    """Return the population that `plan_tag` has said, and the names of that member's dimensions."""
    said = json.loads(text)
    names = tuple(said.pop("names"))
    options = said.pop("options")
    options = Options(**{**options, "factors": tuple(options["factors"])})
    dimensions = {name: Dimension(**one) for name, one in said.pop("dimensions").items()}
    return Population(options=options, dimensions=dimensions, **said), names


def options_of(sweep: Mapping[str, Any]) -> Options | None:
    """Read the option `population` of a sweep, None where it is off; raises `BadInputError`."""
    given = sweep.get("population")
    if given is None:
        return None
    known = [item.name for item in fields(Options)]
    if not isinstance(given, Mapping):
        raise bad_value(KEY, given, f"null, or some of {', '.join(known)}, such as {{size: 8}}")
    for name, value in given.items():
        if name not in known:
            raise BadInputError(f"{KEY}.{name}: there is no such key; allowed: {', '.join(known)}.")
        holds, allowed = _RULES[name]
        if not holds(value):
            raise bad_value(f"{KEY}.{name}", value, allowed)
    factors = {"factors": tuple(map(float, given["factors"]))} if "factors" in given else {}
    return Options(**{**given, **factors})


def _is_integer(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_within(value: object, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _are_factors(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_within(one, math.ulp(0.0), 1e6) for one in value)


_RULES: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "size": (lambda value: _is_integer(value, LEAST), f"an integer of at least {LEAST}"),
    "perturbation_interval": (lambda value: _is_integer(value, 1), "epochs, an integer of at least 1"),
    "quantile_fraction": (lambda value: _is_within(value, math.ulp(0.0), 0.5), "a share above 0, at most 0.5"),
    "resample_probability": (lambda value: _is_within(value, 0, 1), "0 to 1"),
    "factors": (_are_factors, "a list of numbers above 0, such as [0.8, 1.25]"),
}
SAMPLERS = ("random", "tpe")


def check(values: Mapping[str, Any]) -> None:
    """Refuse what a population cannot have, in a sweep's whole config; raises `BadInputError`."""
    sweep = values.get("sweep") or {}
    options = options_of(sweep)
    if options is None:
        return
    if values.get("trainable") is not None:
        raise bad_value(KEY, dict(sweep["population"]), "null for a function, as only recipes train as lanes")
    for section, key, (holds, words, why) in _ALONE:
        given = ((values.get(section) or {}) if section else values).get(key)
        if not holds(given):
            raise bad_value(f"{section}.{key}" if section else key, given, f"{words} with {KEY}, {why}")
    if sweep["trials"] % options.size:
        allowed = f"a multiple of {KEY}.size, which is {options.size}"
        raise bad_value("sweep.trials", sweep["trials"], allowed)
    epochs = values.get("epochs")
    if isinstance(epochs, int) and options.perturbation_interval >= epochs:
        allowed = f"less than the {epochs} epochs of a trial, as its members would never copy each other"
        raise bad_value(f"{KEY}.perturbation_interval", options.perturbation_interval, allowed)


# Section and key, and of an allowed value what holds, the words for it, and why.
_ALONE: Sequence[tuple[str, str, tuple[Callable[[Any], bool], str, str]]] = (
    ("lanes", "slots", (lambda value: value != 1, "null or 2 and more", "whose members are lanes of one block")),
    ("pruner", "name", (lambda value: value == "none", "none", "which gives its worst members the best ones' place")),
    ("sampler", "name", (lambda value: value in SAMPLERS, ", ".join(SAMPLERS), "whose members have one structure")),
    ("sweep", "metric", (lambda value: isinstance(value, str), "one metric", "by which its members are compared")),
    ("sweep", "repeats", (lambda value: value in (None, 1), "1", "whose members change their values on the way")),
    ("sweep", "group_ask", (lambda value: value is None, "null", "which is the group itself")),
    ("sweep", "enqueue", (operator.not_, "no points", "whose members have one structure")),
    ("sweep", "warm_start_best", (operator.not_, "0", "whose members have one structure")),
    ("regularization", "patience", (lambda value: value is None, "null", "whose members all train to the end")),
    ("", "precision", (lambda value: value != "fp16", "fp32, tf32, bf16", "as fp16 cannot be trained as lanes")),
)
