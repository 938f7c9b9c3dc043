"""What the API answers and takes, as its OpenAPI description shows it. Times are seconds of unix time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from swathe.plain import finite
from swathe.service.job_models import Job
from swathe.service.selection import MAX_PAGE

Number = Annotated[float | None, BeforeValidator(finite)]
Values = Annotated[dict[str, Any], BeforeValidator(finite)]
State = Literal["waiting", "running", "complete", "pruned", "failed"]
Page = Annotated[int, Field(ge=1, le=MAX_PAGE)]


class SignIn(BaseModel):
    """A token to begin a session with."""

    model_config = ConfigDict(extra="forbid")

    token: Annotated[str, Field(max_length=200, json_schema_extra={"writeOnly": True, "format": "password"})]


class Who(BaseModel):
    """Who asks. `csrf`: what requests with the session's cookie must send along; null where a token came instead."""

    name: str
    role: str
    csrf: str | None


class Health(BaseModel):
    """That the server answers, and of which version it is."""

    status: Literal["ok"] = "ok"
    version: str


class BestTrial(BaseModel):
    """The best complete trial, and its objective."""

    trial: int
    value: Number


class PointRepeats(BaseModel):
    """The trials of one point with their values, their standard deviation, and what the point's value is `of` them."""

    of: Literal["mean", "median", "worst"]
    trials: list[int]
    values: list[Number]
    std: Number


class FrontTrial(BaseModel):
    """A trial that no other dominates, with the value of each objective."""

    trial: int
    values: list[Number]
    params: Values


class Diagnosed(BaseModel):
    """A trial with its symptoms."""

    trial: int
    diagnosis: list[str]


class LanesNow(BaseModel):
    """How many lanes train a trial, of how many."""

    live: Number
    all: Number


class SweepSession(BaseModel):
    """A session of a sweep as its driver told it at the time `at`.

    `seconds`: how long it had run. `begun`: trials that were over before it. `epochs`: reports that count.
    `device_seconds` and what they `cost`, an empty text where no price is known. `lanes` is null without lanes.
    """

    at: float
    seconds: float
    begun: int
    running: int
    workers: int
    epochs: int
    lanes: LanesNow | None
    device_seconds: Number
    cost: str


class Sweep(BaseModel):
    """How a sweep stands. `alive`: whether a driver runs it now. `counts`: trials by state.

    `failures`: why trials failed; `diagnosis`: how many have each symptom; `latest`: those that ended last with some.
    `session`: what its driver says of itself about once a second, of the last session when none is alive.
    `metrics` and `directions`: all objectives, the first of which `metric`, `direction` and `best` are about; of
    several, `front` are the trials that no other dominates. `constraints`: metrics with their bounds; `feasible`: how
    many complete trials keep them, null where there are none. `repeats`: where a point is several trials, those that
    the best value is of, of which `best` names the best one; else null. `best_changed`: the best one had other
    parameters than `best_params` as it trained, as members of populations do.
    `job`: its latest one, and `owner` whose the first was; null where it was never launched over HTTP.
    """

    name: str
    status: str
    alive: bool
    metric: str
    direction: str
    trials: int
    counts: dict[str, int]
    best: BestTrial | None
    best_params: Values
    failures: list[dict[str, Any]]
    diagnosis: dict[str, int]
    latest: list[Diagnosed]
    session: SweepSession | None
    command: str
    created: float
    metrics: list[str]
    directions: list[str]
    constraints: dict[str, str]
    front: list[FrontTrial]
    feasible: int | None
    repeats: PointRepeats | None = None
    best_changed: bool = False
    job: Job | None
    owner: str | None


class SweepDetail(Sweep):
    """A sweep with its space, how full its lanes were, and where its events are.

    `space`: the searches by parameter, as they were written, those under conditions too. `lanes`: of a sweep that is
    over, as MLflow has it; empty without lanes.

    `last_event_id`: events after this one are not in the answer; null for a sweep that waits for its first start.
    """

    space: dict[str, Any]
    lanes: Mapping[str, Number]
    last_event_id: str | None


class UnreadableSweep(BaseModel):
    """A sweep that is there and cannot be read, and why."""

    name: str
    status: str


class SweepPage(BaseModel):
    """Sweeps by name. `next`: the cursor of the next page, null on the last."""

    total: int
    sweeps: list[Sweep | UnreadableSweep]
    next: str | None


class Point(BaseModel):
    """A value at a step; null where it was no finite number."""

    step: int
    value: Number


class Trial(BaseModel):
    """A trial as the study has it. `value`: the objective of a complete one; `last`: what it reported last.

    Of several objectives `value` is the first, and `values` are all of a complete trial; null with one objective.
    `feasible`: whether it keeps the constraints, as far as there are any.
    `worker`, `lane` and `began` are those of its last attempt, once that has reported; `lane` is null without lanes.
    """

    number: int
    state: State
    value: Number
    values: list[Number] | None
    feasible: bool
    last: Point | None
    params: Values
    reason: str | None
    diagnosis: list[str]
    worker: str | None
    lane: int | None
    began: float | None
    ended: float | None


class TrialPage(BaseModel):
    """Trials of a sweep. `total`: on all pages. `next`: the cursor of the next page, null on the last."""

    sweep: str
    total: int
    trials: list[Trial]
    next: str | None


class TrialDetail(Trial):
    """A trial with its record: `run_id`, config, metrics and what its diagnosis said of each symptom.

    They are null where MLflow has no record of it or does not answer; `record` then says so in one sentence.
    """

    run_id: str | None
    experiment_id: str | None
    config: Annotated[dict[str, Any] | None, BeforeValidator(finite)]
    metrics: Annotated[dict[str, Any] | None, BeforeValidator(finite)]
    findings: dict[str, str] | None
    record: str | None


class Curve(BaseModel):
    """One metric of a trial by step."""

    sweep: str
    trial: int
    metric: str
    points: list[Point]


class BestConfig(BaseModel):
    """The best trial with its whole config, and the command that trains it again and compares every number.

    `values`: each objective by name, of which `metric` is the first. `repeats`: where a point is several trials, those
    that the value is of; else, and for a trial that was named, null. `lineage`: of a member of a population, from which
    epoch on its parameters were trained with which values, and as which trial's.
    """

    sweep: str
    trial: int
    metric: str
    value: Number
    values: Mapping[str, Number]
    run_id: str
    config: Values
    geometry: dict[str, Any]
    lineage: list[dict[str, Any]]
    reproduce: str
    repeats: PointRepeats | None = None


class Importance(BaseModel):
    """How much each parameter matters to the metric: shares that add up to 1, the largest first."""

    sweep: str
    metric: str
    importance: dict[str, float]


class ReadySweep(BaseModel):
    """A sweep of sweeps/: its comment in a line, and what is in its file."""

    name: str
    title: str
    config: Values


class Option(BaseModel):
    """An option of a config group: its comment in a line, and its keys with their defaults."""

    option: str
    title: str
    keys: Values


class Catalog(BaseModel):
    """What a new sweep can be made of. `keys`: those of a training run outside of the groups, with their defaults."""

    sweeps: list[ReadySweep]
    groups: dict[str, list[Option]]
    keys: Values


class ComparedTrial(BaseModel):
    """A trial as MLflow has it, with the parameters that were searched."""

    trial: int
    run_id: str
    state: str
    diagnosis: list[str]
    metrics: Values
    params: Values
    front: bool
    feasible: bool
    repeats: PointRepeats | None = None


class SweepStanding(BaseModel):
    """One of several sweeps: trials by state, reports (epochs), the best trial, and the best values so far."""

    name: str
    counts: dict[str, int]
    epochs: int
    best: tuple[int, float] | None
    params: dict[str, Any]
    after: list[float | None]


class VersusSweeps(BaseModel):
    """Sweeps side by side; `after` of each is its best value after `epochs` reports, `differences` are of configs."""

    metric: str
    direction: str
    epochs: list[int]
    sweeps: list[SweepStanding]
    differences: dict[str, list[Any]]


class Comparison(BaseModel):
    """The best trials of a sweep, best first by `metric`; of several objectives, `metrics`, the front comes first."""

    sweep: str
    metric: str
    metrics: list[str]
    trials: list[ComparedTrial]


class Said(BaseModel):
    """What was done."""

    detail: str


class ValidateRequest(BaseModel):
    """A sweep to check: the name of a ready one, or its YAML; overrides in Hydra's grammar."""

    model_config = ConfigDict(extra="forbid")

    sweep: Annotated[str, Field(max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] | None = None
    yaml: Annotated[str, Field(max_length=64 * 1024)] | None = None
    overrides: Annotated[list[Annotated[str, Field(max_length=2000)]], Field(max_length=200)] = []


class Parameter(BaseModel):
    """A parameter of a search space, in words."""

    name: str
    distribution: str
    when: str


class Validated(BaseModel):
    """A sweep that a launch would begin with: its name, its trials, its composed config and its space."""

    name: str
    trials: int
    config: Values
    space: list[Parameter]
