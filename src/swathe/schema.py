"""The structured configs: what a sweep's config may hold, and each key's type and default.

The classes of a recipe are those of `swathe.training.recipe`; those of samplers and pruners have Optuna's own option
names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, make_dataclass
from functools import cache
from typing import Any, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from swathe import population, repetition
from swathe.annotations import checked_note, checked_tags
from swathe.diagnosis import rule_of
from swathe.errors import BadInputError, bad_value
from swathe.objectives import check_alone, goal_of
from swathe.training import recipe
from swathe.training.diagnose import Thresholds


@dataclass
class SweepOptions:
    """The search: what is optimised, over which space, and within which budget (times in seconds).

    `metric` and `direction` are lists of the same length for several objectives. `constraints`: reported metrics with a
    bound each, such as "<= 50000". With `repeats`, so many of the `trials` are one point with a seed each, whose value
    is the mean, the median or the worst (`repeats_of`) of theirs. `population`: None, or the options of
    `swathe.population`.
    """

    name: str | None = None
    metric: Any = "val_loss"
    direction: Any = "minimize"
    constraints: dict[str, Any] = field(default_factory=dict)
    trials: int = 100
    repeats: int = 1
    repeats_of: str = "mean"
    epochs: int | None = None
    wall_time: float | None = None
    device_seconds: float | None = None
    target: float | None = None
    patience: int | None = None
    min_improvement: float = 0.0
    retries: int = 3
    trial_timeout: float | None = None
    max_failures: int = 20
    ask_ahead: int | None = None
    group_ask: int | None = None
    population: Any = None
    storage: str | None = None
    tags: dict[str, Any] = field(default_factory=dict)
    note: str | None = None
    seed: int = 0
    space: dict[str, Any] = field(default_factory=dict)
    when: dict[str, Any] = field(default_factory=dict)
    enqueue: Any = field(default_factory=list)
    warm_start: Any = field(default_factory=list)
    warm_start_best: int = 0


@dataclass
class ClusterOptions:
    """Where trials run: `kind` ray (local, or the cluster at `address`) or inline (this very process).

    `cpus_per_worker` 0: workers whose trials start processes of their own hold nothing, see `integrations.ray_train`.
    `memory_per_worker`: GiB that a worker's trials may take beyond what it has at its start (None: no limit); of the
    machine's memory, not of a GPU's.
    """

    kind: str = "ray"
    address: str | None = None
    workers: int | None = None
    cpus_per_worker: float = 1.0
    gpus_per_worker: float | None = None
    threads_per_worker: int | None = None
    memory_per_worker: float | None = None


@dataclass
class LanesOptions:
    """How trials share a worker: `slots` side by side (None: as many as measured to be best, 1: each alone).

    `compile`: auto (once a sweep is long enough to pay for it), always (before the first trial) or never.
    `memory_fraction`: the share of the device's free memory that lanes may take.
    """

    slots: int | None = None
    compile: str = "auto"
    memory_fraction: float = 0.5


@dataclass
class CheckpointOptions:
    """How often a trial that runs is kept, so that it goes on when its worker, its machine or its sweep ends.

    `seconds`: at most once in so long for each trial, None for never; all together take at most 1 % of the time.
    `folder`: where (None: with the sweep; on several machines, a folder that all of them see).
    """

    seconds: float | None = 60.0
    folder: str | None = None


# Whether trials are diagnosed, whether findings end them (else they are tags alone), of which layers reports have the
# gradient's norm (ends or all), and each threshold by its name.
DiagnosisOptions: Any = make_dataclass(
    "DiagnosisOptions",
    [
        ("enabled", bool, field(default=True)),
        ("stop", bool, field(default=True)),
        ("layers", str, field(default="ends")),
        *(
            (item.name, get_type_hints(Thresholds)[item.name], field(default=item.default))
            for item in fields(Thresholds)
        ),
    ],
)


@dataclass
class PreflightOptions:
    """What is tried before the first trial: whether at all, and whether what is wrong refuses the sweep.

    `structures`: how many of the space's structures train a step, at most. `seconds`: after so long no further one is
    begun.
    """

    enabled: bool = True
    refuse: bool = True
    structures: int = 24
    seconds: float = 10.0


@dataclass
class TrackingOptions:
    """Where MLflow records: a database or a server (None: SQLite in the home), and under which experiment."""

    uri: str | None = None
    experiment: str | None = None


@dataclass
class CostOptions:
    """What a worker's device costs: `per_device_hour` in a `currency`, None where nobody asks."""

    per_device_hour: float | None = None
    currency: str = ""


@dataclass
class RandomSampler:
    """Independent draws (Bergstra & Bengio 2012)."""

    name: str = "random"


@dataclass
class TPESampler:
    """Tree-structured Parzen estimator (Bergstra et al. 2011), multivariate, with a constant liar as trials overlap."""

    name: str = "tpe"
    n_startup_trials: int = 10
    n_ei_candidates: int = 24
    multivariate: bool = True
    group: bool = True
    constant_liar: bool = True


@dataclass
class CmaEsSampler:
    """Covariance matrix adaptation evolution strategy (Hansen 2016); for spaces of numbers."""

    name: str = "cmaes"
    n_startup_trials: int = 1
    sigma0: float | None = None
    popsize: int | None = None


@dataclass
class QMCSampler:
    """Quasi-random points, scrambled Sobol by default (Bergstra & Bengio 2012, section 5)."""

    name: str = "qmc"
    qmc_type: str = "sobol"
    scramble: bool = True


@dataclass
class GridSampler:
    """Every combination once, in a shuffled order; the space must be finite."""

    name: str = "grid"


@dataclass
class GPSampler:
    """Gaussian process with expected improvement in logarithms (Ament et al. 2023)."""

    name: str = "gp"
    n_startup_trials: int = 10
    deterministic_objective: bool = False


@dataclass
class BOHBSampler:
    """TPE over the values at the highest rung that enough trials have reached (Falkner et al. 2018)."""

    name: str = "bohb"
    random_fraction: float = 1 / 3
    min_points_in_model: int | None = None
    n_ei_candidates: int = 64


@dataclass
class NSGAIISampler:
    """Genetic search by ranks of fronts and crowding distance (Deb et al. 2002), for several objectives."""

    name: str = "nsga2"
    population_size: int = 50
    mutation_prob: float | None = None
    crossover_prob: float = 0.9
    swapping_prob: float = 0.5


@dataclass
class NSGAIIISampler:
    """Genetic search by ranks of fronts and reference points (Deb & Jain 2014), for three objectives and more."""

    name: str = "nsga3"
    population_size: int = 50
    mutation_prob: float | None = None
    crossover_prob: float = 0.9
    swapping_prob: float = 0.5


@dataclass
class NoPruner:
    """Every trial runs to its end."""

    name: str = "none"


@dataclass
class ASHAPruner:
    """Asynchronous successive halving (Li et al. 2020); steps are the trial's own, epochs for recipes."""

    name: str = "asha"
    min_resource: Any = 1
    reduction_factor: int = 4
    min_early_stopping_rate: int = 0
    bootstrap_count: int = 0


@dataclass
class HyperbandPruner:
    """Several brackets of successive halving side by side (Li et al. 2018)."""

    name: str = "hyperband"
    min_resource: int = 1
    max_resource: Any = "auto"
    reduction_factor: int = 3
    bootstrap_count: int = 0


@dataclass
class MedianPruner:
    """Prunes what is worse than the median of complete trials at that step (Golovin et al. 2017)."""

    name: str = "median"
    n_startup_trials: int = 5
    n_warmup_steps: int = 0
    interval_steps: int = 1
    n_min_trials: int = 1


@dataclass
class PercentilePruner:
    """Prunes what is not among the best `percentile` percent of complete trials at that step."""

    name: str = "percentile"
    percentile: float = 25.0
    n_startup_trials: int = 5
    n_warmup_steps: int = 0
    interval_steps: int = 1
    n_min_trials: int = 1


@dataclass
class PatientPruner:
    """Lets `wrapped` prune only trials that have not improved for `patience` reports."""

    name: str = "patient"
    patience: int = 3
    min_delta: float = 0.0
    wrapped: Any = None


@dataclass
class ThresholdPruner:
    """Prunes values out of bounds, and NaN."""

    name: str = "threshold"
    lower: float | None = None
    upper: float | None = None
    n_warmup_steps: int = 0
    interval_steps: int = 1


@dataclass
class Root:
    """Everything that a sweep or a single run is composed of."""

    trainable: str | None = None
    params: dict[str, Any] = field(default_factory=dict)
    model: Any = MISSING
    data: recipe.Data = MISSING
    optim: recipe.Optim = MISSING
    schedule: recipe.Schedule = MISSING
    regularization: recipe.Regularization = MISSING
    batch_size: int | str = 64
    precision: str = "fp32"
    augmentation: recipe.Augmentation = MISSING
    transfer: recipe.Transfer = MISSING
    epochs: int = 20
    seed: int = 0
    device: str = "auto"
    sweep: SweepOptions = field(default_factory=SweepOptions)
    cluster: ClusterOptions = MISSING
    lanes: LanesOptions = field(default_factory=LanesOptions)
    checkpoints: CheckpointOptions = field(default_factory=CheckpointOptions)
    diagnosis: Any = field(default_factory=DiagnosisOptions)
    preflight: PreflightOptions = field(default_factory=PreflightOptions)
    tracking: TrackingOptions = field(default_factory=TrackingOptions)
    cost: CostOptions = field(default_factory=CostOptions)
    sampler: Any = MISSING
    pruner: Any = MISSING


_SAMPLERS = (
    RandomSampler,
    TPESampler,
    CmaEsSampler,
    QMCSampler,
    GridSampler,
    GPSampler,
    BOHBSampler,
    NSGAIISampler,
    NSGAIIISampler,
)
_PRUNERS = (NoPruner, ASHAPruner, HyperbandPruner, MedianPruner, PercentilePruner, PatientPruner, ThresholdPruner)

# Config group -> the option that is taken when a sweep names none. The first seven describe the training run.
RECIPE_GROUPS: Mapping[str, str] = {
    "model": "mlp",
    "data": "digits",
    "optim": "adamw",
    "schedule": "constant",
    "regularization": "none",
    "augmentation": "none",
    "transfer": "none",
}
SWEEP_GROUPS: Mapping[str, str] = {"cluster": "local", "sampler": "tpe", "pruner": "asha"}

SCHEMA_SUFFIX = "_schema"


@cache
def register() -> None:
    """Tell Hydra of every class above; the files of conf/ refer to them as `NAME_schema`."""
    store = ConfigStore.instance()
    groups: dict[str, dict[str, Any]] = {
        "model": {name: kind(name=name) for name, kind in recipe.MODELS.items()},
        "data": {name: kind(name=name) for name, kind in recipe.DATASETS.items()},
        "optim": {name: kind(name=name) for name, kind in recipe.OPTIMIZERS.items()},
        "schedule": {name: kind(name=name) for name, kind in recipe.SCHEDULES.items()},
        "regularization": {"regularization": recipe.Regularization()},
        "augmentation": {"augmentation": recipe.Augmentation()},
        "transfer": {name: kind(name=name) for name, kind in recipe.TRANSFERS.items()},
        "cluster": {"cluster": ClusterOptions()},
        "sampler": {kind().name: kind() for kind in _SAMPLERS},
        "pruner": {kind().name: kind() for kind in _PRUNERS},
    }
    for group, options in groups.items():
        for name, node in options.items():
            store.store(group=group, name=f"{name}{SCHEMA_SUFFIX}", node=node, provider="swathe")
    store.store(name=f"root{SCHEMA_SUFFIX}", node=Root, provider="swathe")


# Keys of the root that hold a group of options each, none of them a trial's own.
SECTIONS: Mapping[str, type[Any]] = {
    "sweep": SweepOptions,
    "cluster": ClusterOptions,
    "lanes": LanesOptions,
    "checkpoints": CheckpointOptions,
    "diagnosis": DiagnosisOptions,
    "preflight": PreflightOptions,
    "tracking": TrackingOptions,
    "cost": CostOptions,
}


def _at_least(least: float) -> Callable[[Any], bool]:
    return lambda value: value is None or value >= least


def _above(bound: float) -> Callable[[Any], bool]:
    return lambda value: value is None or value > bound


def _is_share(value: Any) -> bool:
    # Ray gives out parts of one CPU or GPU, and beyond one only whole ones.
    return value is None or (0 < value < 1 or (value >= 1 and float(value).is_integer()))


def _is_share_or_none(value: Any) -> bool:
    # Workers whose trials start processes of their own, see `swathe.integrations.ray_train`, hold nothing.
    return value == 0 or _is_share(value)


def _is_memory(value: Any) -> bool:
    return value is None or 0 < value <= 2**20


def _one_of(*names: str) -> Callable[[Any], bool]:
    return lambda value: value in names


# Dotted key -> (what holds for an allowed value, the words for it).
_RULES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "device": (_one_of("auto", "cpu", "cuda"), "auto, cpu, cuda"),
    "sweep.trials": (_at_least(1), "1 or more"),
    "sweep.repeats": (_at_least(1), "1 or more trials a point"),
    "sweep.repeats_of": (_one_of(*repetition.KINDS), ", ".join(repetition.KINDS)),
    "sweep.epochs": (_at_least(1), "1 or more, or null"),
    "sweep.wall_time": (_above(0), "seconds above 0, or null"),
    "sweep.device_seconds": (_above(0), "seconds above 0, or null"),
    "sweep.target": (lambda value: value is None or math.isfinite(value), "a finite number, or null"),
    "sweep.patience": (_at_least(1), "1 or more trials, or null"),
    "sweep.min_improvement": (lambda value: 0 <= value < math.inf, "a finite number of 0 or more"),
    "sweep.enqueue": (
        lambda value: isinstance(value, list),
        "a list of points, such as [{optim.lr: 0.001}, {optim: sgd}]",
    ),
    "sweep.warm_start": (
        lambda value: isinstance(value, list) and all(isinstance(source, str) for source in value),
        "a list of names of earlier sweeps, or of files of `swathe import`",
    ),
    "sweep.warm_start_best": (_at_least(0), "0 or more"),
    "sweep.retries": (_at_least(0), "0 or more"),
    "sweep.trial_timeout": (_above(0), "seconds above 0, or null"),
    "sweep.max_failures": (_at_least(1), "1 or more"),
    "sweep.ask_ahead": (_at_least(0), "0 or more, or null"),
    "sweep.group_ask": (_at_least(1), "1 or more trials, or null for a number that suits the sweep"),
    "sweep.seed": (lambda value: 0 <= value < 2**32, "0 to 4294967295"),
    "lanes.slots": (_at_least(1), "1 or more, or null for as many as are measured to be best"),
    "lanes.compile": (_one_of("auto", "always", "never"), "auto, always, never"),
    "lanes.memory_fraction": (lambda value: 0 < value <= 1, "a share above 0, at most 1"),
    "checkpoints.seconds": (_above(0), "seconds above 0, or null for no checkpoints"),
    "diagnosis.layers": (_one_of("ends", "all"), "ends, all"),
    "cost.per_device_hour": (_above(0), "an amount above 0, or null"),
    "preflight.structures": (_at_least(1), "1 or more"),
    "preflight.seconds": (_above(0), "seconds above 0"),
    "cluster.kind": (_one_of("ray", "inline"), "ray, inline"),
    "cluster.workers": (_at_least(1), "1 or more, or null for as many as fit"),
    "cluster.cpus_per_worker": (_is_share_or_none, "a share of one CPU such as 0.5, or whole CPUs, or 0"),
    "cluster.gpus_per_worker": (_is_share_or_none, "a share of one GPU such as 0.25, or whole GPUs, or 0, or null"),
    "cluster.threads_per_worker": (_at_least(1), "1 or more, or null"),
    "cluster.memory_per_worker": (_is_memory, "GiB above 0, at most 1048576, or null for no limit"),
}


def check(values: Mapping[str, Any]) -> None:
    """Refuse a value that has the right type and makes no sense, and a key that was added: raises `BadInputError`."""
    for section, kind in SECTIONS.items():
        if not isinstance(values.get(section, {}), Mapping):
            raise bad_value(section, values[section], f"its keys one by one, such as {section}.{fields(kind)[0].name}")
        known = [item.name for item in fields(kind)]
        for name in values.get(section, {}):
            if name not in known:
                raise BadInputError(f"{section}.{name}: there is no such key; allowed: {', '.join(known)}.")
    for key, (holds, allowed) in _RULES.items():
        section, _, name = key.rpartition(".")
        place = values.get(section) if section else values
        if place is not None and name in place and not holds(place[name]):
            raise bad_value(key, place[name], allowed)
    checked_tags(values.get("sweep", {}).get("tags") or {})
    checked_note(values.get("sweep", {}).get("note") or "")
    if "metric" in values.get("sweep", {}):
        check_alone(goal_of(values["sweep"]), values)
        repetition.check(values)
        population.check(values)
    # The thresholds refuse what is not allowed themselves.
    rule_of(values.get("diagnosis", {}))
