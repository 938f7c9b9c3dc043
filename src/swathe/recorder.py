"""The recorder's own process: carries the spool to MLflow in batches, waits while MLflow is away, and catches up.

    python -m swathe.recorder SWEEP_FOLDER SESSION

Its input says when to look (a byte) and that the spool grows no more (its end: the driver is done, or dead); its
output tells the driver what the user must know, one JSON string a line.
"""

from __future__ import annotations

import fcntl
import importlib
import json
import logging
import os
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swathe.annotations import MLFLOW_NOTE, NOTE_TAG, with_note
from swathe.diagnosis import TAG
from swathe.leaving import end_with
from swathe.repetition import POINT_TAG, Repetition
from swathe.spool import Batch, SpoolReader, spool_folder
from swathe.tracking import FRONT_TAG, VIEW_TAG, shown

if TYPE_CHECKING:
    from swathe.mlflow_runs import Metric, Refused, RunChange, Runs

# Batches are at least so far apart while the sweep runs (seconds): what one trial did comes together in one write.
BATCH_SECONDS = 0.5
# How long to wait before MLflow is tried again (seconds), doubling.
FIRST_WAIT, LONGEST_WAIT = 0.5, 8.0
# How long a recorder whose driver has gone tries (seconds); the next session's recorder goes on with the spool.
PATIENCE = 120.0

_STATUS = {"complete": "FINISHED", "pruned": "FINISHED", "failed": "FAILED", None: "KILLED"}


class Sweep:
    """One sweep's runs in MLflow; nothing is asked of MLflow before something has to be written.

    What it remembers of MLflow (runs, their steps) is only to save questions: after a failure it is thrown away and
    asked again, so that a batch that MLflow took without saying so is not written twice.
    """

    def __init__(self, header: Mapping[str, Any]) -> None:
        self.header = header
        self._runs: Runs | None = None
        self._parent = ""
        # When the sweep began, in its first session (unix time, seconds).
        self._began = float(header["started"])
        self._ids: dict[int, str] = {}
        self._seen: dict[int, set[tuple[str, int]]] = {}

    def open(self) -> Runs:
        """Open MLflow, whose database and experiment are created if need be."""
        if self._runs is None:
            from swathe.mlflow_runs import open_runs

            self._runs = open_runs(self.header["uri"], self.header["experiment"], Path(self.header["artifact_folder"]))
        return self._runs

    def write(self, records: Sequence[Any]) -> list[str]:
        """Write records in order; return what MLflow will never take, in words. Raises when it cannot be reached."""
        runs, problems = self.open(), []
        if not self._parent:
            self._begin(runs)
        start = 0
        for index, record in enumerate(records):
            if record[0] == "finish":
                problems += self._write_trials(runs, records[start:index])
                problems += self._finish(runs, *record[1:])
                start = index + 1
        return problems + self._write_trials(runs, records[start:])

    # The parent run.

    def _begin(self, runs: Runs) -> None:
        from swathe.mlflow_runs import RunChange, source_tags, split_tags
        from swathe.provenance import git_state, package_versions

        header = self.header
        git = git_state(Path(header["workdir"]))
        tags = {
            **source_tags(),
            **header["tags"],
            "swathe.kind": "sweep",
            "swathe.sweep": header["name"],
            "swathe.sweep_id": header["id"],
            "swathe.metric": header["metric"],
            "swathe.direction": header["direction"],
            # Of an earlier version's spool it is not said.
            **({"swathe.other_metrics": ",".join(others)} if (others := header.get("others")) else {}),
        }
        if git is not None:
            tags |= {"mlflow.source.git.commit": git.commit, "swathe.git_dirty": str(bool(git.diff)).lower()}
        parent = RunChange(header["name"], _ms(header["started"]), status="RUNNING", tags=split_tags(tags))
        for found in self._parents(runs):
            children = runs.children(found.info.run_id)
            # Of two, the one without trials was made by a request whose answer was lost.
            if not parent.run_id or len(children) > len(self._ids):
                parent.run_id, self._ids = found.info.run_id, children
                self._began = found.info.start_time / 1000
        for refused in runs.write([parent]):
            raise OSError(f"MLflow refuses the sweep's run: {refused.reason}")
        files = {"config.yaml": header["config_yaml"], "versions.txt": package_versions()}
        if git is not None and git.diff:
            files["git.diff"] = git.diff
        _log_files(runs, parent.run_id, files)
        view = json.dumps(_view(header))
        runs.client.set_experiment_tag(runs.experiment_id, f"{VIEW_TAG}.{header['name']}", view)
        self._parent = parent.run_id

    def _parents(self, runs: Runs) -> Iterable[Any]:
        """Yield the runs of the sweep itself: one, unless a lost answer has left another."""
        from swathe.mlflow_runs import search

        query = f"tags.`swathe.sweep_id` = '{self.header['id']}' and tags.`swathe.kind` = 'sweep'"
        return search(runs.client, runs.experiment_id, query)

    def _remove_strays(self, runs: Runs) -> None:
        """Delete runs that a server made late, of requests that were given up and sent again: they run for ever.

        MLflow has no way to say which run a request means to make, so that none of both can be refused.
        """
        from swathe.mlflow_runs import of_parent, search

        running = search(
            runs.client, runs.experiment_id, f"{of_parent(self._parent)} and attributes.status = 'RUNNING'"
        )
        known = {self._parent, *self._ids.values()}
        for run in [*self._parents(runs), *running]:
            if run.info.run_id not in known:
                runs.client.delete_run(run.info.run_id)

    def _finish(self, runs: Runs, summary: Mapping[str, Any], now: float) -> list[str]:
        from swathe.mlflow_runs import Metric, RunChange, join_tags, split_tags

        self._remove_strays(runs)
        problems = []
        for what, log in (("plots", self._log_plots), ("best model", self._log_model)):
            try:
                log(runs, summary)
            except Exception as error:
                if _is_away(error) and not isinstance(error, FileNotFoundError):
                    raise
                # A sweep's record must not hang on a plot: the user is told, the log has it all.
                traceback.print_exc()
                problems.append(f"The {what} cannot be recorded: {type(error).__name__}: {error}")
        said = join_tags(runs.client.get_run(self._parent).data.tags).get(NOTE_TAG, "")
        tags = {MLFLOW_NOTE: with_note(said, summary["note_markdown"]), "swathe.reason": summary["reason"]}
        tags |= {f"swathe.count.{state}": str(count) for state, count in summary["counts"].items()}
        parent = RunChange(self.header["name"], 0, self._parent, status=summary["state"], end=_ms(now))
        if summary["best_trial"] is not None:
            tags["swathe.best_trial"] = str(summary["best_trial"])
            tags |= {f"swathe.best.{key}": str(value) for key, value in summary["best_params"].items()}
            name, value = f"best_{self.header['metric']}", summary["best_value"]
            step = sum(summary["counts"].values())
            parent.metrics = [Metric(_clean(name), float(value), _ms(now), step)]
            if (std := summary.get("best_std")) is not None:
                tags["swathe.best_trials"] = ",".join(map(str, summary["best_repeats"]))
                parent.metrics.append(Metric(_clean(f"{name}_std"), float(std), _ms(now), step))
        for name, value in summary.get("best_values", {}).items():
            step = sum(summary["counts"].values())
            parent.metrics.append(Metric(_clean(f"best_{name}"), float(value), _ms(now), step))
        if front := summary.get("front"):
            tags[FRONT_TAG] = ",".join(map(str, front))
            problems += self._mark_front(runs, front)
        problems += self._tag_points(runs, summary.get("points", {}))
        parent.metrics += self._sweep_metrics(summary.get("metrics", {}), now)
        parent.tags = {_clean(key): value for key, value in split_tags(tags).items()}
        return problems + _told(runs.write([parent]))

    def _mark_front(self, runs: Runs, front: Sequence[int]) -> list[str]:
        """Tag the runs of the front's trials, and no others: an earlier session may have had another front."""
        from swathe.mlflow_runs import RunChange, of_parent, search

        marked = search(runs.client, runs.experiment_id, f"{of_parent(self._parent)} and tags.`{FRONT_TAG}` = 'true'")
        wanted = {self._ids[number] for number in front if number in self._ids}
        before = {run.info.run_id for run in marked}
        for run_id in before - wanted:
            runs.client.delete_tag(run_id, FRONT_TAG)
        new = sorted(wanted - before)
        return _told(runs.write([RunChange("", 0, run_id, tags={FRONT_TAG: "true"}) for run_id in new]))

    def _tag_points(self, runs: Runs, points: Mapping[str, Mapping[str, str]]) -> list[str]:
        """Tag the runs of complete points' trials with what these are worth; the numbers are text, as JSON has them."""
        from swathe.mlflow_runs import RunChange

        known = ((self._ids.get(int(number), ""), tags) for number, tags in points.items())
        return _told(runs.write([RunChange("", 0, run_id, tags=dict(tags)) for run_id, tags in known if run_id]))

    def _sweep_metrics(self, metrics: Mapping[str, Any], moment: float) -> list[Metric]:
        """Return numbers of the sweep itself; their step is the time since it began (whole seconds)."""
        from swathe.mlflow_runs import Metric

        step = max(0, int(moment - self._began))
        return [Metric(_clean(name), float(value), _ms(moment), step) for name, value in metrics.items()]

    def _log_plots(self, runs: Runs, summary: Mapping[str, Any]) -> None:
        _import_optuna_s_plots()
        import optuna

        from swathe import plots
        from swathe.points import by_points
        from swathe.study import Study

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        folder = Path(self.header["folder"])
        study = Study.load(summary["study_name"], folder=folder, storage=summary["study_storage"])
        try:
            metric, others = self.header["metric"], self.header.get("others", ())
            repetition = Repetition(self.header.get("repeats", 1), self.header.get("repeats_of", "mean"))
            header, rows = plots.table(study.optuna_study, metric, others)
            files = {"trials.csv": plots.as_csv(header, rows), "trials.json": plots.as_mlflow_table(header, rows)}
            files["plots/plots.html"] = plots.page(by_points(study.optuna_study, repetition), metric, others)
        finally:
            study.close()
        _log_files(runs, self._parent, files)
        # By this tag MLflow's UI knows that trials.json is a table.
        tables = json.dumps([{"path": "trials.json", "type": "table"}])
        runs.client.set_tag(self._parent, "mlflow.loggedArtifacts", tables)

    def _log_model(self, runs: Runs, summary: Mapping[str, Any]) -> None:
        best, path = summary["best_trial"], summary["model_path"]
        if best is None or path is None or best not in self._ids:
            return
        from swathe.mlflow_models import log_champion

        log_champion(
            runs.client,
            parent=self._parent,
            trial=best,
            trial_run=self._ids[best],
            registered_name=self.header["name"],
            model_file=Path(path),
        )

    # Trials.

    def _write_trials(self, runs: Runs, records: Sequence[Any]) -> list[str]:
        changes, texts = self._fold(runs, records)
        problems = _told(runs.write([*changes.values(), *self._fold_sweep(records)]))
        for number, change in changes.items():
            if change.run_id:
                self._ids[number] = change.run_id
            if change.end is not None:
                self._seen.pop(number, None)
        for number, file, text in texts:
            if number in self._ids:
                runs.client.log_text(self._ids[number], text, file)
        return problems

    def _fold_sweep(self, records: Sequence[Any]) -> list[RunChange]:
        """Put together what the records say of the sweep itself: nothing, or one change."""
        from swathe.mlflow_runs import RunChange

        said = [rest for kind, *rest in records if kind == "sweep"]
        metrics = [metric for numbers, moment in said for metric in self._sweep_metrics(numbers, moment)]
        return [RunChange(self.header["name"], 0, self._parent, metrics=metrics)] if metrics else []

    def _fold(self, runs: Runs, records: Sequence[Any]) -> tuple[dict[int, RunChange], list[tuple[int, str, str]]]:
        """Put together what the records say of each trial."""
        changes: dict[int, RunChange] = {}
        texts = []
        for kind, number, *rest in records:
            match kind:
                case "sweep":
                    continue
                case "trial":
                    name, params, tags, moment = rest
                    change = self._change(changes, runs, number, name, moment)
                    change.name, change.status, change.end = name, "RUNNING", None
                    change.params |= {_clean(key): _param(value) for key, value in params.items()}
                    self._tag(change, {**tags, "swathe.state": "running"})
                case "metrics":
                    step, metrics, moment = rest
                    change = self._change(changes, runs, number, f"{number:04d}", moment)
                    self._add_metrics(change, self._seen[number], step, metrics, moment)
                case "end":
                    state, tags, moment = rest
                    change = self._change(changes, runs, number, f"{number:04d}", moment)
                    change.status, change.end = _STATUS[state], _ms(moment)
                    self._tag(change, tags)
                case "text":
                    texts.append((number, *rest))
        return changes, texts

    def _change(self, changes: dict[int, RunChange], runs: Runs, number: int, name: str, moment: float) -> RunChange:
        from swathe.mlflow_runs import RunChange, source_tags

        if number in changes:
            return changes[number]
        change = changes[number] = RunChange(name, _ms(moment), self._ids.get(number, ""))
        if number not in self._seen:
            self._seen[number] = runs.recorded(change.run_id) if change.run_id else set()
        if not change.run_id:
            change.tags = {
                **source_tags(),
                "mlflow.parentRunId": self._parent,
                "swathe.kind": "trial",
                "swathe.sweep": self.header["name"],
                "swathe.trial": str(number),
                "swathe.metric": self.header["metric"],
            }
        return change

    def _tag(self, change: RunChange, tags: Mapping[str, str]) -> None:
        from swathe.mlflow_runs import DIGEST_LENGTH, split_tags

        change.tags |= {_clean(key): value for key, value in split_tags(tags).items()}
        if "swathe.dataset" in tags and "swathe.dataset_digest" in tags:
            change.dataset = tags["swathe.dataset"][:500], tags["swathe.dataset_digest"][:DIGEST_LENGTH]

    def _add_metrics(
        self, change: RunChange, seen: set[tuple[str, int]], step: int, metrics: Mapping[str, Any], moment: float
    ) -> None:
        from swathe.mlflow_runs import Metric

        timestamp = _ms(moment)
        for name, value in metrics.items():
            key = _clean(name)
            # A trial that runs again, or a batch that comes again, says nothing new of a step that is there.
            if (key, step) not in seen:
                seen.add((key, step))
                change.metrics.append(Metric(key, float(value), timestamp, step))


def _view(header: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state of MLflow's page of runs that shows this sweep's trials: best first, with what was searched.

    Of several objectives the front comes first. The keys are those of a view that is shared from the page itself
    (MLflow 3.17); `swathe ui` opens it by its name.
    """
    metric, others = header["metric"], header.get("others", ())
    metrics = dict.fromkeys((metric, *others, "val_loss", "val_accuracy"))
    return {
        "searchFilter": f"tags.`swathe.kind` = 'trial' and tags.`swathe.sweep` = '{header['name']}'",
        "orderByKey": f"tags.`{FRONT_TAG}`" if others else f"metrics.`{metric}`",
        "orderByAsc": not others and header["direction"] == "minimize",
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": [
            "tags.`swathe.state`",
            f"tags.`{TAG}`",
            *([f"tags.`{FRONT_TAG}`"] if others else []),
            *(f"tags.`{POINT_TAG}{end}`" for end in ("", "_value", "_std") if header.get("repeats", 1) > 1),
            *(f"metrics.`{key}`" for key in metrics),
            *(f"params.`{_clean(key)}`" for key in header.get("space", ())),
        ],
        "runsPinned": [],
        "runsExpanded": {},
        "runsHidden": [],
        "viewMaximized": False,
    }


def _get_ready_to_finish() -> None:
    """Import what the end of a sweep needs, which takes seconds, while there is nothing else to do."""
    _import_optuna_s_plots()
    for name in ("swathe.plots", "swathe.study", "swathe.mlflow_models", "mlflow.pyfunc"):
        importlib.import_module(name)


def _import_optuna_s_plots() -> None:
    """Import Optuna's plots and importances without the libraries that only others of their kind use.

    Optuna does without a library that is not there; these two are, and take three seconds of a core, beside workers
    that train.
    """
    hidden = {name: None for name in ("matplotlib", "sklearn") if name not in sys.modules}
    sys.modules.update(hidden)  # type: ignore[arg-type]
    try:
        for name in ("optuna.visualization", "optuna.importance"):
            importlib.import_module(name)
    finally:
        for name in hidden:
            del sys.modules[name]


def _clean(name: str) -> str:
    from swathe.mlflow_runs import clean_name

    return clean_name(name)


def _param(value: Any) -> str:
    from swathe.mlflow_runs import PARAM_LENGTH

    return str(value)[:PARAM_LENGTH]


def _ms(moment: float) -> int:
    return int(moment * 1000)


def _told(refused: Sequence[Refused]) -> list[str]:
    return [f"MLflow refuses a part of run {change.name!r}: {_one_line(reason)}" for change, reason in refused]


def _one_line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def _log_files(runs: Runs, run_id: str, files: Mapping[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        runs.client.log_artifacts(run_id, folder)


def _is_away(error: Exception) -> bool:
    """Whether the error may be gone next time: a server or a database that does not answer, a disk that is full."""
    import sqlalchemy
    from mlflow.exceptions import MlflowException

    return isinstance(error, OSError | MlflowException | sqlalchemy.exc.SQLAlchemyError)


class Carrier:
    """Moves batches from the spool to MLflow until the driver is gone and nothing is left."""

    def __init__(self, folder: Path, session: int) -> None:
        self._folder = folder
        self._reader = SpoolReader(spool_folder(folder), session)
        self._sweep: Sweep | None = None
        self._ended = False
        self._troubled = False
        self._out = os.dup(1)
        # Whatever a library prints goes to the log: this process's output is a protocol.
        os.dup2(2, 1)

    def run(self) -> bool:
        """Carry on to the end; return whether MLflow has everything."""
        wait, deadline = FIRST_WAIT, float("inf")
        opened = False
        while True:
            # The end is looked for before the spool, so that what was flushed before it is seen.
            if not self._ended:
                self._listen(0.0)
            if self._ended and deadline == float("inf"):
                deadline = time.monotonic() + PATIENCE
            if self._reader.superseded():
                return False
            batch = self._reader.read()
            if batch is None and self._ended:
                self._reader.remove()
                return True
            try:
                if batch is not None:
                    self._carry(batch)
                elif not opened:
                    # MLflow is imported and its database made while the sweep's workers start.
                    self._sweep_of(self._reader.header()).open()
                opened = True
            except Exception as error:
                if not _is_away(error):
                    raise
                self._sweep = None
                self._tell_trouble(error)
                if time.monotonic() >= deadline:
                    return False
                time.sleep(min(wait, max(0.0, deadline - time.monotonic())))
                wait = min(2 * wait, LONGEST_WAIT)
                continue
            wait = FIRST_WAIT
            self._tell_recovery()
            if not self._ended:
                self._listen(0.0)
            if not self._ended:
                _get_ready_to_finish()
                if batch is None:
                    self._listen(None)
                self._pause()

    def _carry(self, batch: Batch) -> None:
        for problem in self._sweep_of(batch.header).write(batch.records):
            self._tell(problem)
        self._reader.done(batch)

    def _sweep_of(self, header: Mapping[str, Any]) -> Sweep:
        header = {**header, "folder": str(self._folder)}
        if self._sweep is None or self._sweep.header != header:
            self._sweep = Sweep(header)
        return self._sweep

    def _listen(self, timeout: float | None) -> None:
        """Wait for a byte of the driver at most `timeout` seconds, None: for ever; and notice the input's end."""
        ready, _, _ = select.select([0], [], [], timeout)
        if ready and not os.read(0, 1 << 16):
            self._ended = True

    def _pause(self) -> None:
        """Let a batch gather; the driver's end cuts it short."""
        until = time.monotonic() + BATCH_SECONDS
        while not self._ended and (left := until - time.monotonic()) > 0:
            self._listen(left)

    def _tell(self, sentence: str) -> None:
        with suppress(OSError):
            # The log may lie on a full disk, which is what the user is to be told.
            print(sentence, file=sys.stderr, flush=True)
        try:
            os.write(self._out, json.dumps(sentence).encode() + b"\n")
        except BrokenPipeError:
            # The driver is dead; the log has it.
            return

    def _tell_trouble(self, error: Exception) -> None:
        if self._troubled:
            return
        self._troubled = True
        reason = f"{type(error).__name__}: {_one_line(error)}"
        uri = shown(self._reader.header()["uri"])
        self._tell(f"MLflow at {uri} does not take the record ({reason}); it is kept on disk and follows later.")

    def _tell_recovery(self) -> None:
        if self._troubled:
            self._troubled = False
            self._tell("MLflow is back; the record catches up.")


def main() -> int:
    """Record one session of a sweep."""
    folder, session = Path(sys.argv[1]), int(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Workers come first: the spool can wait.
    os.nice(10)
    logging.basicConfig(level=logging.ERROR)
    with (spool_folder(folder) / "lock").open("w") as lock:
        # An older session's recorder that is still at it steps down when it sees the newer spool.
        fcntl.flock(lock, fcntl.LOCK_EX)
        return 0 if Carrier(folder, session).run() else 1


if __name__ == "__main__":
    # The driver waits for the end.
    end_with(main)
