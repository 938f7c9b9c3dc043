"""An existing study of Optuna's as a sweep that begins with what the study knows: its space, and its trials."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from swathe import warm_start
from swathe.errors import BadInputError, SwatheError, bad_value, writing
from swathe.events import TrialState as State
from swathe.importing import Imported, choice, integers, interval, put, steps, sweep_name, whole
from swathe.study import read_journal

_STATES = {TrialState.COMPLETE: State.COMPLETE, TrialState.PRUNED: State.PRUNED}
_KEY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_SOURCES = "the URL of a database with studies of Optuna's, or the path of a journal file of Optuna's"


@dataclass(frozen=True, slots=True)
class Found:
    """A study: its trials that are over, and which way its one objective is better."""

    name: str
    direction: str
    trials: Sequence[FrozenTrial]


def is_storage(source: str) -> bool:
    """Whether a source of `swathe import` is a storage of Optuna's: a URL, or a file that is no YAML."""
    return "://" in source or (not source.endswith((".yaml", ".yml")) and os.path.isfile(source))


def import_study(
    source: str, *, study: str | None, function: str | None, metric: str | None, direction: str | None, out: Path | None
) -> tuple[str, int]:
    """Return the text of a sweep that goes on where a study is, and how many of its trials that sweep begins with.

    With `out`, where the text is to be written, the trials are written beside it, to a file whose name ends in
    `.trials.json` and which the text names; without it the sweep begins with none. Raises `BadInputError`.
    """
    found = _read(source, study)
    if direction not in (None, found.direction):
        raise bad_value("--direction", direction, f"{found.direction}, as the study has it")
    params, space, missing = _space(found.name, found.trials)
    sweep: dict[str, Any] = {"metric": metric} if metric else {}
    sweep["direction"] = found.direction
    earlier = [_earlier(found.name, trial) for trial in found.trials]
    begins = any(one.state is State.COMPLETE for one in earlier)
    path = out.with_suffix(".trials.json") if out is not None and begins else None
    if path is not None:
        sweep["warm_start"] = [str(path)]
    # Who names no study gets a name that begins so, from Optuna.
    named = "" if found.name.startswith("no-name-") else found.name
    said = f"From {found.name}, a study of Optuna's. The function reports {metric or 'val_loss'} with swathe.report."
    if missing:
        said += f" Not every trial has {', '.join(missing)}: sweep.when can say where they exist."
    text = Imported(params, space, sweep=sweep).as_yaml(
        function=function or "module:function",
        name=sweep_name(named, "study" if out is None else out.stem, "study"),
        said=said,
    )
    if path is not None:
        with writing("--out", path):
            warm_start.write(path, earlier, metric, found.direction)
    return text, 0 if path is None else len(earlier)


def _earlier(study: str, trial: FrozenTrial) -> warm_start.Earlier:
    params = {f"params.{name}": value for name, value in trial.params.items()}
    return warm_start.Earlier(
        study, trial.number, _STATES[trial.state], trial.value, dict(trial.intermediate_values), params
    )


# The storage.


def _read(source: str, name: str | None) -> Found:
    with _refusing(source):
        storage = _open(source)
        try:
            names = [one.study_name for one in storage.get_all_studies()]
            if name is None and len(names) == 1:
                name = names[0]
            if name not in names:
                raise bad_value("--study", name, ", ".join(names) or f"the name of a study in {source}, which has none")
            study = optuna.load_study(study_name=name, storage=storage)
            if len(study.directions) > 1:
                raise bad_value("--study", name, "a study with one objective")
            trials = study.get_trials(deepcopy=False, states=tuple(_STATES))
            return Found(name, study.direction.name.lower(), trials)
        finally:
            storage.remove_session()


def _open(source: str) -> BaseStorage:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if "://" not in source:
        return read_journal(Path(source))
    if source.startswith("sqlite:///") and not Path(source.removeprefix("sqlite:///")).is_file():
        raise bad_value("SOURCE", source, "an SQLite file that exists")
    # Only to read: no tables are made where there are none.
    return RDBStorage(source.replace("postgresql://", "postgresql+psycopg://", 1), skip_table_creation=True)


@contextmanager
def _refusing(source: str) -> Iterator[None]:
    try:
        yield
    except BadInputError:
        raise
    except (SwatheError, SQLAlchemyError, optuna.exceptions.OptunaError, ImportError, RuntimeError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        masked = re.sub(r"(://[^:/]*):.*@", r"\1:***@", source)
        raise bad_value("SOURCE", masked, f"{_SOURCES} ({reason})") from error


# The space.


def _space(study: str, trials: Sequence[FrozenTrial]) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """Return an example of each parameter, the searches, and which parameters some trials lack.

    A parameter whose range has changed over the trials is searched in the last one.
    """
    last: dict[str, BaseDistribution] = {}
    for trial in trials:
        last |= trial.distributions
    if not last:
        raise bad_value("--study", study, "a study with a trial that is complete or was pruned, and has parameters")
    _check_names(last)
    params: dict[str, Any] = {}
    space: dict[str, str] = {}
    for name, distribution in last.items():
        example, text = _search(name, distribution)
        put(name, params, name.split("."), example)
        if text is not None:
            space[name] = text
    return params, space, [name for name in last if any(name not in trial.params for trial in trials)]


def _check_names(names: Mapping[str, object]) -> None:
    for name in names:
        if not _KEY.fullmatch(name):
            raise bad_value("--study", name, "a study whose parameters are named by words with points between them")
        longer = next((other for other in names if other.startswith(f"{name}.")), None)
        if longer is not None:
            allowed = f"a study without {longer!r} beside it, as one key cannot be a value and hold another"
            raise bad_value("--study", name, allowed)


def _search(name: str, distribution: BaseDistribution) -> tuple[Any, str | None]:
    """Return a value of a distribution, and its search in Hydra's grammar; None where there is one value alone."""
    key = f"params.{name}"
    match distribution:
        case CategoricalDistribution(choices=choices) if None not in choices:
            example, text = choice(key, choices)
            return example, None if distribution.single() else text
        case IntDistribution(low=low, high=high, step=step, log=log):
            text = integers(key, whole(key, low), whole(key, high), log=log, step=step)
            return low, None if distribution.single() else text
        case FloatDistribution(low=low, high=high, step=step, log=log):
            if distribution.single():
                return low, None
            return low, interval(key, low, high, log=log) if step is None else steps(key, low, high, step)
    raise bad_value("--study", name, "a study whose parameters are floats, integers, and categories without None")
