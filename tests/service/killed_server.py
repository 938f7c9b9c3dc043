"""A server that kills itself, as `kill -9` would, at the place that is its first argument; the others are of serve."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from swathe import cli
from swathe.service.job_records import JobState
from swathe.service.jobs import Jobs
from swathe.service.ray_jobs import RayJobs


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(place: str) -> None:
    create, change, submit = Jobs.create, Jobs.change, RayJobs.submit

    def created(self: Jobs, *given: Any, **options: Any) -> Any:
        made = create(self, *given, **options)
        if place == "kept, not acknowledged":
            die()
        return made

    async def submitted(self: RayJobs, *given: Any) -> None:
        if place == "noted, not submitted":
            die()
        await submit(self, *given)
        if place == "submitted, not noted":
            die()

    def changed(self: Jobs, *given: Any, **changes: Any) -> Any:
        if place == "ended, not noted" and changes.get("state") is JobState.DONE:
            die()
        return change(self, *given, **changes)

    Jobs.create, Jobs.change, RayJobs.submit = created, changed, submitted  # type: ignore[method-assign]


if __name__ == "__main__":
    arm(sys.argv[1])
    cli.main(["serve", *sys.argv[2:]])
