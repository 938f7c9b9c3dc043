"""What the API answers and takes, as its OpenAPI description shows it. Times are seconds of unix time."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from swathe.plain import finite
from swathe.service.selection import MAX_PAGE

Number = Annotated[float | None, BeforeValidator(finite)]
Values = Annotated[dict[str, Any], BeforeValidator(finite)]
State = Literal["waiting", "running", "complete", "pruned", "failed"]
Page = Annotated[int, Field(ge=1, le=MAX_PAGE)]


class Health(BaseModel):
    """That the server answers, and of which version it is."""

    status: Literal["ok"] = "ok"
    version: str


class BestTrial(BaseModel):
    """The best complete trial, and its objective."""

    trial: int
    value: Number


class Sweep(BaseModel):
    """How a sweep stands. `alive`: whether a driver runs it now. `counts`: trials by state."""

    name: str
    status: str
    alive: bool
    metric: str
    direction: str
    trials: int
    counts: dict[str, int]
    best: BestTrial | None
    command: str
    created: float


class SweepDetail(Sweep):
    """A sweep with its best parameters, why trials failed, how many have each symptom, and where its events are.

    `last_event_id`: events after this one are not in the answer; null where the sweep has no journal.
    """

    best_params: Values
    failures: list[dict[str, Any]]
    diagnosis: dict[str, int]
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
    """A trial as the study has it. `value`: the objective of a complete one; `last`: what it reported last."""

    number: int
    state: State
    value: Number
    last: Point | None
    params: Values
    reason: str | None
    diagnosis: list[str]


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
    """The best trial with its whole config, and the command that trains it again and compares every number."""

    sweep: str
    trial: int
    metric: str
    value: Number
    run_id: str
    config: Values
    reproduce: str


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
    """A sweep that a launch would begin with: its name, its trials and its space."""

    name: str
    trials: int
    space: list[Parameter]
