"""Single runs in MLflow: read for comparing and reproducing, written by `swathe train` and `swathe reproduce`."""

from __future__ import annotations

import math
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from swathe.errors import BadInputError, SwatheError
from swathe.events import Report
from swathe.tracking import VIEW_TAG, shown, with_driver


@dataclass(frozen=True, slots=True)
class TrialRun:
    """A run as MLflow has it: its last metrics, tags and parameters.

    `number`: the trial's, 0 for a run that is none. `state`: complete, pruned, failed, interrupted or running; the tag
    `swathe.state` says more (the step, the reason). `start`, `end`: unix times (seconds), `end` None while it runs.
    """

    number: int
    run_id: str
    state: str
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    params: Mapping[str, str]
    experiment_id: str = ""
    start: float = 0.0
    end: float | None = None


class Failure(NamedTuple):
    """Why a run failed: one line, and the whole traceback."""

    reason: str
    traceback: str


class Records:
    """MLflow at one URI; its first use imports MLflow, which takes seconds."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._connected: Any = None
        # MLflow's own store, where it is a database.
        self._store: Any = None

    def experiment_id(self, name: str) -> str:
        """Return the id of an experiment; raises `BadInputError` when there is none of this name."""
        return str(self._experiment(name).experiment_id)

    def has_view(self, experiment: str, sweep: str) -> bool:
        """Whether the recorder has made a view of the sweep's trials for MLflow's page of runs."""
        return f"{VIEW_TAG}.{sweep}" in self._experiment(experiment).tags

    def _experiment(self, name: str) -> Any:
        with self._answering():
            found = self._client().get_experiment_by_name(name)
        if found is None:
            raise BadInputError(f"Nothing is recorded yet: MLflow at {shown(self._uri)} has no experiment {name!r}.")
        return found

    def trial_runs(self, experiment: str, sweep: str) -> list[TrialRun]:
        """Return the runs of a sweep's trials, by trial number."""
        found = self._find(experiment, sweep, "")
        return sorted(found, key=lambda run: run.number)

    def trial(self, experiment: str, sweep: str, number: int) -> TrialRun:
        """Return one trial's run; raises `BadInputError` when there is none."""
        found = self._find(experiment, sweep, f" and tags.`swathe.trial` = '{number}'")
        if not found:
            raise BadInputError(f"Sweep {sweep!r} has no trial {number} in MLflow at {shown(self._uri)}.")
        return found[0]

    def sweep_metrics(self, experiment: str, sweep: str) -> dict[str, float]:
        """Return the last numbers of a sweep itself; raises `BadInputError` when nothing is recorded of it."""
        parent = self._parent(self.experiment_id(experiment), sweep)
        return {key: _number(value) for key, value in parent.data.metrics.items()}

    def sweep_tags(self, experiment: str, sweep: str) -> tuple[str, dict[str, str]]:
        """Return the id and the tags of a sweep's own run; raises `BadInputError` when nothing is recorded of it."""
        from swathe.mlflow_runs import join_tags

        parent = self._parent(self.experiment_id(experiment), sweep)
        return parent.info.run_id, join_tags(parent.data.tags)

    def annotate(self, run_id: str, tags: Mapping[str, str], removed: Sequence[str]) -> None:
        """Set tags of a run, and remove others that it has."""
        with self._answering():
            client = self._client()
            for name, value in tags.items():
                client.set_tag(run_id, name, value)
            for name in removed:
                client.delete_tag(run_id, name)

    def sweep_text(self, experiment: str, sweep: str, file: str) -> str:
        """Return an artifact of a sweep's own run; raises `SwatheError` when there is none of this name."""
        parent = self._parent(self.experiment_id(experiment), sweep)
        with self._answering(), tempfile.TemporaryDirectory() as folder:
            return Path(self._client().download_artifacts(parent.info.run_id, file, folder)).read_text()

    def log_sweep_text(self, experiment: str, sweep: str, file: str, text: str) -> str:
        """Keep a text as an artifact of a sweep's own run, and return the run's id."""
        parent = self._parent(self.experiment_id(experiment), sweep)
        with self._answering():
            self._client().log_text(parent.info.run_id, text, file)
        return str(parent.info.run_id)

    def run(self, run_id: str) -> TrialRun:
        """Return a run by its id; raises `BadInputError` when there is none."""
        with self._answering():
            client = self._client()
            from mlflow.exceptions import MlflowException

            try:
                return _trial_run(client.get_run(run_id))
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                raise BadInputError(f"MLflow at {shown(self._uri)} has no run {run_id!r}.") from error

    def siblings(self, run: TrialRun, numbers: Sequence[int]) -> list[TrialRun]:
        """Return the runs of the trials with these numbers in the sweep of a trial's run, as far as there are any."""
        with self._answering():
            client = self._client()
            from swathe.mlflow_runs import of_parent, search

            of_sweep = of_parent(run.tags["mlflow.parentRunId"])
            # MLflow knows no list of a tag's values.
            queries = (f"{of_sweep} and tags.`swathe.trial` = '{number}'" for number in numbers)
            return [_trial_run(one) for query in queries for one in search(client, run.experiment_id, query)]

    def history(self, run_id: str) -> dict[tuple[str, int], float]:
        """Return every number of a run by (metric, step), in the bits in which it was reported.

        MLflow keeps an infinity as the largest float64; it is read as the infinity that it was.
        """
        with self._answering():
            client = self._client()
            keys = client.get_run(run_id).data.metrics
            return {(key, m.step): _number(m.value) for key in keys for m in client.get_metric_history(run_id, key)}

    def histories(self, run_ids: Sequence[str], metric: str) -> dict[str, dict[int, float]]:
        """Return one metric of many runs by run id and step; runs that have none of it are left out.

        A database is asked once for hundreds of runs, a tracking server once for each.
        """
        with self._answering():
            client = self._client()
            from swathe.mlflow_runs import REQUESTS, read_metric

            found: dict[str, dict[int, float]] = {}
            if self._store is not None:
                for run_id, step, value in read_metric(self._store, run_ids, metric):
                    found.setdefault(run_id, {})[step] = _number(value)
                return found
            with ThreadPoolExecutor(REQUESTS) as pool:
                answers = pool.map(lambda run_id: client.get_metric_history(run_id, metric), run_ids)
                for run_id, history in zip(run_ids, answers, strict=True):
                    if history:
                        found[run_id] = {one.step: _number(one.value) for one in history}
            return found

    def log_run(
        self,
        experiment: str,
        name: str,
        reports: Sequence[Report],
        tags: Mapping[str, str],
        *,
        artifacts: Path,
        params: Mapping[str, object],
        failure: Failure | None = None,
    ) -> str:
        """Record a run that is over, and return its id; `artifacts` is where a database's artifacts go.

        With a `failure` it is recorded as failed, with the reason and, as an artifact, the traceback.
        """
        state = "complete" if failure is None else f"failed: {failure.reason}"
        tags = {"swathe.kind": "run", "swathe.state": state, **tags}
        return self._log(experiment, name, reports, tags, artifacts, params, failure)

    def log_reproduction(
        self, run: TrialRun, reports: Sequence[Report], tags: Mapping[str, str], *, identical: bool, close: bool = False
    ) -> str:
        """Record the second training of `run` beside it, each linked with the other; return the new run's id.

        `close`: not the same bits, but the same numbers up to rounding.
        """
        client = self._client()
        verdict = "identical" if identical else "close" if close else "different"
        kept = ("swathe.sweep", "swathe.trial", "swathe.metric", "swathe.config", "swathe.state", "mlflow.parentRunId")
        tags = {
            **{key: run.tags[key] for key in kept if key in run.tags},
            **tags,
            "swathe.kind": "reproduction",
            "swathe.reproduces": run.run_id,
            "swathe.reproduced": verdict,
        }
        with self._answering():
            experiment = client.get_experiment(run.experiment_id)
        name = f"reproduction of {run.tags.get('mlflow.runName', run.run_id)}"[:250]
        root = Path(experiment.artifact_location).parent
        run_id = self._log(experiment.name, name, reports, tags, root, run.params)
        with self._answering():
            client.set_tag(run.run_id, "swathe.reproduced_by", run_id)
            client.set_tag(run.run_id, "swathe.reproduced", verdict)
        return run_id

    def _log(
        self,
        experiment: str,
        name: str,
        reports: Sequence[Report],
        tags: Mapping[str, str],
        artifacts: Path,
        params: Mapping[str, object],
        failure: Failure | None = None,
    ) -> str:
        from swathe import mlflow_runs
        from swathe.mlflow_runs import Metric, RunChange, clean_name, split_tags

        ends = reports[-1].time if reports else time.time()
        change = RunChange(name, _ms(reports[0].time - reports[0].seconds if reports else ends))
        change.status = "FINISHED" if failure is None else "FAILED"
        change.end = _ms(ends)
        change.tags = split_tags({**mlflow_runs.source_tags(), **tags})
        change.params = {clean_name(key): str(value)[: mlflow_runs.PARAM_LENGTH] for key, value in params.items()}
        change.metrics = [
            Metric(clean_name(key), float(value), _ms(report.time), report.step)
            for report in reports
            for key, value in report.metrics.items()
        ]
        if "swathe.dataset" in tags and "swathe.dataset_digest" in tags:
            digest = tags["swathe.dataset_digest"][: mlflow_runs.DIGEST_LENGTH]
            change.dataset = tags["swathe.dataset"][:500], digest
        with self._answering():
            runs = mlflow_runs.open_runs(self._uri, experiment, artifacts)
            refused = runs.write([change])
            if refused:
                raise SwatheError(f"MLflow at {shown(self._uri)} refuses the run: {_first_line(refused[0].reason)}")
            if failure is not None:
                runs.client.log_text(change.run_id, failure.traceback, "traceback.txt")
        return change.run_id

    def _find(self, experiment: str, sweep: str, condition: str) -> list[TrialRun]:
        experiment_id = self.experiment_id(experiment)
        with self._answering():
            from swathe.mlflow_runs import search

            client = self._client()
            parent = self._parent(experiment_id, sweep)
            trials = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}' and tags.`swathe.kind` = 'trial'"
            return [_trial_run(run) for run in search(client, experiment_id, trials + condition)]

    def _parent(self, experiment_id: str, sweep: str) -> Any:
        with self._answering():
            from swathe.mlflow_runs import search

            parents = f"tags.`swathe.kind` = 'sweep' and tags.`swathe.sweep` = '{sweep}'"
            # The newest, where another folder has recorded a sweep of the same name in the same place.
            found = search(self._client(), experiment_id, parents, ["attributes.start_time DESC"])
            parent = next(iter(found), None)
        if parent is None:
            raise BadInputError(f"Nothing is recorded yet of sweep {sweep!r} in MLflow at {shown(self._uri)}.")
        return parent

    def _client(self) -> Any:
        if self._connected is None:
            self._connected = self._connect()
        return self._connected

    def _connect(self) -> Any:
        uri = with_driver(self._uri)
        if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
            raise BadInputError(f"Nothing is recorded yet: there is no MLflow database at {shown(self._uri)}.")
        from swathe import mlflow_runs

        with self._answering():
            if not uri.startswith(("http://", "https://")):
                # The recorder of a new folder may be making the tables at this moment: this waits for it.
                self._store = mlflow_runs.open_database(uri, Path(uri.removeprefix("sqlite:///")).parent / "artifacts")
            return mlflow_runs.connect(uri)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Turn what goes wrong while MLflow is asked into one sentence for the user."""
        # First of all imports of MLflow: it sets MLflow's environment, which keeps its log off the user's terminal.
        from swathe import mlflow_runs  # noqa: F401, isort: skip
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (MlflowException, SQLAlchemyError, OSError) as error:
            first = shown(_first_line(error))
            raise SwatheError(
                f"MLflow at {shown(self._uri)} does not answer: {type(error).__name__}: {first}"
            ) from error


def _trial_run(run: Any) -> TrialRun:
    from swathe.mlflow_runs import join_tags

    tags = join_tags(run.data.tags)
    return TrialRun(
        number=int(tags.get("swathe.trial", "0")),
        run_id=run.info.run_id,
        state=re.split(r"[ :]", tags.get("swathe.state", run.info.status.lower()), maxsplit=1)[0],
        metrics={key: _number(value) for key, value in run.data.metrics.items()},
        tags=tags,
        params=run.data.params,
        experiment_id=run.info.experiment_id,
        start=run.info.start_time / 1000,
        end=None if run.info.end_time is None else run.info.end_time / 1000,
    )


def _first_line(error: object) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]


def _number(value: float) -> float:
    from swathe.mlflow_runs import LARGEST

    return math.copysign(math.inf, value) if abs(value) == LARGEST else value


def _ms(moment: float) -> int:
    return int(moment * 1000)
