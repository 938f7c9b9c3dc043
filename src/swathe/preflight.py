"""What is checked before Ray starts, besides the config itself: the function, the data and the stores."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from swathe import pruners
from swathe.cluster import check_address
from swathe.events import Direction
from swathe.runtime import Plan, trial_config
from swathe.study import check_sampler, check_storage
from swathe.tracking import check_uri
from swathe.worker import add_import_paths, load_function


def check(plan: Plan, cache: Path) -> None:
    """Refuse a sweep whose function, data, stores or pruner are not good, in one sentence.

    Data that is not on this machine is downloaded to `cache`.
    """
    check_options(plan)
    check_address(plan.composed.cluster.address)
    check_storage(plan.card.storage)
    trainable = plan.composed.values.get("trainable")
    if trainable is not None:
        add_import_paths((os.getcwd(),))
        load_function(trainable)
        return
    from swathe.training import data
    from swathe.training.recipe import recipe_from_config

    for config in _configs_by_dataset(plan):
        data.obtain(recipe_from_config(config).data, cache)


def check_options(plan: Plan) -> None:
    """Refuse options that need nothing but a look: `swathe config` stops here."""
    check_uri(plan.card.tracking_uri)
    pruners.build(plan.composed.pruner, Direction(plan.composed.sweep.direction), plan.card.name)
    check_sampler(plan.composed.sampler, plan.space)


def _configs_by_dataset(plan: Plan) -> list[dict[str, Any]]:
    """Return one trial config for each dataset that the space may draw."""
    parameter = plan.space.parameters.get("data")
    first = plan.space.sample(lambda name, distribution: _any_value(distribution))
    choices = [first.get("data")] if parameter is None else list(getattr(parameter.distribution, "choices", ()))
    configs = []
    for choice in choices:

        def suggest(name: str, distribution: Any, choice: Any = choice) -> Any:
            return choice if name == "data" else _any_value(distribution)

        configs.append(trial_config(plan.composer, plan.space.sample(suggest), 0))
    return configs


def _any_value(distribution: Any) -> Any:
    choices = getattr(distribution, "choices", None)
    return distribution.low if choices is None else choices[0]
