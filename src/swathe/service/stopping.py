"""What it takes to stop a job, in whatever state it is."""

from __future__ import annotations

import time
from contextlib import suppress
from http import HTTPStatus

from swathe.errors import BadInputError
from swathe.home import Home
from swathe.service.job_records import Job, JobState
from swathe.service.jobs import Jobs
from swathe.service.problems import ProblemError


def stop(home: Home, jobs: Jobs, job: Job) -> str:
    """Take a job out of the queue, or ask it to stop, or, asked once more, have its process ended; say what was done.

    Raises `ProblemError` (409) where it is over.
    """
    if jobs.change(job.id, (JobState.QUEUED,), state=JobState.STOPPED, ended=time.time(), detail=None):
        return f"Took {_named(job)} out of the queue."
    if jobs.change(job.id, (JobState.STOPPING,), stop_now=True):
        return f"Ends {_named(job)} now."
    if jobs.change(job.id, (JobState.STARTING, JobState.RUNNING), state=JobState.STOPPING):
        if job.kind.runs_sweep and job.sweep is not None:
            # At once; where its driver is not there yet, the dispatcher tells it when it is.
            with suppress(BadInputError):
                return home.sweep(job.sweep).ask_to_stop()
        return f"Asked {_named(job)} to stop."
    raise ProblemError(HTTPStatus.CONFLICT, f"Job {job.id} is over, so there is nothing to stop.")


def stop_sweep(home: Home, jobs: Jobs, name: str) -> str:
    """Stop what runs a sweep, or is to run it, whoever began it. Raises `ProblemError` (409) where nothing does."""
    job = jobs.unfinished_of(name)
    if job is not None:
        return stop(home, jobs, job)
    try:
        return home.sweep(name).ask_to_stop()
    except BadInputError as error:
        raise ProblemError(HTTPStatus.CONFLICT, str(error)) from error


def _named(job: Job) -> str:
    return f"sweep {job.sweep!r}" if job.kind.runs_sweep else f"the {job.kind.value} {job.id}"
