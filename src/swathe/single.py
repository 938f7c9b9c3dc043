"""One training run in this process: what `swathe train` and `swathe reproduce` share."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from swathe.errors import SwatheError
from swathe.events import Config, Decision, Direction, Failed, Finished, Report, Reported
from swathe.home import Home
from swathe.worker import Emitted, InlineChannel, Job, Note, WorkerSetup, geometry, prepare, run_job


class RunFailedError(SwatheError):
    """A run raised: its text is the reason in one line; `run` is what there is of it, `traceback` the whole text."""

    def __init__(self, reason: str, traceback: str, run: SingleRun) -> None:
        super().__init__(f"The run failed: {reason}")
        self.reason = reason
        self.traceback = traceback
        self.run = run


@dataclass(slots=True)
class SingleRun:
    """What a run gave: its reports in order, facts for the record, the machine it ran on and the trained state."""

    geometry: Mapping[str, str]
    reports: list[Report] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    model: bytes | None = None

    def history(self) -> dict[tuple[str, int], float]:
        """Return every reported number by (metric, step)."""
        return {(name, report.step): value for report in self.reports for name, value in report.metrics.items()}


def train_once(
    config: Config,
    home: Home,
    *,
    number: int = 0,
    threads: int = 1,
    device: str = "cpu",
    metric: str = "val_loss",
    until: int | None = None,
    on_report: Callable[[Report], None] = lambda report: None,
) -> SingleRun:
    """Train a trial's config here, with the threads and the device given, and stop it after step `until`.

    Raises `RunFailedError` with the reason when the run fails.
    """
    setup = WorkerSetup(
        trainable=config.get("trainable"),
        metric=metric,
        direction=Direction.MINIMIZE,
        home=str(home.path),
        import_paths=(os.getcwd(),),
        device=device,
        threads=threads,
    )
    prepare(setup)
    run = SingleRun(geometry(setup))

    def take(events: Sequence[Emitted]) -> None:
        for event in events:
            match event:
                case Reported(_, reports):
                    for report in reports:
                        run.reports.append(report)
                        on_report(report)
                        if until is not None and report.step >= until:
                            channel.put((Decision(number, report.step, stop=True),))
                case Note(_, tags):
                    run.tags.update(tags)
                case Finished():
                    run.model = event.model
                case Failed():
                    raise RunFailedError(event.reason, event.traceback, run)

    channel = InlineChannel("inline", take)
    run_job(setup, channel, "inline", Job(number, config))
    return run
