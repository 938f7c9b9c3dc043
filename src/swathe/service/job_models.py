"""What the API takes and answers of jobs, as its OpenAPI description shows it. Times are seconds of unix time."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from swathe.plain import finite

# Priorities; above 0 is for admins.
MIN_PRIORITY, MAX_PRIORITY = -100, 100
_YAML = 64 * 1024

State = Literal["queued", "starting", "running", "stopping", "done", "failed", "stopped"]
Kind = Literal["launch", "resume", "reproduce", "report", "train", "lr-find"]
Priority = Annotated[int, Field(ge=MIN_PRIORITY, le=MAX_PRIORITY, description="Above 0: admins only.")]
Overrides = Annotated[list[Annotated[str, Field(max_length=2000)]], Field(max_length=200)]


class Job(BaseModel):
    """A job of the queue.

    `position`: its place in the line, 1 for the next one. `devices`: the CPUs or GPUs that it was given. `detail`: why
    it waits, failed or was stopped. `result`: what its command prints with --json; only where one job is asked for.
    """

    id: str
    kind: Kind
    sweep: str | None
    owner: str
    priority: int
    state: State
    position: int | None
    created: float
    started: float | None
    ended: float | None
    devices: int | None
    detail: str | None
    exit_code: int | None
    result: Annotated[dict[str, Any] | list[Any] | None, BeforeValidator(finite)] = None


class JobPage(BaseModel):
    """Jobs, the newest first. `total`: on all pages. `next`: the cursor of the next page, null on the last."""

    total: int
    jobs: list[Job]
    next: str | None


class JobLog(BaseModel):
    """A part of a job's log. `next`: the byte after it. `complete`: whether nothing comes after it any more."""

    text: str
    next: int
    complete: bool


class Node(BaseModel):
    """A node of the cluster: what it has and what is used of it."""

    id: str
    alive: bool
    cpus: float
    gpus: float
    cpus_used: float
    gpus_used: float


class User(BaseModel):
    """A user of the queue: devices held now, and device-seconds of late (a day ago counts half)."""

    name: str
    devices: float
    device_seconds: float


class ClusterState(BaseModel):
    """The cluster and the queue, in the order of who is next. No nodes: no Ray was started yet, or it is away."""

    nodes: list[Node]
    running: list[Job]
    queued: list[Job]
    users: list[User]


class Request(BaseModel):
    """What every creation of a job may have."""

    model_config = ConfigDict(extra="forbid")

    priority: Priority = 0


class LaunchRequest(Request):
    """A sweep to launch: the name of a ready one, or its YAML; overrides in Hydra's grammar."""

    sweep: Annotated[str, Field(max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] | None = None
    yaml: Annotated[str, Field(max_length=_YAML)] | None = None
    overrides: Overrides = []


class ResumeRequest(Request):
    """How to go on with a sweep."""

    overrides: Overrides = []


class PriorityRequest(BaseModel):
    """A new priority."""

    model_config = ConfigDict(extra="forbid")

    priority: Priority


class ReproduceRequest(Request):
    """The trials to train again; the best one where none is named."""

    trials: Annotated[list[Annotated[int, Field(ge=0, le=2**31 - 1)]], Field(max_length=100)] = []


class ReportRequest(Request):
    """What is trained again for the report: the best config with other seeds, and so many pruned trials."""

    seeds: bool = True
    pruned: Annotated[int, Field(ge=0, le=100)] = 5


class TrainRequest(Request):
    """A run without a search: a config as YAML, overrides, or both."""

    config: Annotated[str, Field(max_length=_YAML)] | None = None
    overrides: Overrides = []


class LrFindRequest(TrainRequest):
    """A search for the learning rate of a run."""

    from_lr: float = 1e-7
    to_lr: float = 10.0
    rates: Annotated[int, Field(ge=2, le=1000)] = 33
    steps: Annotated[int, Field(ge=1, le=1_000_000)] = 100
