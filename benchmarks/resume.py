"""What it costs to go on with a sweep of 10,000 trials: from the command to the first new trial's first report.

    python benchmarks/resume.py                     # some ten minutes, most of them for making the sweep
    python benchmarks/resume.py --trials 500        # a quick look, which writes no results

The sweep is real: trials that do nothing (benchmarks/noop.py), ASHA, TPE, a journal and MLflow. Its trials are then
copied to SQLite and PostgreSQL, too. `swathe resume` is timed beside `swathe launch` of the same sweep without any
trial: what is between them is the cost of 10,000 trials. The start of Ray alone is measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

import optuna  # noqa: E402 - the script runs from anywhere
import psycopg  # noqa: E402
import sqlalchemy  # noqa: E402
from benchmarks import machine  # noqa: E402
from benchmarks.overhead import QUIET  # noqa: E402
from benchmarks.starting import ray_alone  # noqa: E402
from optuna.distributions import distribution_to_json as to_json  # noqa: E402
from optuna.storages import JournalStorage, RDBStorage  # noqa: E402
from optuna.storages._rdb import models  # noqa: E402
from optuna.storages.journal import JournalFileBackend  # noqa: E402
from tests import postgres  # noqa: E402

from swathe.home import Home  # noqa: E402
from swathe.study import JOURNAL  # noqa: E402

NAME, TEMPLATE = "noop", "template_of_all"
STORAGES = ("journal", "sqlite", "postgresql")
# How many trials a session runs beside those that are there.
NEW = 4


def run(words: list[str], home: Path) -> None:
    """Run a command of Swathe; ends the benchmark with what it said where it fails."""
    environment = os.environ | QUIET | {"SWATHE_HOME": str(home)}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    command = [sys.executable, "-m", "swathe.cli", *words]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


def launch_words(trials: int, startup: int) -> list[str]:
    """Return the command of the sweep; TPE draws its first `startup` points at random, so that it is made fast."""
    sweep = str(ROOT / "benchmarks" / "noop.yaml")
    search = ["sampler=tpe", f"sampler.n_startup_trials={startup}", "pruner=asha"]
    return ["launch", sweep, "--quiet", *search, f"sweep.trials={trials}", f"sweep.name={NAME}"]


def first_report(home: Path, trials: int) -> float:
    """Return when (unix time, seconds) the first report of a trial came that was not there before."""
    query = """
        SELECT MIN(metrics.timestamp) FROM metrics JOIN tags ON tags.run_uuid = metrics.run_uuid
        WHERE metrics.key = 'val_loss' AND tags.key = 'swathe.trial' AND CAST(tags.value AS INTEGER) >= ?
    """
    with sqlite3.connect(home / "mlflow.db") as connection:
        return float(connection.execute(query, [trials]).fetchone()[0]) / 1000


def timed(words: list[str], home: Path, trials: int) -> dict[str, float]:
    """Run a session; returns its seconds to the first report and to its end."""
    began = time.time()
    run(words, home)
    return {"first_report": first_report(home, trials) - began, "whole": time.time() - began}


@dataclass(frozen=True, slots=True)
class Sweep:
    """A sweep that was made: its home, and where its trials are beside the journal."""

    home: Path
    sqlite: Path
    server: postgres.Server

    @contextmanager
    def copied(self, storage: str) -> Iterator[Path]:
        """Copy the home, its sweep on the storage."""
        with tempfile.TemporaryDirectory(prefix="resume-") as name:
            home = Path(name) / "home"
            shutil.copytree(self.home, home)
            folder = Home(home).sweep(NAME)
            card = folder.card()
            assert card is not None
            if storage != "journal":
                (folder.path / JOURNAL).unlink()
                url = self._database(storage, folder.path)
                folder.write_card(replace(card, storage=url, command=f"{card.command} sweep.storage={url}"))
            yield home

    def _database(self, storage: str, folder: Path) -> str:
        if storage == "sqlite":
            shutil.copy(self.sqlite, folder / "study.db")
            return f"sqlite:///{folder}/study.db"
        name = f"r{uuid.uuid4().hex}"
        with closing(psycopg.connect(self.server.url, autocommit=True)) as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE {TEMPLATE}'.encode())
        return self.server.database(name)


def copy_trials(journal: Path, url: str) -> None:
    """Copy the study to a new database: Optuna's tables filled at once, as its own copy takes minutes."""
    source = JournalStorage(JournalFileBackend(str(journal)))
    study = optuna.load_study(study_name=NAME, storage=source)
    database = RDBStorage(url.replace("postgresql://", "postgresql+psycopg://"))
    study_id = database.create_new_study(study.directions, NAME)
    rows: dict[type, list[dict[str, Any]]] = {table: [] for table in TABLES}
    for trial in study.get_trials(deepcopy=False):
        for table, row in table_rows(trial, study_id):
            rows[table].append({"trial_id": trial.number + 1, **row})
    with database.engine.begin() as connection:
        for table, several in rows.items():
            connection.execute(sqlalchemy.insert(table), several)
        if database.engine.dialect.name == "postgresql":
            connection.execute(
                sqlalchemy.text(
                    "SELECT setval(pg_get_serial_sequence('trials', 'trial_id'), MAX(trial_id)) FROM trials"
                )
            )
    database.remove_session()
    database.engine.dispose()


TABLES = (
    models.TrialModel,
    models.TrialParamModel,
    models.TrialValueModel,
    models.TrialIntermediateValueModel,
    models.TrialUserAttributeModel,
)


def table_rows(trial: optuna.trial.FrozenTrial, study_id: int) -> Iterator[tuple[type, dict[str, Any]]]:
    """Yield what Optuna's database keeps of a trial, as `RDBStorage` writes it; all its values are finite."""
    times = {"datetime_start": trial.datetime_start, "datetime_complete": trial.datetime_complete}
    yield models.TrialModel, {"number": trial.number, "study_id": study_id, "state": trial.state, **times}
    for name, value in trial.params.items():
        distribution = trial.distributions[name]
        kept = {"param_value": distribution.to_internal_repr(value), "distribution_json": to_json(distribution)}
        yield models.TrialParamModel, {"param_name": name, **kept}
    if trial.value is not None:
        finite = models.TrialValueModel.TrialValueType.FINITE
        yield models.TrialValueModel, {"objective": 0, "value": trial.value, "value_type": finite}
    for step, value in trial.intermediate_values.items():
        finite_step = models.TrialIntermediateValueModel.TrialIntermediateValueType.FINITE
        kept = {"intermediate_value": value, "intermediate_value_type": finite_step}
        yield models.TrialIntermediateValueModel, {"step": step, **kept}
    for key, attr in trial.user_attrs.items():
        yield models.TrialUserAttributeModel, {"key": key, "value_json": json.dumps(attr)}


def summary(times: list[dict[str, float]]) -> dict[str, Any]:
    return {
        "first_report_seconds": round(median(one["first_report"] for one in times), 2),
        "whole_seconds": round(median(one["whole"] for one in times), 2),
        "all_first_report_seconds": [round(one["first_report"], 2) for one in times],
    }


def repeated(times: int, session: Callable[[], dict[str, float]]) -> dict[str, Any]:
    return summary([session() for _ in range(times)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--home", type=Path, help="keep the sweep there, and go on with one that is there")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    trials = options.trials
    with tempfile.TemporaryDirectory(prefix="resume-") as name, postgres.server() as server:
        source = options.home or Path(name) / "source"
        if not source.exists():
            began = time.time()
            run(launch_words(trials, trials), source)
            print(f"A sweep of {trials:,} trials was made in {time.time() - began:.0f} s.", flush=True)
        sweep = Sweep(source, Path(name) / "study.db", server)
        for url in (f"sqlite:///{sweep.sqlite}", server.create_database(TEMPLATE)):
            copy_trials(Home(source).sweep(NAME).path / JOURNAL, url)
        ray = round(median(ray_alone() for _ in range(options.repeat)), 2)

        def launch() -> dict[str, float]:
            with tempfile.TemporaryDirectory(prefix="resume-") as empty:
                return timed(launch_words(NEW, trials), Path(empty), 0)

        # The first one warms the caches of both.
        launch()
        fresh = repeated(options.repeat, launch)
        print(
            f"Ray alone starts in {ray:.1f} s; an empty sweep reports {fresh['first_report_seconds']:.1f} s after its "
            "command"
        )
        rows = []
        for storage in STORAGES:

            def resume(storage: str = storage) -> dict[str, float]:
                with sweep.copied(storage) as home:
                    return timed(["resume", NAME, "--quiet", f"sweep.trials={trials + NEW}"], home, trials)

            row = {"storage": storage, "trials": trials, **repeated(options.repeat, resume)}
            row["beyond_launch_seconds"] = round(row["first_report_seconds"] - fresh["first_report_seconds"], 2)
            row["beyond_ray_seconds"] = round(row["first_report_seconds"] - ray, 2)
            rows.append(row)
            print(
                f"{storage}: the first report of a resumed sweep of {trials:,} trials comes after "
                f"{row['first_report_seconds']:.1f} s, {row['beyond_launch_seconds']:+.1f} s beside an empty one's and "
                f"{row['beyond_ray_seconds']:.1f} s beyond Ray's start",
                flush=True,
            )
    if trials != 10_000:
        return
    content = {"what": __doc__.splitlines()[0], "ray_seconds": ray, "empty": fresh, "rows": rows}
    content["machine"] = machine.describe("ray", "optuna", "mlflow", "torch")
    print(f"Written to {machine.write('resume', content).relative_to(ROOT)}")


if __name__ == "__main__":
    main()
