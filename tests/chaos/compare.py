"""What the study and MLflow have of a sweep, and whether it is what an undisturbed one has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

import optuna
import psycopg

from tests.chaos.servers import RECORDS, STUDIES
from tests.chaos.sweep import TRIALS, Sweep

# What a report says of time, memory and the machine, and not of the training.
COSTS = frozenset({"seconds", "device_seconds", "examples_per_second", "peak_memory"})

_RUNS = """
SELECT run_uuid, status, end_time IS NULL FROM runs JOIN experiments USING (experiment_id)
WHERE experiments.name = %s AND runs.lifecycle_stage = 'active'
"""
_OF_RUNS = "SELECT run_uuid, {} FROM {} WHERE run_uuid = ANY(%s)"


@dataclass(frozen=True, slots=True)
class Told:
    """A trial in the study."""

    state: str
    params: Mapping[str, Any]
    value: float | None
    reports: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Run:
    """A run in MLflow; `repeated` are (metric, step) that it has more than once."""

    status: str
    without_end: bool
    params: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: Mapping[tuple[str, int], float]
    repeated: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that is kept of a sweep: trials by number, their runs, which may be too many, and the sweep's own runs."""

    trials: Mapping[int, Told]
    runs: tuple[tuple[int, Run], ...]
    parents: tuple[Run, ...]


def read(sweep: Sweep) -> Outcome:
    """Read both stores past the proxies."""
    runs = list(_runs(sweep))
    trials = tuple((int(run.tags["swathe.trial"]), run) for run in runs if run.tags["swathe.kind"] == "trial")
    parents = tuple(run for run in runs if run.tags["swathe.kind"] == "sweep")
    return Outcome(read_study(sweep), tuple(sorted(trials, key=lambda item: item[0])), parents)


def read_study(sweep: Sweep) -> dict[int, Told]:
    """Read the trials as any user of Optuna does."""
    url = sweep.around.postgres.database(STUDIES).replace("postgresql://", "postgresql+psycopg://")
    storage = optuna.storages.RDBStorage(url)
    try:
        study = optuna.load_study(study_name=sweep.name, storage=storage)
        return {
            trial.number: Told(trial.state.name, dict(trial.params), trial.value, dict(trial.intermediate_values))
            for trial in study.get_trials()
        }
    finally:
        storage.engine.dispose()


def _runs(sweep: Sweep) -> Iterator[Run]:
    with closing(psycopg.connect(sweep.around.postgres.database(RECORDS))) as connection:
        found = connection.execute(_RUNS, (sweep.name,)).fetchall()
        ids = [run_id for run_id, *_ in found]

        def of_runs(columns: str, table: str) -> dict[str, list[tuple[Any, ...]]]:
            rows: dict[str, list[tuple[Any, ...]]] = {run_id: [] for run_id in ids}
            for run_id, *row in connection.execute(_OF_RUNS.format(columns, table).encode(), (ids,)):
                rows[run_id].append(tuple(row))
            return rows

        tags, params = of_runs("key, value", "tags"), of_runs("key, value", "params")
        metrics = of_runs("key, step, CASE WHEN is_nan THEN 'nan' ELSE value END", "metrics")
    for run_id, status, without_end in found:
        numbers = metrics[run_id]
        counts = Counter((key, step) for key, step, _ in numbers)
        yield Run(
            status,
            without_end,
            dict(params[run_id]),
            dict(tags[run_id]),
            {(key, step): value for key, step, value in numbers if key not in COSTS},
            tuple(item for item, count in counts.items() if count > 1),
        )


class Log(Protocol):
    """What the sweep's own log says."""

    def ended_twice(self) -> list[int]: ...


def violations(log: Log, undisturbed: Outcome, seen: Outcome) -> Iterator[str]:
    """Yield what is not as in the undisturbed sweep, a sentence each."""
    yield from _trial_violations(undisturbed.trials, seen.trials)
    yield from (f"trial {number} was told more than once" for number in log.ended_twice())
    yield from _run_violations(undisturbed, seen)
    if len(seen.parents) != 1:
        yield f"the sweep has {len(seen.parents)} runs of its own"
    for parent in seen.parents:
        if parent.status != "FINISHED" or parent.without_end:
            yield f"the sweep's run is {parent.status}"
        best = "swathe.best_trial"
        if parent.tags.get(best) != undisturbed.parents[0].tags.get(best):
            yield f"the best trial is {parent.tags.get(best)}, not {undisturbed.parents[0].tags.get(best)}"


def _trial_violations(expected: Mapping[int, Told], seen: Mapping[int, Told]) -> Iterator[str]:
    if sorted(seen) != list(range(TRIALS)):
        yield f"the study has the trials {sorted(seen)}"
    for number, trial in seen.items():
        if number in expected and trial != expected[number]:
            yield f"trial {number} in the study is {trial}, undisturbed {expected[number]}"


def _run_violations(undisturbed: Outcome, seen: Outcome) -> Iterator[str]:
    expected = dict(undisturbed.runs)
    numbers = [number for number, _ in seen.runs]
    if numbers != list(range(TRIALS)):
        yield f"MLflow has runs of the trials {numbers}"
    for number, run in seen.runs:
        if run.status != "FINISHED" or run.without_end:
            yield f"the run of trial {number} is {run.status}"
        if run.repeated:
            yield f"the run of trial {number} has more than once: {run.repeated[:5]}"
        if number in expected:
            yield from _differences(number, expected[number], run)


def _differences(number: int, expected: Run, run: Run) -> Iterator[str]:
    for what, theirs, ours in (
        ("parameters", expected.params, run.params),
        ("state", expected.tags.get("swathe.state"), run.tags.get("swathe.state")),
        ("config", expected.tags.get("swathe.config"), run.tags.get("swathe.config")),
        ("diagnosis", expected.tags.get("swathe.diagnosis"), run.tags.get("swathe.diagnosis")),
    ):
        if theirs != ours:
            yield f"the run of trial {number} has the {what} {ours}, undisturbed {theirs}"
    keys = expected.metrics.keys() | run.metrics.keys()
    other = sorted(key for key in keys if not _same(expected.metrics.get(key), run.metrics.get(key)))
    if other:
        shown = [(*key, expected.metrics.get(key), run.metrics.get(key)) for key in other[:4]]
        where = f"attempt {run.tags.get('swathe.attempt')}, {run.tags.get('swathe.geometry')}"
        yield f"the run of trial {number} differs in {len(other)} numbers ({where}): {shown}"


def _same(one: float | None, other: float | None) -> bool:
    return one == other or (one is not None and other is not None and one != one and other != other)
