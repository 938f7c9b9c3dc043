"""The working folder's `.swathe/`: where each thing lives, who drives a sweep, and how to ask it to stop."""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import IO, Any

from swathe.errors import BadInputError, bad_value
from swathe.objectives import Goal, goal_of
from swathe.repetition import KINDS, Repetition

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# How a driver writes since when it runs, in local time.
SINCE = "%Y-%m-%d %H:%M:%S"
_ENDING = {"reason": str, "failed": bool, "interrupted": bool}
# Keys that a card of an earlier version lacks.
_ADDED = frozenset({"metrics", "directions", "constraints", "repeats", "repeats_of"})


def plain_name(text: str) -> str:
    """Return a text with which a sweep can be named, which may be empty: other characters become dashes."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", text).lstrip("._-")


@dataclass(frozen=True, slots=True)
class SweepCard:
    """What identifies a sweep on disk; its trials are in the study and in MLflow, not here.

    `metric` and `direction` are those of the first objective; `metrics` and `directions` of all of several, else empty.
    """

    name: str
    identity: str
    storage: str | None
    tracking_uri: str
    experiment: str
    metric: str
    direction: str
    trials: int
    command: str
    created: float
    metrics: tuple[str, ...] = ()
    directions: tuple[str, ...] = ()
    constraints: Mapping[str, str] = field(default_factory=dict)
    repeats: int = 1
    repeats_of: str = "mean"

    @property
    def repetition(self) -> Repetition:
        """Which trials are one point."""
        return Repetition(self.repeats, self.repeats_of)

    @property
    def goal(self) -> Goal:
        """The objectives and the constraints."""
        several = {"metric": self.metrics, "direction": self.directions}
        one = {"metric": self.metric, "direction": self.direction}
        return goal_of({**(several if self.metrics else one), "constraints": self.constraints})


@dataclass(frozen=True, slots=True)
class SweepFolder:
    """`.swathe/sweeps/NAME/`."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def card_file(self) -> Path:
        return self.path / "sweep.json"

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def log_file(self) -> Path:
        return self.path / "sweep.log"

    @property
    def stop_file(self) -> Path:
        return self.path / "stop-requested"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints" / "trials"

    @property
    def faults(self) -> Path:
        """Where workers of a session that runs leave word of crashes, see `faults`."""
        return self.path / "faults"

    @property
    def best_model(self) -> Path:
        return self.path / "checkpoints" / "best.pt"

    def card(self) -> SweepCard | None:
        """Read the sweep's card; None when no sweep of this name was launched here.

        Raises `BadInputError` naming the file when it holds something else.
        """
        try:
            values = json.loads(self.card_file.read_text())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise BadInputError(f"{self.card_file} cannot be read: {error}.") from error
        if not _is_card(values):
            raise BadInputError(
                f"{self.card_file} holds no sweep that this version of Swathe can read; allowed: what `swathe launch` "
                "writes there, so launch that sweep under another sweep.name, or remove its folder."
            )
        lists = {key: tuple(values[key]) for key in ("metrics", "directions") if key in values}
        return SweepCard(**{**values, **lists})

    def write_card(self, card: SweepCard) -> None:
        write_aside(self.card_file, json.dumps(asdict(card), indent=2).encode(), mode=0o600)

    def ending(self) -> Mapping[str, Any] | None:
        """Return how the last session ended: {"reason", "failed", "interrupted"}; None while none has.

        What cannot be read as an ending is none.
        """
        try:
            ending = json.loads((self.path / "ending.json").read_text())
        except (OSError, ValueError):
            return None
        if isinstance(ending, dict) and all(isinstance(ending.get(key), kind) for key, kind in _ENDING.items()):
            return ending
        return None

    def write_ending(self, ending: Mapping[str, Any]) -> None:
        write_aside(self.path / "ending.json", json.dumps(dict(ending)).encode())

    def driver(self) -> Mapping[str, Any] | None:
        """Return who drives the sweep now ({"pid", "host", "since"}), or None."""
        lock = self.path / "driver.lock"
        try:
            with lock.open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    text = file.read()
                    driver: Mapping[str, Any] = json.loads(text) if text else {}
                    return driver
        except FileNotFoundError:
            return None
        return None

    def refuse_while_driven(self) -> None:
        """Raise `BadInputError` where somebody drives the sweep now, whose files are not to be replaced."""
        if (driver := self.driver()) is not None:
            raise self._is_run(driver)

    def _is_run(self, driver: Mapping[str, Any] | None) -> BadInputError:
        return BadInputError(f"Sweep {self.name!r} is being run {describe_driver(driver)}.")

    def ask_to_stop(self) -> str:
        """Ask the sweep's driver to stop; return what was done. Raises `BadInputError` where nobody drives it."""
        driver = self.driver()
        if driver is None:
            raise BadInputError(f"Sweep {self.name!r} is not running, so there is nothing to stop.")
        self.stop_file.touch()
        return f"Asked sweep {self.name!r} to stop; it is run {describe_driver(driver)}."

    @contextmanager
    def drive(self) -> Iterator[None]:
        """Hold the sweep's lock; the system frees it when the process dies, however it dies."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "driver.lock").open("a+") as file:
            self._lock(file)
            file.truncate(0)
            since = time.strftime(SINCE)
            file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}))
            file.flush()
            self.stop_file.unlink(missing_ok=True)
            # A session that is killed must not read as the one before it, which had ended.
            (self.path / "ending.json").unlink(missing_ok=True)
            yield
            file.truncate(0)

    def _lock(self, file: IO[str]) -> None:
        for _ in range(20):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                driver = self.driver()
                if driver:
                    raise self._is_run(driver) from None
                # A reader that asks for the driver holds the lock for an instant.
                time.sleep(0.05)
        raise self._is_run(None)


def _is_card(values: object) -> bool:
    """Whether these are a card's keys with values of its types; a number of seconds may be written without a point."""
    known = {item.name for item in fields(SweepCard)}
    if not isinstance(values, dict) or not known - _ADDED <= values.keys() <= known:
        return False
    text = (values[key] for key in ("name", "identity", "tracking_uri", "experiment", "metric", "command"))
    return (
        all(isinstance(value, str) for value in text)
        and (values["storage"] is None or isinstance(values["storage"], str))
        and type(values["trials"]) is int
        and type(values["created"]) in (int, float)
        and type(repeats := values.get("repeats", 1)) is int
        and repeats >= 1
        and values.get("repeats_of", "mean") in KINDS
        and _has_goal(values)
    )


def _has_goal(values: Mapping[str, Any]) -> bool:
    """Whether a card's objectives and constraints can be read."""
    try:
        goal_of(values)
        metrics, directions = values.get("metrics", []), values.get("directions", [])
        if [metrics, directions] != [[], []]:
            goal_of({"metric": metrics, "direction": directions})
            return isinstance(metrics, list)
    except BadInputError:
        return False
    return True


def describe_driver(driver: Mapping[str, Any] | None) -> str:
    """Say in words who drives a sweep."""
    if not driver:
        return "by another process"
    return f"by process {driver['pid']} on {driver['host']} since {driver['since']}"


@dataclass(frozen=True, slots=True)
class Home:
    """The folder under which everything of a working folder lives."""

    path: Path

    @property
    def tracking_uri(self) -> str:
        """Where runs are recorded that do not say: `SWATHE_TRACKING_URI`, or a database here."""
        return os.environ.get("SWATHE_TRACKING_URI") or f"sqlite:///{self.path / 'mlflow.db'}"

    @property
    def storage(self) -> str | None:
        """Where the trials of sweeps are that do not say: `SWATHE_STORAGE`, or (None) a journal of each sweep's own."""
        return os.environ.get("SWATHE_STORAGE") or None

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def artifacts(self) -> Path:
        return self.path / "artifacts"

    def sweep(self, name: str) -> SweepFolder:
        """Return the folder of a sweep, which need not exist; raises for a name that is no plain file name."""
        if not _NAME.fullmatch(name):
            raise bad_value("sweep.name", name, "letters, digits, '.', '_' and '-', at most 100")
        return SweepFolder(self.path / "sweeps" / name)

    def existing(self, name: str) -> tuple[SweepFolder, SweepCard]:
        """Return a sweep that was launched here; raises `BadInputError` naming those there are."""
        folder = self.sweep(name)
        card = folder.card()
        if card is None:
            known = ", ".join(sweep.name for sweep in self.sweeps()) or "none yet"
            raise BadInputError(f"There is no sweep {name!r} in {self.path}; there are: {known}.")
        return folder, card

    def sweeps(self) -> list[SweepFolder]:
        """Return the sweeps launched here, by name."""
        root = self.path / "sweeps"
        if not root.is_dir():
            return []
        return [SweepFolder(path) for path in sorted(root.iterdir()) if (path / "sweep.json").exists()]

    def cards(self) -> list[SweepCard]:
        """Return the cards of the sweeps launched here, by name; those that cannot be read are left out."""
        cards = []
        for folder in self.sweeps():
            with suppress(BadInputError):
                cards.append(folder.card())
        return [card for card in cards if card is not None]


def open_home(*, create: bool = False) -> Home:
    """Return `SWATHE_HOME`, or `.swathe` of the working folder; with `create`, make sure that it can be written.

    Raises `BadInputError` for a path that the URL of an SQLite database cannot carry.
    """
    path = Path(os.environ.get("SWATHE_HOME") or ".swathe").expanduser().absolute()
    # SQLAlchemy ends a URL's path at '?', and whether it decodes '%41' in it depends on its version (2.1 does, 2.0 does
    # not), so that no way of quoting is right for all of them.
    if "?" in str(path) or "%" in str(path):
        raise bad_value("SWATHE_HOME", str(path), "a folder whose whole path has neither '?' nor '%'")
    if create:
        try:
            path.mkdir(parents=True, exist_ok=True)
            probe = path / f".write-{os.getpid()}"
            probe.write_text("")
            probe.unlink()
        except OSError as error:
            raise BadInputError(
                f"SWATHE_HOME: {str(path)!r} cannot be written ({error.strerror}); allowed: a folder that can be."
            ) from error
    return Home(path)


def write_aside(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write a file so that a reader, or a crash, never meets half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError:
        # A full disk needs the room.
        aside.unlink(missing_ok=True)
        raise
