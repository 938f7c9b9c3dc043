"""Sweeps from Python, in a notebook or a script: `swathe.Sweep(train, space={...}).run()`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from swathe.errors import bad_value
from swathe.home import Home, open_home, plain_name, write_aside
from swathe.pickled import pack, unpack

if TYPE_CHECKING:
    import pandas

    from swathe.runtime import View

# The parameter by which a worker finds the function; the function does not see it.
_FUNCTION = "swathe_function"


@dataclass(frozen=True, slots=True)
class Result:
    """How a session of a sweep ended, and what there is of the sweep by now."""

    name: str
    reason: str
    failed: bool
    interrupted: bool
    seconds: float
    home: Home

    @property
    def best(self) -> dict[str, Any] | None:
        """The best complete trial: {trial, value, params}, of several objectives by the first; None without one."""
        from swathe import analysis

        found, _ = analysis.leaders(self.home, self.name, top=0)
        if found.best is None:
            return None
        return {"trial": found.best[0], "value": found.best[1], "params": dict(found.best_params)}

    @property
    def front(self) -> list[dict[str, Any]]:
        """Of several objectives, the trials that no other dominates: {trial, values, params} each; else empty."""
        from swathe import analysis

        return [one.as_dict() for one in analysis.leaders(self.home, self.name, top=0)[0].front]

    @property
    def failures(self) -> list[tuple[str, int]]:
        """Why trials failed: each reason, and how many trials failed for it, most first."""
        from swathe import analysis

        return [*analysis.leaders(self.home, self.name, top=0)[0].failures]

    @property
    def trials(self) -> pandas.DataFrame:
        """A row for each trial, see `swathe.exporting.trials`."""
        from swathe import exporting

        return exporting.trials(self.home, self.name)

    @property
    def curves(self) -> pandas.DataFrame:
        """A row for each report, see `swathe.exporting.curves`."""
        from swathe import exporting

        return exporting.curves(self.home, self.name)

    def _repr_html_(self) -> str:
        from swathe.notebook import result_cell

        return result_cell(self.name, self.reason, self.seconds, self.best, self.failures)


class Sweep:
    """A sweep that `run` runs, or goes on with: of a recipe, as `swathe launch` does, or of a function of one's own.

        swathe.Sweep("quickstart", "sweep.trials=20").run()
        swathe.Sweep(train, params={"lr": 0.1}, space={"lr": "tag(log, interval(1e-4, 1))"}, trials=20).run()

    `sweep`: a name in sweeps/, the path of a YAML file, or a function that takes the parameters and reports, which may
    be defined in the notebook itself. `overrides`: in Hydra's grammar, as on the command line. For a function: `params`
    are its parameters with a value each, `space` the searches among them in Hydra's grammar, `name` is the function's
    own unless said, and `options` are those of `sweep` in the config (metric, direction, trials, ...; the points of
    `enqueue` have the parameters' own names).
    """

    def __init__(
        self,
        sweep: str | os.PathLike[str] | Callable[[Any], Any],
        /,
        *overrides: str,
        params: Mapping[str, Any] | None = None,
        space: Mapping[str, str] | None = None,
        name: str | None = None,
        **options: Any,
    ) -> None:
        if not callable(sweep):
            given = {"params": params, "space": space, "name": name, **options}
            named = next((key for key, value in given.items() if value is not None), None)
            if named is not None:
                raise bad_value(
                    named, given[named], f"overrides, such as 'sweep.{named}=...', since this is no function"
                )
        self._sweep = sweep
        self._overrides = overrides
        self._params, self._space, self._name, self._options = params or {}, space or {}, name, options

    def run(self, *, quiet: bool = False) -> Result:
        """Run the sweep to its end, or until it is interrupted, and show how it goes; raises `BadInputError`."""
        from swathe import runtime
        from swathe.config import compose_sweep
        from swathe.preflight import made_ready, task_of
        from swathe.space import Space

        home = open_home(create=True)
        file = self._written(home) if callable(self._sweep) else os.fspath(self._sweep)
        composed = compose_sweep(file, self._overrides)
        plan = runtime.prepare(composed, Space.parse(composed), home, self._command(file))
        plan = made_ready(plan, home)
        with _view(quiet=quiet, inline=composed.cluster.kind == "inline") as view:
            outcome = runtime.run(plan, home, view, task_of(plan, home))
        return Result(plan.card.name, outcome.reason, outcome.failed, outcome.interrupted, outcome.seconds, home)

    def _command(self, file: str) -> str:
        import shlex

        if callable(self._sweep):
            return f"swathe.Sweep({getattr(self._sweep, '__name__', 'function')}, ...).run()"
        return shlex.join(["swathe", "launch", file, *self._overrides])

    def _written(self, home: Home) -> str:
        """Write the function and a sweep's file for it, and return that one's path."""
        assert callable(self._sweep)
        own = plain_name(getattr(self._sweep, "__name__", "")) or "function"
        name = self._name or own
        # The name is checked before it names a folder, and workers of a running sweep may yet read what is there.
        sweep = home.sweep(name)
        sweep.refuse_while_driven()
        folder = home.path / "functions" / sweep.name
        # As with a function of a module, its code is no part of what makes two sweeps the same.
        path = folder / "function.pkl"
        write_aside(path, pack(self._sweep, "The function"))
        body = {
            # The pruner is the one of sweeps that name none.
            "defaults": [{"/sampler": "tpe"}, "_self_"],
            "trainable": "swathe.python:call",
            "params": {**self._params, _FUNCTION: str(path)},
            "sweep": {
                "name": name,
                **self._options,
                "space": {f"params.{key}": text for key, text in self._space.items()},
                "enqueue": _of_params(self._options.get("enqueue", [])),
            },
        }
        try:
            write_aside(folder / "sweep.yaml", yaml.safe_dump(body, sort_keys=False).encode())
        except yaml.YAMLError as error:
            raise bad_value("params", dict(self._params), f"plain values ({error})") from error
        return str(folder / "sweep.yaml")


def _of_params(points: Any) -> Any:
    """Return points with their keys as a sweep's space has them; what is no list of points is refused elsewhere."""
    if not isinstance(points, list):
        return points
    return [
        {f"params.{key}": value for key, value in point.items()} if isinstance(point, Mapping) else point
        for point in points
    ]


def call(params: Any) -> Any:
    """Call the function that was sent along, in a worker."""
    params = type(params)(params)
    path = params.pop(_FUNCTION)
    return _load(path, os.stat(path).st_mtime_ns)(params)


@lru_cache(maxsize=4)
def _load(path: str, changed: int) -> Callable[[Any], Any]:
    return unpack(Path(path))  # type: ignore[no-any-return]


@contextmanager
def _view(*, quiet: bool, inline: bool) -> Iterator[View]:
    """Choose a table that is drawn in place in a terminal or a notebook; plain lines elsewhere."""
    from rich.console import Console

    from swathe.notebook import NotebookView, in_notebook
    from swathe.view import open_view

    if in_notebook() and not quiet:
        cell = NotebookView()
        try:
            yield cell
        finally:
            cell.draw()
        return
    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    with open_view(console, quiet=quiet, live=console.is_terminal and not inline) as view:
        yield view
