"""A sweep's trials in Optuna's storage: what is drawn, recorded, told and remembered.

The storage is the truth on trials. By default it is an Optuna journal file with group commit; a URL names a PostgreSQL
or SQLite database instead. Optuna's own tools (optuna-dashboard, `optuna.load_study`) read each of them at any time.
"""

from __future__ import annotations

import json
import logging
import math
import os
import random
import re
import sqlite3
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, QMCSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from sqlalchemy.engine import URL, make_url

from swathe.errors import BadInputError, SwatheError, bad_value
from swathe.events import Direction, Proposal, Proposed, TrialState, Value

JOURNAL = "journal.log"
# More points than a sweep can run, and as many as fit in memory easily.
MAX_GRID = 1_000_000
CONNECT_SECONDS = 5

_STATES = {
    TrialState.WAITING: optuna.trial.TrialState.WAITING,
    TrialState.RUNNING: optuna.trial.TrialState.RUNNING,
    TrialState.COMPLETE: optuna.trial.TrialState.COMPLETE,
    TrialState.PRUNED: optuna.trial.TrialState.PRUNED,
    TrialState.FAILED: optuna.trial.TrialState.FAIL,
}
_FROM_OPTUNA = {theirs: ours for ours, theirs in _STATES.items()}

Suggest = Callable[[str, BaseDistribution], Value]


class Parameter(Protocol):
    """One parameter of a space: how it is distributed, and under which conditions it exists."""

    @property
    def distribution(self) -> BaseDistribution: ...
    @property
    def conditions(self) -> Sized: ...


class SearchSpace(Protocol):
    """What a study must know of a space: it is walked by asking for one active parameter after the other."""

    @property
    def parameters(self) -> Mapping[str, Parameter]: ...
    def sample(self, suggest: Suggest) -> dict[str, Value]: ...


@dataclass(frozen=True, slots=True)
class PastTrial:
    """A trial as the storage remembers it: `value` is its objective, `values` what it reported by step."""

    number: int
    params: Mapping[str, Value]
    state: TrialState
    value: float | None
    values: Mapping[int, float]
    attrs: Mapping[str, Value]


class Study:
    """The trials of one sweep. One driver writes at a time (it holds the sweep's lock); anybody may read.

    A crash loses at most what came after the last `commit`. Trials that were running then are still running when the
    study is opened again, with their parameters and what they had reported.
    """

    def __init__(
        self,
        study: optuna.Study,
        store: _Store,
        *,
        space: SearchSpace | None = None,
        drawing: _Drawing | None = None,
    ) -> None:
        self._study = study
        self._store = store
        self._storage = store.storage
        self._study_id = store.storage.get_study_id_from_name(study.study_name)
        self._space = space
        self._drawing = drawing
        # Optuna's id of each trial that is not over, by number.
        self._ids: dict[int, int] = {}
        self._next = 0

    @classmethod
    def open(
        cls,
        name: str,
        *,
        folder: Path,
        storage: str | None,
        direction: Direction,
        sampler: Mapping[str, Any],
        space: SearchSpace,
        seed: int,
    ) -> Study:
        """Create the study or go on with it; the caller must be the only one who writes to it.

        `sampler` names one of random, tpe, cmaes, qmc, grid and gp, with Optuna's own options. What is drawn for a
        trial is a function of (seed, trial number, the trials before it), so that with one worker a sweep is
        repeatable, also over a resume. Trials enqueued from outside are drawn now. Raises `BadInputError`.
        """
        _be_quiet()
        drawing = _build_drawing(sampler, space, seed)
        with _refusing(storage):
            store = _open_store(storage, folder)
            try:
                optuna_study = _existing(name, store.storage) or optuna.create_study(
                    study_name=name, storage=store.storage, direction=direction.value, pruner=optuna.pruners.NopPruner()
                )
                study = cls(optuna_study, store, space=space, drawing=drawing)
                study._take_over(seed)
                study.commit()
            except BaseException:
                store.close()
                raise
        return study

    @classmethod
    def load(cls, name: str, *, folder: Path, storage: str | None) -> Study:
        """Open the study to read it, as it is now; one that its driver has not created yet reads as empty."""
        _be_quiet()
        path = folder / JOURNAL
        with _refusing(storage):
            if storage is not None:
                store = _open_store(storage, folder)
            elif path.exists():
                store = _Store(JournalStorage(JournalFileBackend(str(path))))
            else:
                store = _Store(optuna.storages.InMemoryStorage())
            study = _existing(name, store.storage)
        if study is None:
            store.close()
            store = _Store(optuna.storages.InMemoryStorage())
            study = optuna.create_study(study_name=name, storage=store.storage)
        return cls(study, store)

    @property
    def optuna_study(self) -> optuna.Study:
        """Optuna's own study, for its plots and importances."""
        return self._study

    def history(self) -> list[PastTrial]:
        """Return all trials by number; parameters of a trial that nobody has taken over yet may be missing."""
        return [
            PastTrial(
                number=trial.number,
                params=dict(trial.params),
                state=_FROM_OPTUNA[trial.state],
                value=trial.value,
                values=dict(trial.intermediate_values),
                attrs=dict(trial.user_attrs),
            )
            for trial in self._study.get_trials(deepcopy=False)
        ]

    def ask(self, count: int) -> Proposed:
        """Draw up to `count` points; fewer, and `exhausted`, only where a grid has no further one."""
        assert self._drawing is not None, "the study was loaded to be read"
        assert self._space is not None
        proposals: list[Proposal] = []
        with self._storing(), warnings.catch_warnings():
            # Optuna's on experimental options, SciPy's on the balance of a Sobol sequence.
            warnings.simplefilter("ignore")
            while len(proposals) < count and not self._drawing.exhausted:
                proposals.append(self._draw(self._drawing, self._space))
        return Proposed(tuple(proposals), exhausted=self._drawing.exhausted)

    def record(self, trial: int, step: int, value: float) -> None:
        """Write what a trial reported at one step; NaN and infinities are kept."""
        with self._storing():
            self._storage.set_trial_intermediate_value(self._ids[trial], step, float(value))

    def tell(self, trial: int, state: TrialState, value: float | None, attrs: Mapping[str, Value]) -> None:
        """End a trial. Only a complete trial must have a value, and only a finite one is kept.

        A diverged trial is told as pruned and then has none: Optuna's samplers would take NaN or an infinity for a
        result. Its reports tell what happened.
        """
        finite = value is not None and math.isfinite(value)
        if state is TrialState.COMPLETE and not finite:
            raise ValueError(f"trial {trial} cannot be complete with the objective {value}")
        trial_id = self._ids.pop(trial)
        kept = [float(value)] if value is not None and finite and state is not TrialState.FAILED else None
        with self._storing():
            # The attributes first: a trial that is over takes none.
            for key, attr in attrs.items():
                self._storage.set_trial_user_attr(trial_id, key, attr)
            self._storage.set_trial_state_values(trial_id, _STATES[state], kept)

    def commit(self) -> None:
        """Make sure that everything said so far outlives a crash of this machine; one fsync for all of it."""
        if self._store.journal is not None:
            with self._storing():
                self._store.journal.commit()

    def close(self) -> None:
        """Commit and let go of the storage."""
        try:
            self.commit()
        finally:
            self._store.close()

    # Drawing.

    def _draw(self, drawing: _Drawing, space: SearchSpace) -> Proposal:
        number, self._next = self._next, self._next + 1
        if isinstance(drawing, _Guided):
            self._study.sampler = drawing.sampler(number)
            trial = self._study.ask()
            self._ids[trial.number] = trial._trial_id
            return Proposal(trial.number, space.sample(partial(_suggest, trial)))
        # What needs no history is drawn first and written in one operation: the cost does not grow with the trials,
        # while Optuna's `ask` looks through all of them for one that is waiting.
        distributions: dict[str, BaseDistribution] = {}
        suggest = drawing.suggest(number, self._study)

        def note(name: str, distribution: BaseDistribution) -> Value:
            distributions[name] = distribution
            return suggest(name, distribution)

        params = space.sample(note)
        template = optuna.trial.create_trial(
            state=optuna.trial.TrialState.RUNNING, params=params, distributions=distributions
        )
        trial_id = self._storage.create_new_trial(self._study_id, template)
        number = self._storage.get_trial_number_from_id(trial_id)
        self._ids[number] = trial_id
        return Proposal(number, params)

    def _take_over(self, seed: int) -> None:
        """Learn what there is: trials that are not over, whose missing parameters are drawn at random, and the grid."""
        assert self._space is not None
        params: list[Mapping[str, Value]] = []
        for trial in self._study.get_trials(deepcopy=False):
            self._next = trial.number + 1
            if trial.state.is_finished():
                params.append(trial.params)
                continue
            self._ids[trial.number] = trial._trial_id
            if trial.state is optuna.trial.TrialState.WAITING:
                self._storage.set_trial_state_values(trial._trial_id, optuna.trial.TrialState.RUNNING)
            self._study.sampler = RandomSampler(_trial_seed(seed, trial.number))
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    params.append(self._space.sample(partial(_suggest, optuna.Trial(self._study, trial._trial_id))))
            except ValueError as error:
                raise BadInputError(
                    f"Trial {trial.number}, which was enqueued from outside, is not in the space: {error}"
                ) from error
        if isinstance(self._drawing, _Grid):
            self._drawing.leave_out(params)

    @contextmanager
    def _storing(self) -> Iterator[None]:
        try:
            yield
        except optuna.exceptions.UpdateFinishedTrialError:
            # Somebody ended the trial from outside (optuna-dashboard can): their word was first, and stays.
            pass
        except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError, OSError) as error:
            raise SwatheError(
                f"The study cannot be written ({_reason(error)}); when it can be, the same launch command goes on."
            ) from error


def check_storage(storage: str | None) -> None:
    """Refuse a storage URL that is malformed, of an unknown kind or that cannot be reached; a few seconds at most."""
    if storage is None:
        return
    with _refusing(storage):
        url = _parse(storage)
        if url.get_backend_name() == "sqlite":
            _check_sqlite(storage, Path(str(url.database)))
            return
        engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool, connect_args=_connect_args(url))
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text("SELECT 1"))


# Storage.


def check_sampler(sampler: Mapping[str, Any], space: SearchSpace) -> None:
    """Refuse options that the sampler does not have, and a space that it cannot draw from; raises `BadInputError`."""
    _build_drawing(sampler, space, 0)


def _be_quiet() -> None:
    optuna.logging.set_verbosity(logging.ERROR)


def _existing(name: str, storage: BaseStorage) -> optuna.Study | None:
    try:
        return optuna.load_study(study_name=name, storage=storage, pruner=optuna.pruners.NopPruner())
    except KeyError:
        return None


@dataclass(frozen=True, slots=True)
class _Store:
    """An open storage, and what has to be closed with it."""

    storage: BaseStorage
    journal: _Journal | None = None
    engine: sqlalchemy.Engine | None = None

    def close(self) -> None:
        self.storage.remove_session()
        if self.journal is not None:
            self.journal.close()
        if self.engine is not None:
            self.engine.dispose()


def _open_store(storage: str | None, folder: Path) -> _Store:
    """Open a database, or the sweep's journal to write to it."""
    if storage is None:
        journal = _Journal(folder / JOURNAL)
        return _Store(JournalStorage(journal), journal=journal)
    url = _parse(storage)
    options = {"pool_pre_ping": True, "connect_args": _connect_args(url)}
    database = RDBStorage(url.render_as_string(hide_password=False), engine_kwargs=options)
    # Optuna's own way to put its cache around the database.
    return _Store(optuna.storages.get_storage(database), engine=database.engine)


def _parse(storage: str) -> URL:
    try:
        url = make_url(storage)
    except (sqlalchemy.exc.ArgumentError, ValueError) as error:
        raise _bad_storage(storage, _KINDS) from error
    match url.drivername:
        case "postgresql" | "postgresql+psycopg":
            return url.set(drivername="postgresql+psycopg")
        case "sqlite" if url.database and url.database != ":memory:":
            return url
    raise _bad_storage(storage, _KINDS)


_KINDS = "postgresql://USER:PASSWORD@HOST:PORT/DATABASE, sqlite:///FILE, or null for a file in the sweep's own folder"


def _connect_args(url: URL) -> dict[str, Any]:
    return {"connect_timeout": CONNECT_SECONDS} if url.get_backend_name() == "postgresql" else {}


def _check_sqlite(storage: str, path: Path) -> None:
    """Look without creating the file."""
    if not path.exists():
        if not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
            raise _bad_storage(storage, f"a file in a folder that exists and can be written, unlike {path.parent}")
        return
    with sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True) as connection:
        connection.execute("PRAGMA schema_version")
    connection.close()


@contextmanager
def _refusing(storage: str | None) -> Iterator[None]:
    """Turn what goes wrong while a storage is opened into one sentence for the user."""
    try:
        yield
    except (
        sqlalchemy.exc.SQLAlchemyError,
        sqlite3.Error,
        optuna.exceptions.StorageInternalError,
        ImportError,
        RuntimeError,
        OSError,
    ) as error:
        if storage is None:
            raise SwatheError(f"The sweep's journal cannot be opened: {_reason(error)}.") from error
        raise _bad_storage(storage, f"a database that can be opened, unlike this one ({_reason(error)})") from error


def _bad_storage(storage: str, allowed: str) -> BadInputError:
    # Not by a parser: what cannot be parsed must not show its password either.
    masked = re.sub(r"(://[^:/]*):.*@", r"\1:***@", storage)
    return bad_value("sweep.storage", re.sub(r"(password=)[^&]*", r"\1***", masked), allowed)


def _reason(error: BaseException) -> str:
    """Return the first line of what the database itself said."""
    while isinstance(error, optuna.exceptions.StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    said = getattr(error, "orig", None) or error
    lines = str(said).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(said).__name__


class _Journal(BaseJournalBackend):
    """Optuna's journal file (one JSON object a line) with group commit, for one writer and one `JournalStorage`.

    Operations take effect in memory at once and reach the file, all together, at `commit`: one write, one fsync. An
    append of one write(2) is not torn by another's on a local file system, so that no lock file is needed, and none can
    be left behind by a crash. What others append (optuna-dashboard's notes) is taken in at the next commit.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        self._file = path.open("a+b", buffering=0)
        if is_new:
            _sync_folder(path.parent)
        self._lines: list[bytes] = []
        # Operations that the storage has not applied; the first of them has the number `_applied`.
        self._news: list[dict[str, Any]] = []
        self._applied = 0
        self._end: int | None = None

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        if self._end is None:
            yield from self._replay()
            return
        del self._news[: log_number_from - self._applied]
        self._applied = log_number_from
        yield from tuple(self._news)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        for log in logs:
            self._lines.append(json.dumps(log, separators=(",", ":")).encode() + b"\n")
            self._news.append(log)

    def commit(self) -> None:
        """Write what was appended; raises `OSError` when the disk does not take it."""
        if not self._lines:
            return
        content = b"".join(self._lines)
        file = self._file.fileno()
        written = os.write(file, content)
        end = os.lseek(file, 0, os.SEEK_CUR)
        if written < len(content):
            os.ftruncate(file, end - written)
            raise OSError(f"no space is left for {self._path}")
        os.fsync(file)
        self._lines.clear()
        self._take_in_others(end - written)
        self._end = end

    def close(self) -> None:
        self._file.close()

    def _replay(self) -> Iterator[dict[str, Any]]:
        """Yield what the file holds, and cut off what a crash has torn: lines at its end that were never committed."""
        good = 0
        torn: int | None = None
        self._file.seek(0)
        with open(self._file.fileno(), "rb", closefd=False) as file:
            for number, line in enumerate(file, start=1):
                log = _parse_line(line)
                if log is None:
                    torn = torn or number
                    continue
                if torn is not None:
                    raise SwatheError(f"{self._path} is damaged in line {torn}, and not only at its end.")
                good += len(line)
                self._applied += 1
                yield log
        if torn is not None:
            os.ftruncate(self._file.fileno(), good)
        self._end = good

    def _take_in_others(self, until: int) -> None:
        """Read what other programs have appended since our last commit."""
        assert self._end is not None
        if until <= self._end:
            return
        for line in os.pread(self._file.fileno(), until - self._end, self._end).splitlines(keepends=True):
            log = _parse_line(line)
            # Trials are numbered by their order in the file: ours would get others' reports.
            if log is None or log["op_code"] == _CREATE_TRIAL:
                raise SwatheError(f"Another program has written trials to {self._path} while this sweep was running.")
            self._news.append(log)


# Optuna's code for a new trial in a journal (optuna/storages/journal/_storage.py).
_CREATE_TRIAL = 4


def _parse_line(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        log = json.loads(line)
    except ValueError:
        return None
    return log if isinstance(log, dict) else None


def _sync_folder(path: Path) -> None:
    """Make a new file's name last."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


# Samplers.


class _Guided:
    """Points drawn by one of Optuna's samplers from the trials so far.

    A new sampler for each trial, with a seed of the trial's own, keeps nothing of the session: what it draws follows
    from the storage alone.
    """

    exhausted = False

    def __init__(self, sampler: Callable[[int], BaseSampler]) -> None:
        self.sampler = sampler


class _Random:
    """Independent draws."""

    exhausted = False

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def suggest(self, number: int, study: optuna.Study) -> Suggest:
        """Return what draws the values of one trial."""
        sampler = RandomSampler(_trial_seed(self._seed, number))
        nothing = optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING)
        return lambda name, distribution: sampler.sample_independent(study, nothing, name, distribution)


class _Grid:
    """Each point of a discrete space once, in an order shuffled by the seed."""

    def __init__(self, space: SearchSpace, seed: int) -> None:
        self._points = _enumerate(space)
        random.Random(seed).shuffle(self._points)
        self._points.reverse()

    @property
    def exhausted(self) -> bool:
        return not self._points

    def leave_out(self, past: Iterable[Mapping[str, Value]]) -> None:
        """Take out the points that were drawn before."""
        drawn = {_point_key(params) for params in past}
        self._points = [point for point in self._points if _point_key(point) not in drawn]

    def suggest(self, number: int, study: optuna.Study) -> Suggest:
        """Return what draws the values of one trial."""
        point = self._points.pop()
        return lambda name, distribution: point[name]


_Drawing = _Guided | _Random | _Grid


def _point_key(params: Mapping[str, Value]) -> str:
    return repr(sorted(params.items()))


def _enumerate(space: SearchSpace) -> list[dict[str, Value]]:
    """Return all points of a space: walk it again and again, each time with the last choice that can move on moved."""
    levels = {name: _levels(name, parameter.distribution) for name, parameter in space.parameters.items()}
    points: list[dict[str, Value]] = []
    path: list[int] = []
    while True:
        names: list[str] = []

        def suggest(
            name: str, distribution: BaseDistribution, path: list[int] = path, names: list[str] = names
        ) -> Value:
            names.append(name)
            if len(names) > len(path):
                path.append(0)
            return levels[name][path[len(names) - 1]]

        points.append(space.sample(suggest))
        if len(points) > MAX_GRID:
            raise bad_value("sampler.name", "grid", f"a space of at most {MAX_GRID} points, or another sampler")
        while path and path[-1] == len(levels[names[len(path) - 1]]) - 1:
            path.pop()
        if not path:
            return points
        path[-1] += 1


def _levels(name: str, distribution: BaseDistribution) -> list[Value]:
    """Return the values of a discrete distribution in order."""
    match distribution:
        case CategoricalDistribution():
            return list(distribution.choices)
        case IntDistribution():
            return list(range(distribution.low, distribution.high + 1, distribution.step))
        case FloatDistribution() if distribution.single():
            return [distribution.low]
        case FloatDistribution(step=float() as step):
            # Decimal, so that 0.1 * 3 is 0.3.
            low, high, width = (Decimal(str(number)) for number in (distribution.low, distribution.high, step))
            return [float(low + index * width) for index in range(int((high - low) / width) + 1)]
    raise bad_value(
        "sampler.name", "grid", f"a space without intervals, unlike {name}: use choice, range or a step there"
    )


def _suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> Value:
    match distribution:
        case CategoricalDistribution():
            return trial.suggest_categorical(name, distribution.choices)
        case IntDistribution(low=low, high=high, step=step, log=log):
            return trial.suggest_int(name, low, high, step=step, log=log)
        case FloatDistribution(low=low, high=high, step=step, log=log):
            return trial.suggest_float(name, low, high, step=step, log=log)
    raise TypeError(f"{name} has an unknown distribution: {distribution}")


def _trial_seed(seed: int, number: int) -> int:
    """Return the seed (32 bits) of what is drawn for one trial."""
    return random.Random(f"{seed} {number}").getrandbits(32)


def _is_count(least: int) -> Callable[[object], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


_FLAG = (lambda value: isinstance(value, bool), "true or false")
_COUNT = (_is_count(0), "an integer of at least 0")
_ONE_OR_MORE = (_is_count(1), "an integer of at least 1")
_OPTIONS: Mapping[str, Mapping[str, tuple[Callable[[object], bool], str]]] = {
    "random": {},
    "grid": {},
    "tpe": {
        "n_startup_trials": _COUNT,
        "n_ei_candidates": _ONE_OR_MORE,
        "multivariate": _FLAG,
        "group": _FLAG,
        "constant_liar": _FLAG,
    },
    "cmaes": {
        "n_startup_trials": _COUNT,
        "sigma0": (lambda value: value is None or _is_positive(value), "a number above 0, or null for Optuna's choice"),
        "popsize": (lambda value: value is None or _is_count(3)(value), "an integer of at least 3, or null"),
        "consider_pruned_trials": _FLAG,
        "use_separable_cma": _FLAG,
        "with_margin": _FLAG,
        "lr_adapt": _FLAG,
    },
    "qmc": {"qmc_type": (lambda value: value in ("sobol", "halton"), "sobol, halton"), "scramble": _FLAG},
    "gp": {"n_startup_trials": _COUNT, "deterministic_objective": _FLAG},
}


def _build_drawing(options: Mapping[str, Any], space: SearchSpace, seed: int) -> _Drawing:
    """Build what draws the points; the options are called as in Optuna.

    What Optuna's sampler cannot draw together with the rest (CMA-ES: categorical and conditional parameters; QMC and
    GP: conditional ones; all: the first trials) it draws at random, without a warning.
    """
    given = _check_options(options)
    # The options that must be the same for all trials of a sweep take this seed.
    base = random.Random(seed).getrandbits(32)

    def independent(number: int) -> BaseSampler:
        return RandomSampler(_trial_seed(seed, number))

    match options["name"]:
        case "random":
            return _Random(seed)
        case "grid":
            return _Grid(space, seed)
        case "tpe":
            # Groups are for parameters that are not always there, and are a form of the multivariate estimator.
            conditional = any(len(parameter.conditions) > 0 for parameter in space.parameters.values())
            given = {"multivariate": True, "group": True} | given
            given["group"] = given["group"] and given["multivariate"] and conditional
            return _Guided(lambda number: TPESampler(seed=_trial_seed(seed, number), **given))
        case "cmaes":
            quiet: dict[str, Any] = {"warn_independent_sampling": False}
            return _Guided(
                lambda number: CmaEsSampler(seed=base, independent_sampler=independent(number), **quiet, **given)
            )
        case "qmc":
            given.setdefault("scramble", True)
            quiet = {"warn_independent_sampling": False, "warn_asynchronous_seeding": False}
            return _Guided(
                lambda number: QMCSampler(seed=base, independent_sampler=independent(number), **quiet, **given)
            )
        case _:
            quiet = {"warn_independent_sampling": False}
            return _Guided(
                lambda number: GPSampler(
                    seed=_trial_seed(seed, number), independent_sampler=independent(number), **quiet, **given
                )
            )


def _check_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a sampler without its name; raises `BadInputError` for what it does not have."""
    name = options.get("name")
    known = _OPTIONS.get(name) if isinstance(name, str) else None
    if known is None:
        raise bad_value("sampler.name", name, ", ".join(_OPTIONS))
    given = {key: value for key, value in options.items() if key != "name"}
    for key, value in given.items():
        if key not in known:
            allowed = f"for {name}: {', '.join(known)}" if known else f"no option for {name}"
            raise bad_value(f"sampler.{key}", value, allowed)
        holds, allowed = known[key]
        if not holds(value):
            raise bad_value(f"sampler.{key}", value, allowed)
    return given
