"""Runs an app's function for one trial, in a worker: as Hydra's own launchers run a job of a multirun."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import swathe
from swathe.errors import SwatheError
from swathe.pickled import unpack


@dataclass(frozen=True, slots=True)
class _Loaded:
    """An app in this process: Hydra's context, the function, the multirun's config and Hydra's state."""

    context: Any
    task: Any
    config: Any


def run(params: Any) -> None:
    """Run the app under a trial's overrides and report what it returns; raises whatever the app raises.

    `params`: {app: path of the pickled app, overrides: list of words, objectives: their names where there are several}.
    An app that has reported by itself and returns nothing, or what it reported last, has said all. With several
    objectives nothing is pruned, and what the app reports by itself is passed over.
    """
    from hydra.core.utils import run_job
    from omegaconf import open_dict

    app = _load(params["app"], os.stat(params["app"]).st_mtime_ns)
    info = swathe.trial()
    assert info is not None
    config = app.context.config_loader.load_sweep_config(app.config, list(params["overrides"]))
    with open_dict(config):
        config.hydra.job.id = info.number
        config.hydra.job.num = info.number
    objectives = params.get("objectives")
    with swathe.function.muted() if objectives else nullcontext():
        done = run_job(
            hydra_context=app.context,
            task_function=app.task,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        returned = done.return_value
    if objectives:
        _report_several(returned, list(objectives))
    else:
        _report(returned)


def _report_several(returned: Any, names: list[str]) -> None:
    try:
        values = [float(value) for value in returned]
    except (TypeError, ValueError):
        values = []
    if len(values) != len(names):
        allowed = f"{len(names)} numbers, one for each of hydra.sweeper.direction"
        raise SwatheError(f"The app's return value: {returned!r} is not allowed; allowed: {allowed}.")
    swathe.report(dict(zip(names, values, strict=True)), 0)


def _report(returned: Any) -> None:
    step, value = swathe.function.last_report()
    if returned is None and step is not None:
        return
    try:
        objective = float(returned)
    except (TypeError, ValueError):
        raise SwatheError(f"The app's return value: {returned!r} is not allowed; allowed: a number.") from None
    if step is None:
        # At step 0 no pruner decides: this is a result, and no report on the way to one.
        swathe.report(objective, 0)
    elif objective != value:
        swathe.report(objective)


@lru_cache(maxsize=1)
def _load(path: str, changed: int) -> _Loaded:
    """Load an app once a process; `changed` tells one launch of it from the next."""
    from hydra.core.singleton import Singleton
    from hydra.core.utils import setup_globals

    context, task, config, state = unpack(Path(path))
    setup_globals()
    Singleton.set_state(state)
    return _Loaded(context, task, config)
