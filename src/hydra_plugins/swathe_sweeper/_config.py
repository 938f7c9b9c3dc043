"""The sweeper's config as Hydra's users see it: that of hydra-optuna-sweeper 1.3, with a pruner besides."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

# Samplers by the names that hydra-optuna-sweeper gives them.
SAMPLERS = {
    "tpe": "optuna.samplers.TPESampler",
    "random": "optuna.samplers.RandomSampler",
    "cmaes": "optuna.samplers.CmaEsSampler",
    "grid": "optuna.samplers.GridSampler",
    "qmc": "optuna.samplers.QMCSampler",
    "gp": "optuna.samplers.GPSampler",
    "nsgaii": "optuna.samplers.NSGAIISampler",
}
# Their options that Swathe has too. Each is there from the start, so that Hydra lets the command line set it; one that
# is null is left to Swathe's default.
OPTIONS = {
    "tpe": ("n_startup_trials", "n_ei_candidates", "multivariate"),
    "cmaes": ("n_startup_trials", "sigma0", "popsize"),
    "qmc": ("qmc_type", "scramble"),
    "gp": ("n_startup_trials", "deterministic_objective"),
    "nsgaii": ("population_size", "mutation_prob", "crossover_prob", "swapping_prob"),
}
# As in `swathe.schema`, which no app should have to import.
CLUSTER = (
    "kind",
    "address",
    "workers",
    "cpus_per_worker",
    "gpus_per_worker",
    "threads_per_worker",
    "memory_per_worker",
)
TRACKING = ("uri", "experiment")
PRUNER = (
    "bootstrap_count",
    "interval_steps",
    "lower",
    "max_resource",
    "min_delta",
    "min_early_stopping_rate",
    "min_resource",
    "n_min_trials",
    "n_startup_trials",
    "n_warmup_steps",
    "patience",
    "percentile",
    "reduction_factor",
    "upper",
    "wrapped",
)


@dataclass
class SwatheSweeperConf:
    """What `hydra.sweeper` takes. Its `params` are overrides in Hydra's grammar, by their keys.

    `n_trials`: of the study in all, so that the same command goes on with one that was killed. `n_jobs`: trials at
    once, null for as many as there are cores or GPUs. `pruner`, `cluster` and `tracking`: as in Swathe's own sweeps.
    `custom_search_space`: a function (cfg, trial) that draws more, with Optuna's `trial.suggest_...`. `search_space`:
    the deprecated form of `params`.
    """

    _target_: str = "hydra_plugins.swathe_sweeper.swathe_sweeper.SwatheSweeper"
    # The sampler stays a config: Swathe has samplers of its own around Optuna's.
    _recursive_: bool = False
    defaults: list[Any] = field(default_factory=lambda: [{"sampler": "tpe"}])

    sampler: Any = MISSING
    direction: Any = "minimize"
    storage: str | None = None
    study_name: str | None = None
    n_trials: int = 20
    n_jobs: int | None = 2
    max_failure_rate: float = 0.0
    params: dict[str, Any] | None = None
    search_space: dict[str, Any] | None = None
    custom_search_space: str | None = None
    pruner: dict[str, Any] = field(default_factory=lambda: {"name": "asha", **dict.fromkeys(PRUNER)})
    cluster: dict[str, Any] = field(default_factory=lambda: dict.fromkeys(CLUSTER))
    tracking: dict[str, Any] = field(default_factory=lambda: dict.fromkeys(TRACKING))


def register() -> None:
    """Let Hydra know `hydra/sweeper=swathe` and its samplers, unless another sweeper has brought those of that name."""
    store = ConfigStore.instance()
    store.store(group="hydra/sweeper", name="swathe", node=SwatheSweeperConf, provider="swathe_sweeper")
    there = store.repo.get("hydra", {}).get("sweeper", {}).get("sampler", {})
    for name, target in SAMPLERS.items():
        if f"{name}.yaml" not in there:
            node = {"_target_": target, "seed": None, **dict.fromkeys(OPTIONS.get(name, ()))}
            store.store(group="hydra/sweeper/sampler", name=name, node=node, provider="swathe_sweeper")


register()
