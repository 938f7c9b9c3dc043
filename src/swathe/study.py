"""A sweep's trials in Optuna's storage: what is drawn, recorded, told and remembered.

The storage is the truth on trials. By default it is an Optuna journal file with group commit; a URL names a PostgreSQL
or SQLite database instead. Optuna's own tools (optuna-dashboard, `optuna.load_study`) read each of them at any time.
"""

from __future__ import annotations

import gc
import json
import logging
import math
import os
import re
import sqlite3
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from sqlalchemy.engine import URL, make_url

from swathe import samplers
from swathe.enqueued import ENQUEUED, Point
from swathe.errors import BadInputError, SwatheError, bad_value
from swathe.events import Direction, Proposal, Proposed, TrialState, Value
from swathe.journal import Journal, JournalReader
from swathe.points import CONSTRAINTS, FROM_OPTUNA, TO_OPTUNA
from swathe.pruners import Rungs
from swathe.repetition import Repetition
from swathe.samplers import SearchSpace, suggest_from

JOURNAL = "journal.log"
CONNECT_SECONDS = 5
# The study's attribute that has what its driver says of its session.
SESSION = "session"


@dataclass(frozen=True, slots=True)
class PastTrial:
    """A trial as the storage remembers it: `value` is its objective, `values` what it reported by step.

    Of several objectives these are the first, and `objectives` all of a complete trial; of one it is empty. `feasible`:
    whether it keeps the sweep's constraints, as far as there are any.
    """

    number: int
    params: Mapping[str, Value]
    state: TrialState
    value: float | None
    values: Mapping[int, float]
    attrs: Mapping[str, Value]
    # Unix time (seconds); of two trials that are otherwise the same nobody asks which ended first.
    ended: float | None = field(default=None, compare=False)
    objectives: tuple[float, ...] = ()
    feasible: bool = True


@dataclass(frozen=True, slots=True)
class Foretold:
    """How a trial ends at its report of `step`, noted before the report; `tags` are those of its end in MLflow."""

    step: int
    state: TrialState
    value: float | None
    attrs: Mapping[str, Value]
    tags: Mapping[str, str]
    constraints: Mapping[str, float] = field(default_factory=dict)


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
        drawing: samplers.Drawing | None = None,
        points: Iterable[Point] = (),
        repetition: Repetition | None = None,
    ) -> None:
        self._study = study
        self._store = store
        self._storage = store.storage
        self._study_id = store.storage.get_study_id_from_name(study.study_name)
        self._objectives = len(study.directions)
        self._space = space
        self._drawing = drawing
        self._repetition = repetition or Repetition()
        # Optuna's id of each trial that is not over, by number.
        self._ids: dict[int, int] = {}
        # Trials that an earlier session had left without the end that their last report gave them; they have it now.
        self.made_up: dict[int, Foretold] = {}
        self._next = 0
        # The points to try before anything is drawn, in order, and the ids of those that a trial has.
        self._points = deque(points)
        self._taken: set[str] = set()

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
        group: int = 1,
        structural: Callable[[str], bool] = lambda name: False,
        others: Sequence[Direction] = (),
        points: Iterable[Point] = (),
        known: samplers.Known | None = None,
        repetition: Repetition | None = None,
    ) -> Study:
        """Create the study or go on with it; the caller must be the only one who writes to it.

        `others`: the directions of further objectives, where there are several. `sampler` names one of random, tpe,
        cmaes, qmc, grid, gp, nsga2 and nsga3, with Optuna's own options. What is drawn for a trial is a function of
        (seed, trial number, the trials before it), so that with one worker a sweep is repeatable, also over a resume.
        Trials enqueued from outside are drawn now. `group` consecutive trials have the values of their parameters in
        common that are `structural` (by name), where the sampler can do so. The first trials take the values of
        `points`, one each; `known` is what the sampler may use beside the study. With a `repetition` of several trials
        a point, its first trial is drawn and the others have the same parameters; `group` counts trials all the same.
        Raises `BadInputError`.
        """
        _be_quiet()
        if repetition is not None:
            minimize = direction is Direction.MINIMIZE
            known = replace(known or samplers.Known(), repetition=repetition, minimize=minimize)
        drawing = samplers.build(sampler, space, seed, _groups(space, group, structural), known)
        with _refusing(storage):
            store = _open_store(storage, folder)
            try:
                optuna_study = _existing(name, store.storage) or optuna.create_study(
                    study_name=name,
                    storage=store.storage,
                    directions=[one.value for one in (direction, *others)],
                    pruner=optuna.pruners.NopPruner(),
                )
                study = cls(optuna_study, store, space=space, drawing=drawing, points=points, repetition=repetition)
                with _uncollected():
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
                store = _Store(_replay(JournalReader(path), path))
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

    @property
    def warning(self) -> str | None:
        """What was wrong with the storage and has been mended when it was opened, in one sentence."""
        cut = None if self._store.journal is None else self._store.journal.cut
        if cut is None:
            return None
        line, size = cut
        return f"A crash has left half a line at the end of {JOURNAL} (line {line}, {size} bytes): it is cut off."

    @property
    def writes_at_once(self) -> bool:
        """Whether what is said lasts without a `commit`: in a database each operation does."""
        return self._store.journal is None

    def history(self, known: Sequence[PastTrial] = ()) -> list[PastTrial]:
        """Return all trials by number; parameters of a trial that nobody has taken over yet may be missing.

        `known`: an earlier history of this study, whose trials that are over are returned as they are.
        """
        with _uncollected():
            trials = self._study.get_trials(deepcopy=False)
        over = {past.number: past for past in known if past.state.final}
        return [over.get(trial.number) or _past(trial) for trial in trials]

    def ask(self, count: int) -> Proposed:
        """Draw up to `count` points; fewer, and `exhausted`, only where a grid has no further one."""
        assert self._drawing is not None, "the study was loaded to be read"
        assert self._space is not None
        proposals: list[Proposal] = []
        with self._storing(), warnings.catch_warnings():
            # Optuna's on experimental options, SciPy's on the balance of a Sobol sequence.
            warnings.simplefilter("ignore")
            while len(proposals) < count and not self._is_exhausted(self._drawing):
                proposals.append(self._draw(self._drawing, self._space))
        return Proposed(tuple(proposals), exhausted=self._is_exhausted(self._drawing))

    def _is_exhausted(self, drawing: samplers.Drawing) -> bool:
        whole = self._next == self._repetition.head(self._next)
        return whole and drawing.exhausted and not self._points

    def enqueue(self, point: Point) -> None:
        """Let the next trial that is drawn, after those enqueued before, take a point, unless one has it already."""
        if point.id not in self._taken:
            self._points.append(point)

    @property
    def taken(self) -> Set[str]:
        """The ids of the points that trials have taken; what was committed since is there to stay."""
        return self._taken

    def params(self, trial: int) -> Mapping[str, Value]:
        """Return the parameters of a trial that was drawn, whether it is over or not."""
        with self._storing():
            trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, trial)
            return dict(self._storage.get_trial(trial_id).params)

    def record(self, trial: int, step: int, value: float) -> None:
        """Write what a trial reported at one step; NaN and infinities are kept."""
        with self._storing():
            self._storage.set_trial_intermediate_value(self._ids[trial], step, float(value))

    def tell(
        self,
        trial: int,
        state: TrialState,
        value: float | None,
        attrs: Mapping[str, Value],
        *,
        objectives: Sequence[float] = (),
        constraints: Mapping[str, float] | None = None,
    ) -> None:
        """End a trial. Only a complete trial must have a value, and only a finite one is kept.

        A diverged trial is told as pruned and then has none: Optuna's samplers would take NaN or an infinity for a
        result. Its reports tell what happened. Of several objectives `objectives` are all, which only a complete trial
        has. `constraints`: violations by name, which are kept in their order as Optuna's samplers keep those of a
        `constraints_func`: in the form that optuna-dashboard reads, too.
        """
        given = [value] if self._objectives == 1 and value is not None else list(objectives)
        finite = len(given) == self._objectives and all(map(math.isfinite, given))
        if state is TrialState.COMPLETE and not finite:
            raise ValueError(f"trial {trial} cannot be complete with the objective {given or value}")
        trial_id = self._ids.pop(trial)
        kept = [float(one) for one in given] if finite and state is not TrialState.FAILED else None
        with self._storing():
            # The attributes first: a trial that is over takes none.
            for key, attr in attrs.items():
                self._storage.set_trial_user_attr(trial_id, key, attr)
            if constraints:
                self._storage.set_trial_system_attr(trial_id, CONSTRAINTS, list(constraints.values()))
            self._storage.set_trial_state_values(trial_id, TO_OPTUNA[state], kept)

    def note(self, trial: int, key: str, value: Value) -> None:
        """Write a fact on a trial that is not over."""
        with self._storing():
            self._storage.set_trial_user_attr(self._ids[trial], key, value)

    def say(self, session: Mapping[str, Any]) -> None:
        """Write what the driver says of the session that runs, in place of what it said before."""
        with self._storing():
            self._storage.set_study_user_attr(self._study_id, SESSION, dict(session))

    @property
    def session(self) -> Any:
        """What a driver said last, see `say`; None where none ever did."""
        return self._study.user_attrs.get(SESSION)

    def foretell(self, trial: int, end: Foretold) -> None:
        """Note how a trial ends at the report that is written next, for the case that its end is not written any more.

        The report and the end are two operations on a database, while a journal takes both in one write. What decided
        was asked once, with the reports that there were: whoever goes on with the sweep could not ask it again.
        """
        text = json.dumps({**asdict(end), "state": end.state.value})
        with self._storing():
            self._storage.set_trial_user_attr(self._ids[trial], _FORETOLD, text)

    def commit(self) -> None:
        """Make sure that everything said so far outlives a crash of this machine; one fsync for all of it."""
        if self._store.journal is not None:
            with self._storing():
                self._store.journal.commit()

    def discard(self) -> None:
        """Take the study with all its trials out of the storage; only `close` may follow."""
        with self._storing():
            self._storage.delete_study(self._study_id)

    def close(self) -> None:
        """Commit and let go of the storage."""
        try:
            self.commit()
        finally:
            self._store.close()

    # Drawing.

    def _draw(self, drawing: samplers.Drawing, space: SearchSpace) -> Proposal:
        number, self._next = self._next, self._next + 1
        if number != self._repetition.head(number):
            return self._repeat(number, space)
        point = self._points.popleft() if self._points else None
        if point is not None:
            self._taken.add(point.id)
        if isinstance(drawing, samplers.Guided):
            if point is not None:
                # Optuna's own way: the trial is there with its values at once, and `ask` takes it.
                self._study.enqueue_trial(dict(point.values), user_attrs={ENQUEUED: point.id})
            self._study.sampler = drawing.sampler(number, self._head(drawing.groups, number))
            trial = self._study.ask()
            self._check_number(trial.number, number)
            self._ids[trial.number] = trial._trial_id
            return Proposal(trial.number, space.sample(partial(suggest_from, trial)))
        # What needs no history is drawn first and written in one operation: the cost does not grow with the trials,
        # while Optuna's `ask` looks through all of them for one that is waiting.
        distributions: dict[str, BaseDistribution] = {}
        suggest = drawing.suggest(number, self._study, {} if point is None else point.values)

        def note(name: str, distribution: BaseDistribution) -> Value:
            distributions[name] = distribution
            return suggest(name, distribution)

        params = space.sample(note)
        template = optuna.trial.create_trial(
            state=optuna.trial.TrialState.RUNNING,
            params=params,
            distributions=distributions,
            user_attrs=None if point is None else {ENQUEUED: point.id},
        )
        return Proposal(self._create(template, number), params)

    def _create(self, template: optuna.trial.FrozenTrial, expected: int) -> int:
        trial_id = self._storage.create_new_trial(self._study_id, template)
        number = self._storage.get_trial_number_from_id(trial_id)
        self._check_number(number, expected)
        self._ids[number] = trial_id
        return number

    def _repeat(self, number: int, space: SearchSpace) -> Proposal:
        """Create a trial that has the parameters of its point's first one."""
        head = self._repetition.head(number)
        first = self._storage.get_trial(self._storage.get_trial_id_from_study_id_trial_number(self._study_id, head))
        params = space.sample(lambda name, _: first.params[name])
        template = optuna.trial.create_trial(
            state=optuna.trial.TrialState.RUNNING,
            params=params,
            distributions={name: first.distributions[name] for name in params},
        )
        return Proposal(self._create(template, number), params)

    def _check_number(self, number: int, expected: int) -> None:
        """Refuse to go on where somebody else has added a trial, as a trial's number says which point it is of."""
        if self._repetition.several and number != expected:
            raise SwatheError(
                f"Trial {expected} of the study was added from outside while the sweep ran, in which sweep.repeats="
                f"{self._repetition.count} trials are one point: `swathe enqueue` adds points. The same launch command "
                "goes on."
            )

    def _head(self, groups: samplers.Groups, number: int) -> Mapping[str, Value]:
        """Return the parameters of the first trial of a trial's group.

        None for that one itself, if it is gone, or if it took a point: a group is not to share what nobody drew.
        """
        head = groups.head(number)
        if head == number:
            return {}
        try:
            trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, head)
        except KeyError:
            return {}
        trial = self._storage.get_trial(trial_id)
        return {} if ENQUEUED in trial.user_attrs else trial.params

    def _take_over(self, seed: int) -> None:
        """Learn what there is: trials that are not over, whose missing parameters are drawn at random, and the grid."""
        assert self._space is not None
        params: list[Mapping[str, Value]] = []
        trials = self._study.get_trials(deepcopy=False)
        for trial in trials:
            self._next = trial.number + 1
            if ENQUEUED in trial.user_attrs:
                self._taken.add(trial.user_attrs[ENQUEUED])
            if trial.state.is_finished():
                params.append(trial.params)
                continue
            self._ids[trial.number] = trial._trial_id
            if self._is_stray(trial, trials):
                reason = "it was added from outside in the place of a repeat; `swathe enqueue` adds points"
                self.tell(trial.number, TrialState.FAILED, None, {"reason": reason})
                continue
            end = _foretold(trial)
            if end is not None:
                self.made_up[trial.number] = end
                self.tell(trial.number, end.state, end.value, end.attrs, constraints=end.constraints)
                params.append(trial.params)
                continue
            if trial.state is optuna.trial.TrialState.WAITING:
                self._storage.set_trial_state_values(trial._trial_id, optuna.trial.TrialState.RUNNING)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    self._study.sampler = self._at_random(seed, trial.number)
                    params.append(self._space.sample(partial(suggest_from, optuna.Trial(self._study, trial._trial_id))))
            except ValueError as error:
                raise BadInputError(
                    f"Trial {trial.number}, which was enqueued from outside, is not in the space: {error}"
                ) from error
        self._points = deque(point for point in self._points if point.id not in self._taken)
        if isinstance(self._drawing, samplers.Grid):
            self._drawing.leave_out(params)

    def _is_stray(self, trial: optuna.trial.FrozenTrial, trials: Sequence[optuna.trial.FrozenTrial]) -> bool:
        """Whether a trial is in the place of a repeat and has not its point's parameters."""
        head = self._repetition.head(trial.number)
        return trial.number != head and trial.params != trials[head].params

    def _at_random(self, seed: int, number: int) -> BaseSampler:
        """Return what draws at random what a trial lacks, but for what its group shares."""
        sampler: BaseSampler = RandomSampler(samplers.sampler_seed(seed, number))
        if not isinstance(self._drawing, samplers.Guided):
            return sampler
        return self._drawing.sharing(sampler, self._head(self._drawing.groups, number))

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


def engine_of(storage: str) -> sqlalchemy.Engine:
    """Return what opens connections to a database to read from it, and creates none; raises `BadInputError`."""
    with _refusing(storage):
        url = _parse(storage)
        if url.get_backend_name() != "sqlite":
            return sqlalchemy.create_engine(url, pool_pre_ping=True, connect_args=_connect_args(url))
        uri = f"{Path(str(url.database)).absolute().as_uri()}?mode=rw"
        return sqlalchemy.create_engine(
            "sqlite://", creator=lambda: sqlite3.connect(uri, uri=True), poolclass=sqlalchemy.NullPool
        )


# Storage.


def check_sampler(sampler: Mapping[str, Any], space: SearchSpace, rungs: Rungs | None = None) -> None:
    """Refuse options that the sampler does not have, and a space that it cannot draw from; raises `BadInputError`."""
    samplers.build(sampler, space, 0, known=samplers.Known(rungs=rungs))


def _groups(space: SearchSpace, size: int, structural: Callable[[str], bool]) -> samplers.Groups:
    shared = {
        name for name, parameter in space.parameters.items() if structural(name) and not parameter.distribution.single()
    }
    return samplers.Groups(size, frozenset(shared)) if shared else samplers.Groups()


def _past(trial: optuna.trial.FrozenTrial) -> PastTrial:
    return PastTrial(
        number=trial.number,
        params=dict(trial.params),
        state=FROM_OPTUNA[trial.state],
        value=trial.values[0] if trial.values else None,
        values=dict(trial.intermediate_values),
        attrs=dict(trial.user_attrs),
        ended=None if trial.datetime_complete is None else trial.datetime_complete.timestamp(),
        objectives=tuple(trial.values) if trial.values and len(trial.values) > 1 else (),
        feasible=all(violation <= 0 for violation in trial.constraints.values()),
    )


# The attribute of a trial that `Study.foretell` writes.
_FORETOLD = "foretold"


def _foretold(trial: optuna.trial.FrozenTrial) -> Foretold | None:
    """Return the end that a trial should have, if the report that gave it one was written."""
    text = trial.user_attrs.get(_FORETOLD)
    if text is None:
        return None
    values = json.loads(text)
    if values["step"] not in trial.intermediate_values:
        return None
    return Foretold(**{**values, "state": TrialState(values["state"])})


@contextmanager
def _uncollected() -> Iterator[None]:
    """Let Python look for no cycles while many trials are read: it would walk all that are there again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


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
    journal: Journal | None = None
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
        journal = Journal(folder / JOURNAL)
        return _Store(_replay(journal, folder / JOURNAL), journal=journal)
    url = _parse(storage)
    options = {"pool_pre_ping": True, "connect_args": _connect_args(url)}
    database = RDBStorage(url.render_as_string(hide_password=False), engine_kwargs=options)
    # Optuna's own way to put its cache around the database.
    return _Store(optuna.storages.get_storage(database), engine=database.engine)


def _replay(journal: Journal | JournalReader, path: Path) -> JournalStorage:
    """Read a journal from its beginning; raises `SwatheError` with its path and the line where it is damaged."""
    try:
        return JournalStorage(journal)
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:
        # Optuna checks nothing: a line that lacks what its kind must have fails wherever it is used.
        reason = f"{type(error).__name__}: {_reason(error)}"
        where = f"{path} is damaged in line {journal.line}"
        raise SwatheError(f"{where}, so that its trials cannot be read ({reason}).") from error


def read_journal(path: Path) -> BaseStorage:
    """Open a journal of Optuna's, or of a sweep, to read it; raises `SwatheError` where it is damaged."""
    return _replay(JournalReader(path), path)


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
