"""What the reading commands show, as plain data: made from the study and from MLflow, or from a server's JSON.

It imports no library, so that a command that only asks a server is quick.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from swathe.events import Config, TrialState, Value

# Trials whose diagnosis is shown while a sweep runs: those that ended last.
LATEST = 3


@dataclass(frozen=True, slots=True)
class Progress:
    """What a view shows: counts by state, the best trial and what is going on. Times in seconds.

    `lanes`: live ones and all, None where trials are no lanes. `diagnosis`: how many trials that are over have each
    symptom; `latest`: the last few of them, the last one first. Of this session, `begun` trials were over before it,
    and `cost` is what its devices cost, "" where no price is known. Of several objectives `best` is by the first one,
    and `front` how many trials no other dominates; 0 where there is one.
    """

    name: str
    metric: str
    trials: int
    counts: Mapping[TrialState, int]
    running: int
    epochs: int
    elapsed: float
    best: tuple[int, float] | None
    best_params: Mapping[str, Value]
    workers: int
    lanes: tuple[float, float] | None = None
    diagnosis: Mapping[str, int] = field(default_factory=dict)
    latest: Sequence[tuple[int, Sequence[str]]] = ()
    begun: int = 0
    device_seconds: float = 0.0
    cost: str = ""
    front: int = 0


@dataclass(frozen=True, slots=True)
class Session:
    """What a sweep's driver says of itself about once a second; times in seconds, `at` is unix time.

    `seconds`: since the session began. `begun`: trials that were over before it. `lanes`: live ones and all, None where
    trials are no lanes. `cost` is what its devices cost so far, "" where no price is known.
    """

    at: float
    seconds: float
    begun: int
    running: int
    workers: int
    epochs: int
    lanes: tuple[float, float] | None
    device_seconds: float
    cost: str

    def as_dict(self) -> dict[str, Any]:
        return {
            "at": self.at,
            "seconds": self.seconds,
            "begun": self.begun,
            "running": self.running,
            "workers": self.workers,
            "epochs": self.epochs,
            "lanes": None if self.lanes is None else {"live": self.lanes[0], "all": self.lanes[1]},
            "device_seconds": self.device_seconds,
            "cost": self.cost,
        }

    @classmethod
    def from_dict(cls, plain: Any) -> Session | None:
        """Read what `as_dict` returns; None for anything else."""
        try:
            lanes = plain["lanes"]
            return cls(
                at=float(plain["at"]),
                seconds=float(plain["seconds"]),
                begun=int(plain["begun"]),
                running=int(plain["running"]),
                workers=int(plain["workers"]),
                epochs=int(plain["epochs"]),
                lanes=None if lanes is None else (float(lanes["live"]), float(lanes["all"])),
                device_seconds=float(plain["device_seconds"]),
                cost=str(plain["cost"]),
            )
        except (LookupError, TypeError, ValueError):
            return None


@dataclass(frozen=True, slots=True)
class Repeats:
    """What a point's value is `of`, the mean, median or worst: the values of its trials, and their deviation.

    `std`: the standard deviation, for a sample (n - 1).
    """

    of: str
    values: Mapping[int, float]
    std: float

    @property
    def words(self) -> str:
        return f"{self.of} of trials {', '.join(map(str, self.values))}, standard deviation {self.std:.2g}"

    def as_dict(self) -> dict[str, Any]:
        return {"of": self.of, "trials": list(self.values), "values": list(self.values.values()), "std": self.std}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any] | None) -> Repeats | None:
        """Read what `as_dict` returns; None where there is none."""
        if plain is None:
            return None
        return cls(plain["of"], dict(zip(plain["trials"], plain["values"], strict=True)), plain["std"])


@dataclass(frozen=True, slots=True)
class FrontTrial:
    """A trial that no other dominates, with the value of each objective."""

    trial: int
    values: Sequence[float]
    params: Mapping[str, Value]

    def as_dict(self) -> dict[str, Any]:
        return {"trial": self.trial, "values": list(self.values), "params": dict(self.params)}


@dataclass(frozen=True, slots=True)
class Overview:
    """A sweep at a glance; `failures` are reasons with how many trials failed for them, most first.

    `metrics` and `directions` are all objectives, the first of which `metric`, `direction` and `best` are about; of
    several, `front` are the trials that no other dominates, the best in the first objective first. `constraints`: the
    bound of each metric that has one; `feasible`: how many complete trials keep them all, None where there are none.
    `best_changed`: the best one is of a population and had other parameters than `best_params` as it trained.

    `lanes` is how full its lanes were at last and as means, as far as MLflow has it; empty where trials are no lanes.
    `diagnosis` is how many trials that are over have each symptom, most first; `latest` are the last few trials that
    ended with symptoms, the last one first. `session` is what the driver said last, None where none ever did.
    `repeats`: of what the best value is, where a point is several trials; `best` then is the best one of these.
    """

    name: str
    status: str
    metric: str
    direction: str
    trials: int
    counts: Mapping[TrialState, int]
    best: tuple[int, float] | None
    best_params: Mapping[str, Value]
    failures: Sequence[tuple[str, int]]
    command: str
    lanes: Mapping[str, float] = field(default_factory=dict)
    diagnosis: Mapping[str, int] = field(default_factory=dict)
    latest: Sequence[tuple[int, Sequence[str]]] = ()
    session: Session | None = None
    metrics: Sequence[str] = ()
    directions: Sequence[str] = ()
    constraints: Mapping[str, str] = field(default_factory=dict)
    front: Sequence[FrontTrial] = ()
    feasible: int | None = None
    repeats: Repeats | None = None
    best_changed: bool = False

    @property
    def several(self) -> bool:
        """Whether it has more than one objective."""
        return len(self.metrics) > 1

    @property
    def over(self) -> int:
        """How many trials are over."""
        return sum(count for state, count in self.counts.items() if state.final)

    @property
    def running(self) -> bool:
        """Whether a driver runs it."""
        return self.status.startswith("running")

    @property
    def queued(self) -> bool:
        """Whether it waits in a server's queue for its first start."""
        return self.status.startswith("queued")

    def progress(self, now: float) -> Progress:
        """Return it as a view shows a sweep that runs; `now` is unix time (seconds)."""
        said = self.session
        return Progress(
            name=self.name,
            metric=self.metric,
            trials=self.trials,
            counts={state: count for state, count in self.counts.items() if state.final},
            running=self.counts.get(TrialState.RUNNING, 0) if said is None else said.running,
            epochs=0 if said is None else said.epochs,
            # The clock of the machine that says it may be another one.
            elapsed=0.0 if said is None else said.seconds + max(0.0, now - said.at),
            best=self.best,
            best_params=self.best_params,
            workers=0 if said is None else said.workers,
            lanes=None if said is None else said.lanes,
            diagnosis=self.diagnosis,
            latest=self.latest,
            begun=self.over if said is None else said.begun,
            device_seconds=0.0 if said is None else said.device_seconds,
            cost="" if said is None else said.cost,
            front=len(self.front),
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "status": self.status,
            "metric": self.metric,
            "direction": self.direction,
            "trials": self.trials,
            "counts": {state.value: count for state, count in self.counts.items()},
            "best": None if self.best is None else {"trial": self.best[0], "value": self.best[1]},
            "best_params": dict(self.best_params),
            "command": self.command,
            "failures": [{"reason": reason, "trials": count} for reason, count in self.failures],
            "lanes": dict(self.lanes),
            "diagnosis": dict(self.diagnosis),
            "latest": [{"trial": number, "diagnosis": list(symptoms)} for number, symptoms in self.latest],
            "session": None if self.session is None else self.session.as_dict(),
            "metrics": list(self.metrics),
            "directions": list(self.directions),
            "constraints": dict(self.constraints),
            "front": [one.as_dict() for one in self.front],
            "feasible": self.feasible,
            **_of_repeats(self.repeats),
            "best_changed": self.best_changed,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Overview:
        """Read what `as_dict` returns, of which all but the name and the status may be missing."""
        best = plain.get("best")
        return cls(
            name=plain["name"],
            status=plain["status"],
            metric=plain.get("metric", ""),
            direction=plain.get("direction", ""),
            trials=plain.get("trials", 0),
            counts={TrialState(state): count for state, count in plain.get("counts", {}).items()},
            best=None if best is None else (best["trial"], best["value"]),
            best_params=plain.get("best_params", {}),
            failures=[(one["reason"], one["trials"]) for one in plain.get("failures", ())],
            command=plain.get("command", ""),
            lanes=plain.get("lanes") or {},
            diagnosis=plain.get("diagnosis", {}),
            latest=[(one["trial"], one["diagnosis"]) for one in plain.get("latest", ())],
            session=Session.from_dict(plain.get("session")),
            metrics=plain.get("metrics", ()),
            directions=plain.get("directions", ()),
            constraints=plain.get("constraints", {}),
            front=[FrontTrial(one["trial"], one["values"], one["params"]) for one in plain.get("front", ())],
            feasible=plain.get("feasible"),
            repeats=Repeats.from_dict(plain.get("repeats")),
            best_changed=plain.get("best_changed", False),
        )


def _of_repeats(repeats: Repeats | None) -> dict[str, Any]:
    return {} if repeats is None else {"repeats": repeats.as_dict()}


@dataclass(frozen=True, slots=True)
class Row:
    """One trial in a comparison; `diagnosis` are its symptoms.

    `front`: whether no other trial dominates it, where there are several objectives; `feasible`: whether it keeps the
    constraints. `repeats`: of a point of several trials, of what its value is; its metrics are means.
    """

    trial: int
    run_id: str
    state: str
    metrics: Mapping[str, float]
    params: Mapping[str, Value]
    diagnosis: tuple[str, ...] = ()
    front: bool = False
    feasible: bool = True
    repeats: Repeats | None = None

    def as_dict(self) -> dict[str, Any]:
        return {
            "trial": self.trial,
            "run_id": self.run_id,
            "state": self.state,
            "diagnosis": list(self.diagnosis),
            "metrics": dict(self.metrics),
            "params": dict(self.params),
            "front": self.front,
            "feasible": self.feasible,
            **_of_repeats(self.repeats),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Row:
        """Read what `as_dict` returns; metrics that were no finite numbers are NaN again."""
        metrics = {name: float("nan") if value is None else value for name, value in plain["metrics"].items()}
        facts = plain["trial"], plain["run_id"], plain["state"], metrics, plain["params"], tuple(plain["diagnosis"])
        front, feasible = plain.get("front", False), plain.get("feasible", True)
        return cls(*facts, front=front, feasible=feasible, repeats=Repeats.from_dict(plain.get("repeats")))


@dataclass(frozen=True, slots=True)
class Best:
    """The best trial, or one of the best, with everything that training it again takes.

    `others`: the values of further objectives by name. `repeats`: of what the value is, where a point is several
    trials, the best one of which this is. `lineage`: of a member of a population that has copied another one, from
    which epoch on its parameters were trained with which values, and as which trial's.
    """

    sweep: str
    trial: int
    metric: str
    value: float
    run_id: str
    config: Config
    geometry: Mapping[str, Any]
    others: Mapping[str, float] = field(default_factory=dict)
    repeats: Repeats | None = None
    lineage: Sequence[Mapping[str, Any]] = ()

    @property
    def values(self) -> dict[str, float]:
        """Each objective's value by name."""
        return {self.metric: self.value, **self.others}

    def as_dict(self) -> dict[str, Any]:
        origin = {"sweep": self.sweep, "trial": self.trial, "run_id": self.run_id, **self.values}
        origin |= _of_repeats(self.repeats)
        if self.lineage:
            origin["lineage"] = [dict(step) for step in self.lineage]
        return {**self.config, "origin": origin, "geometry": dict(self.geometry)}

    def as_yaml(self) -> str:
        values = ", ".join(f"{name} {value!r}" for name, value in self.values.items())
        values += "" if self.repeats is None else f" ({self.repeats.words})"
        again = "swathe train --from FILE"
        if self.lineage:
            again = f"swathe reproduce {self.sweep} --trial {self.trial}; origin.lineage says its values by epoch"
        head = f"# Trial {self.trial} of sweep {self.sweep}: {values}\n# Train it again with: {again}\n"
        return head + str(yaml.safe_dump(self.as_dict(), sort_keys=False))
