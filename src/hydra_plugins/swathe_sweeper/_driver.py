"""The driver of an app's sweep, in a process of its own: `python -m hydra_plugins.swathe_sweeper._driver FOLDER`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from hydra_plugins.swathe_sweeper._space import AppSpace
from hydra_plugins.swathe_sweeper._sweep import Handed, as_study_name
from swathe import runtime
from swathe.cli import run_command
from swathe.config import ComposedSweep, compose_sweep
from swathe.errors import BadInputError
from swathe.events import Config, Value
from swathe.home import open_home
from swathe.output import EXIT_FAILED, EXIT_INTERRUPTED
from swathe.pickled import unpack
from swathe.preflight import check
from swathe.space import Space, TrialComposer
from swathe.view import open_view


class AppComposer(TrialComposer):
    """A trial's config is the app's overrides; the app's own config is composed where it runs, by the app's Hydra."""

    def __init__(self, composed: ComposedSweep, space: AppSpace) -> None:
        super().__init__(composed, Space({}))
        self._search = space.search

    def trial_config(self, params: Mapping[str, Value]) -> Config:
        config = super().trial_config({})
        whole = config["params"]
        several = {"objectives": whole["objectives"]} if "objectives" in whole else {}
        config["params"] = {"app": whole["app"], "overrides": self._search.overrides(params), **several}
        return config

    def logged_params(self, params: Mapping[str, Value]) -> dict[str, Value]:
        fixed = dict(word.partition("=")[::2] for word in self._search.fixed if "=" in word)
        return {**fixed, **params}


def drive(folder: Path) -> int:
    """Run the sweep that was handed over, or go on with it; return the exit code."""
    from swathe import analysis, tables

    handed, home = Handed(folder), open_home(create=True)
    space = unpack(handed.space_file)
    assert isinstance(space, AppSpace)
    composed = compose_sweep(str(handed.sweep_file), ())
    try:
        plan = runtime.prepare(composed, Space({}), home, os.environ.get("SWATHE_COMMAND", ""))
    except BadInputError as error:
        raise as_study_name(error) from None
    plan = replace(plan, space=space, composer=AppComposer(composed, space))
    check(plan, home.data)
    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    with open_view(console, quiet=False, live=composed.cluster.kind != "inline") as view:
        outcome = runtime.run(plan, home, view)
    overview, _ = analysis.leaders(home, plan.card.name, top=0)
    console.print(tables.ended(overview, outcome.reason, outcome.seconds))
    if overview.several and overview.best is not None:
        console.print(tables.front(overview))
    again = plan.card.command if outcome.interrupted else None
    console.print(tables.next_lines(plan.card.name, again, best=overview.best is not None))
    return EXIT_INTERRUPTED if outcome.interrupted else EXIT_FAILED if outcome.failed else 0


if __name__ == "__main__":
    sys.exit(run_command(lambda: drive(Path(sys.argv[1]))))
