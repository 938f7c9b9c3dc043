"""What the service reads: the sweeps of a home, each kept open so that a request reads only what is new of it.

Everything here blocks and may be called from many threads at once.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from swathe import analysis, versus
from swathe.errors import BadInputError, SwatheError
from swathe.home import Home, SweepCard, SweepFolder
from swathe.overview import Best, Overview, Row, Session
from swathe.points import by_points
from swathe.records import Records, TrialRun
from swathe.service.database_events import DatabaseSource
from swathe.service.spaces import importances
from swathe.study import JOURNAL, PastTrial, Study
from swathe.versus import Versus

# Sweeps that are kept open: one of 10,000 trials takes some 100 MB.
OPEN_SWEEPS = 8
# Small things that are kept: overviews, and connections to MLflow.
_OVERVIEWS, _CONNECTIONS = 1000, 16
# Runs of trials that are over, and the states of those.
_ENDED_RUNS, _ENDED = 256, frozenset({"complete", "pruned", "failed"})
# What is younger (seconds) is not looked at again, however many ask.
FRESH_SECONDS = 0.25
# The same for what takes long: a whole sweep's diagnosis, which asks MLflow for every trial.
FRESH_DIAGNOSIS_SECONDS = 10.0
# What share of the time such things may be made in, of each sweep.
MADE_SHARE = 0.05
# And for all runs of a sweep in MLflow.
FRESH_RUNS_SECONDS = 2.0

# Of all sweeps together, so that one which was closed and opened again has never an old one.
_versions = itertools.count(1)

K = TypeVar("K")
V = TypeVar("V")
# What tells whether a file has changed: its inode, size (bytes) and time of change (ns); empty where there is none.
Signature = tuple[int, ...]


class NoSuchSweepError(SwatheError):
    """There is no sweep of this name."""


class NoSuchRunError(SwatheError):
    """There is no run of this id in MLflow."""


class NoSuchTrialError(SwatheError):
    """The sweep has no trial of this number."""


def signature_of(path: Path) -> Signature:
    """Return what tells whether a file has changed."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns


class Recent(Generic[K, V]):
    """A mapping that forgets what was not asked for longest, and lets one thread make what many ask for."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._found: OrderedDict[K, V] = OrderedDict()

    def find(self, key: K) -> V | None:
        """Return what is kept under a key; None where nothing is."""
        with self._lock:
            return self._found.get(key)

    def get(self, key: K, make: Callable[[], V]) -> V:
        """Return what is kept under a key; `make`, which must be quick, is called where nothing is."""
        with self._lock:
            if key not in self._found:
                self._found[key] = make()
            self._found.move_to_end(key)
            while len(self._found) > self._size:
                self._found.popitem(last=False)
            return self._found[key]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A sweep at a moment: its trials by number, in the states that they are in, and who drives it.

    `version` changes with the trials; `signature` is what the journal's was before they were read. `place` is the id of
    the last event that they know; None where that is a place in the journal.
    """

    folder: SweepFolder
    card: SweepCard
    driver: Mapping[str, Any] | None
    history: Sequence[PastTrial]
    version: int
    signature: Signature
    session: Session | None = None
    place: str | None = None

    def trial(self, number: int) -> PastTrial:
        """Return one trial; raises `NoSuchTrialError`."""
        if 0 <= number < len(self.history):
            return self.history[number]
        raise NoSuchTrialError(f"Sweep {self.card.name!r} has no trial {number}; it has {len(self.history)}.")


class OpenSweep:
    """One sweep's study, kept open."""

    def __init__(self, folder: SweepFolder) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._study: Study | None = None
        self._card: SweepCard | None = None
        self._signature: Signature = ()
        self._history: Sequence[PastTrial] = ()
        self._said: Any = None
        self._source: DatabaseSource | None = None
        self._place: str | None = None
        self._version = 0
        self._looked = 0.0

    def snapshot(self, card: SweepCard) -> Snapshot:
        """Return the sweep as it is now; raises `SwatheError` for a study that cannot be read."""
        # Before the trials are read, as `analysis.leaders` does.
        driver = self._folder.driver()
        with self._lock:
            if time.monotonic() >= self._looked + FRESH_SECONDS or self._card != card:
                self._look(card)
                self._looked = time.monotonic()
            history = analysis.as_driven(self._history, driver)
            session = analysis.session_of(self._said, driver)
            return Snapshot(self._folder, card, driver, history, self._version, self._signature, session, self._place)

    def importances(self, card: SweepCard) -> dict[str, float]:
        """Return how much each parameter matters, see `spaces.importances`."""
        self.snapshot(card)
        with self._lock:
            return {} if self._study is None else importances(by_points(self._study.optuna_study, card.repetition))

    def _look(self, card: SweepCard) -> None:
        signature = signature_of(self._folder.path / JOURNAL)
        if self._study is not None and self._card == card and signature == self._signature and card.storage is None:
            return
        # A file or database that had no study may have got one meanwhile, of which what was opened knows nothing.
        known = bool(self._history)
        grown = bool(signature) and self._signature[:1] == signature[:1] and self._signature[1] <= signature[1]
        grown = known and (grown or card.storage is not None)
        if self._study is None or self._card != card or not grown:
            self._open(card)
        assert self._study is not None
        self._place = None if self._source is None else str(self._source.end())
        try:
            history = self._study.history(self._history)
            self._said = self._study.session
        except SwatheError:
            self._close()
            raise
        except (ValueError, LookupError, TypeError, AttributeError, AssertionError):
            # A study that was deleted meanwhile, or a damaged line: opening it anew says what it is.
            self._open(card)
            history = self._study.history()
            self._said = self._study.session
        self._history, self._signature, self._version = history, signature, next(_versions)

    def _open(self, card: SweepCard) -> None:
        self._close()
        self._study = Study.load(card.name, folder=self._folder.path, storage=card.storage)
        self._source = None if card.storage is None else DatabaseSource(card)
        self._card = card

    def _close(self) -> None:
        if self._study is not None:
            self._study.close()
        if self._source is not None:
            self._source.close()
        self._source = None
        self._study, self._signature, self._history = None, (), ()


@dataclass(slots=True)
class _Made:
    """Something that takes long to make: made once for all who ask meanwhile."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    version: int = -1
    at: float = -FRESH_DIAGNOSIS_SECONDS
    fresh: float = FRESH_DIAGNOSIS_SECONDS
    value: Any = None


class Sweeps:
    """The sweeps of a home, for many readers."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._open: Recent[str, OpenSweep] = Recent(OPEN_SWEEPS)
        self._overviews: Recent[tuple[Any, ...], Overview] = Recent(_OVERVIEWS)
        self._records: Recent[str, Records] = Recent(_CONNECTIONS)
        self._diagnoses: Recent[str, _Made] = Recent(OPEN_SWEEPS)
        self._importances: Recent[str, _Made] = Recent(OPEN_SWEEPS)
        self._runs: Recent[str, _Made] = Recent(OPEN_SWEEPS)
        self._ended_runs: Recent[tuple[str, str, float, int], TrialRun] = Recent(_ENDED_RUNS)
        self._lanes: Recent[str, _Made] = Recent(_OVERVIEWS)

    def names(self) -> list[str]:
        """Return the names of the sweeps, sorted."""
        return [folder.name for folder in self.home.sweeps()]

    def find(self, name: str) -> tuple[SweepFolder, SweepCard]:
        """Return a sweep's folder and card; raises `NoSuchSweepError`, and `BadInputError` for what is no name."""
        folder = self.home.sweep(name)
        card = folder.card()
        if card is None:
            raise NoSuchSweepError(self._none_of(name))
        return folder, card

    def _none_of(self, name: str) -> str:
        """Return what the command line says of a sweep that is not there."""
        try:
            self.home.existing(name)
        except BadInputError as error:
            return str(error)
        return f"Sweep {name!r} was launched at this moment; ask again."

    def snapshot(self, name: str) -> Snapshot:
        """Return a sweep as it is now, at most `FRESH_SECONDS` old."""
        folder, card = self.find(name)
        return self._open.get(name, partial(OpenSweep, folder)).snapshot(card)

    def overview(self, name: str) -> tuple[SweepCard, Overview, bool]:
        """Return a sweep's card, how it stands, and whether a driver is alive."""
        # Before anything is read: what changes meanwhile is read, and kept under what was there before, at worst.
        folder = self.home.sweep(name)
        facts = (name, signature_of(folder.card_file), signature_of(folder.path / "ending.json"))
        _, card = self.find(name)
        driver = folder.driver()
        if card.storage is None:
            kept = self._overviews.find((*facts, str(driver), signature_of(folder.path / JOURNAL)))
            if kept is not None:
                return card, kept, driver is not None
        now = self.snapshot(name)
        # The trials may be older than the journal is by now, and are kept under what it was then.
        key = (*facts, str(now.driver), now.signature or now.version)
        made = partial(analysis.summary, self.home, name, now.card, now.history, now.driver, now.session)
        return now.card, self._overviews.get(key, made), now.driver is not None

    def records(self, card: SweepCard) -> Records:
        """Return the record of a sweep, the same connection for all sweeps that are recorded in one place."""
        return self._records.get(card.tracking_uri, partial(Records, card.tracking_uri))

    def run_of(self, card: SweepCard, number: int) -> TrialRun:
        """Return a trial's run in MLflow; raises `BadInputError` where it is not recorded (yet)."""
        key = (card.tracking_uri, card.name, card.created, number)
        known = self._ended_runs.find(key)
        if known is not None:
            return known
        found = self.records(card).trial(card.experiment, card.name, number)
        # One that is over is written no more.
        return self._ended_runs.get(key, lambda: found) if found.state in _ENDED else found

    def best(self, name: str, trial: int | None = None) -> Best:
        """Return the best trial, or the one named; raises `BadInputError` where there is none."""
        now = self.snapshot(name)
        return analysis.best_of(now.card, now.history, partial(self.run_of, now.card), trial)

    def curve(self, name: str, number: int, metric: str | None) -> tuple[str, Mapping[int, float]]:
        """Return a metric of a trial by step, the sweep's own if none is named; empty where it reported none."""
        now = self.snapshot(name)
        trial = now.trial(number)
        if metric is None or metric == now.card.metric:
            return now.card.metric, trial.values
        run = self.run_of(now.card, number)
        return metric, self.records(now.card).histories([run.run_id], metric).get(run.run_id, {})

    def compared(self, name: str, *, top: int, sort: str | None) -> tuple[str, list[Row]]:
        """Return by what a sweep's best trials are sorted, and them as MLflow has them."""
        now = self.snapshot(name)
        made = self._runs.get(name, _Made)
        with made.lock:
            # Also where the study is as it was: MLflow may get a trial's numbers later.
            if time.monotonic() >= made.at + FRESH_RUNS_SECONDS:
                made.value = self.records(now.card).trial_runs(now.card.experiment, name)
                made.at = time.monotonic()
            runs = made.value
        return sort or now.card.metric, analysis.compare_of(now.card, now.history, runs, top=top, sort=sort)

    def versus(self, names: Sequence[str]) -> Versus:
        """Return several sweeps side by side, see `versus.stand`."""
        versus.check(names)
        now = [self.snapshot(name) for name in names]
        versus.refuse_unlike([one.card for one in now])
        configs = [versus.config_of(one.folder) for one in now]
        return versus.stand([one.card for one in now], [one.history for one in now], configs)

    def lanes(self, name: str, *, alive: bool) -> dict[str, float]:
        """Return how full the lanes of a sweep that is over were; a driver that is alive says it in its session."""
        if alive:
            return {}
        return self._made(self._lanes, name, partial(analysis.lanes, self.home, name))

    def run_diagnosis(self, run_id: str) -> dict[str, Any]:
        """Return what `swathe diagnose` says of a run; raises `NoSuchRunError`."""
        from swathe import diagnosed

        try:
            records, run = analysis.find_run(self.home, run_id)
        except BadInputError as error:
            raise NoSuchRunError(str(error)) from error
        return diagnosed.diagnosed_run(self.home, records, run).as_dict()

    def trial_diagnosis(self, name: str, number: int) -> dict[str, Any]:
        """Return what `swathe diagnose` says of one trial; raises `BadInputError` where it is not recorded (yet)."""
        from swathe import diagnosed

        now = self.snapshot(name)
        now.trial(number)
        return diagnosed.diagnosed_run(self.home, self.records(now.card), self.run_of(now.card, number)).as_dict()

    def diagnosis(self, name: str) -> dict[str, Any]:
        """Return what `swathe diagnose` says of a sweep, at most `FRESH_DIAGNOSIS_SECONDS` old."""
        from swathe import diagnosed

        return self._made(self._diagnoses, name, lambda: diagnosed.sweep_findings(self.home, name).as_dict())

    def importance(self, name: str) -> tuple[SweepCard, dict[str, float]]:
        """Return a sweep's card and how much each parameter matters, at most `FRESH_DIAGNOSIS_SECONDS` old."""
        folder, card = self.find(name)
        opened = self._open.get(name, partial(OpenSweep, folder))
        return card, self._made(self._importances, name, lambda: opened.importances(card))

    def _made(self, kept: Recent[str, _Made], name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        made = kept.get(name, _Made)
        with made.lock:
            version = self.snapshot(name).version
            began = time.monotonic()
            if made.version != version and began >= made.at + made.fresh:
                made.value = make()
                made.version, made.at = version, time.monotonic()
                # What takes long is made less often, so that other requests get their share.
                made.fresh = max(FRESH_DIAGNOSIS_SECONDS, (made.at - began) / MADE_SHARE)
            return made.value  # type: ignore[no-any-return]
