"""`swathe lr-find`: a learning-rate range test of a recipe, its plot, and its record in MLflow."""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from swathe.errors import SwatheError, bad_value, writing
from swathe.events import Config, Direction, Report
from swathe.home import Home, write_aside
from swathe.lr_plot import advice, override, page
from swathe.records import Records
from swathe.standalone import Settings, leaves
from swathe.training import lr_finder
from swathe.training.data import load
from swathe.training.lr_range import Finding, RangeTest
from swathe.training.recipe import GAN, Own, Recipe, recipe_from_config
from swathe.worker import WorkerSetup, geometry, prepare

# Fewer steps say nothing of a rate.
LEAST_STEPS = 10
# More rates than these are in no terminal and no plot to be told apart.
MOST_RATES = 1000


@dataclass(frozen=True, slots=True)
class Options:
    """The rates to try, `rates` of them from `from_lr` to `to_lr` at equal ratios, and for how many steps each."""

    from_lr: float = 1e-7
    to_lr: float = 10.0
    rates: int = 33
    steps: int = 100


@dataclass(frozen=True, slots=True)
class Result:
    """What `swathe lr-find` found: the test, what it says, how it was done (`note` is one line for the user).

    `seconds` are those of the training; `plot` is the page that was written, `run_id` MLflow's.
    """

    config: Config
    test: RangeTest
    finding: Finding
    steps: int
    note: str
    seconds: float
    plot: Path
    run_id: str

    @property
    def override(self) -> str | None:
        """The suggested range as `swathe launch` takes it."""
        return override(self.finding)

    def lines(self) -> list[str]:
        """Return where it is kept and what one can do with it, a line each; when no rate learns, what may be wrong."""
        kept = [f"Plot:              {self.plot}", f"Run in MLflow:     {self.run_id}"]
        return [*kept, *advice(self.test, self.finding)]

    def as_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        test, finding = self.test, self.finding
        rows = zip(test.rates.tolist(), test.losses.tolist(), finding.diverged, strict=True)

        def rate(index: int | None) -> float | None:
            return None if index is None else float(test.rates[index])

        return {
            "lr": finding.lr,
            "range": None if finding.low is None else [finding.low, finding.high],
            "override": self.override,
            "lowest": rate(finding.lowest),
            "best": rate(finding.best),
            "highest": rate(finding.highest),
            "untrained_loss": test.untrained,
            "method": test.method.value,
            "note": self.note,
            "steps": self.steps,
            "seconds": self.seconds,
            "rates": [{"lr": lr, "loss": loss, "diverged": diverged} for lr, loss, diverged in rows],
            "plot": str(self.plot),
            "run_id": self.run_id,
        }


def check(options: Options, plot: Path | None) -> None:
    """Refuse options that are not allowed: `BadInputError` with the option, the value and why."""
    for key, value in (("--from-lr", options.from_lr), ("--to-lr", options.to_lr)):
        if not (math.isfinite(value) and value > 0):
            raise bad_value(key, value, "a finite number above 0")
    if options.from_lr >= options.to_lr:
        raise bad_value("--from-lr", options.from_lr, f"a number below --to-lr, which is {options.to_lr:g}")
    if not 2 <= options.rates <= MOST_RATES:
        raise bad_value("--rates", options.rates, f"an integer from 2 to {MOST_RATES}")
    if options.steps < LEAST_STEPS:
        raise bad_value("--steps", options.steps, f"an integer, at least {LEAST_STEPS}")
    if plot is not None and not (plot.suffix == ".html" and os.access(plot.absolute().parent, os.W_OK)):
        raise bad_value("--plot", str(plot), "an .html file in a folder that can be written")


def _recipe(config: Config) -> Recipe:
    if config.get("trainable"):
        allowed = "null, since the steps of a function, and their rates, are its own"
        raise bad_value("trainable", config["trainable"], allowed)
    recipe = recipe_from_config(config)
    if isinstance(recipe.model, GAN):
        raise bad_value("model.name", recipe.model.name, "a model with one rate, and a loss that tells how good it is")
    return recipe


def run(config: Config, settings: Settings, home: Home, options: Options, plot: Path | None = None) -> Result:
    """Test the rates of a recipe in this process, write the plot and record it all in MLflow.

    The plot goes to `plot`, else into the home's data. Raises `BadInputError` for options that `check` refuses, and for
    a function, `SwatheError` when not even the untrained network has a finite loss.
    """
    check(options, plot)
    recipe = _recipe(config)
    setup = WorkerSetup(None, "val_loss", Direction.MINIMIZE, str(home.path), (), settings.device, settings.threads)
    prepare(setup)
    began = time.perf_counter()
    test, note = measure(recipe, options, settings.device, home.data)
    seconds = time.perf_counter() - began
    if not math.isfinite(test.untrained):
        raise SwatheError("The loss of the untrained network is not finite: look at the data's values and the model.")
    finding = lr_finder.find(test)
    file = plot or home.data / "lr-find" / f"{_model(recipe)}-{recipe.data.name}-{recipe.optim.name}.html"
    _write(file, page(test, finding, _title(recipe)))
    run_id = _record(config, recipe, settings, home, setup, test, finding, seconds)
    return Result(config, test, finding, options.steps, note, seconds, _relative(file), run_id)


def measure(recipe: Recipe, options: Options, device: str, cache: Path) -> tuple[RangeTest, str]:
    """Try the rates as lanes, or by one run where lanes do not pay, and return one line that says which."""
    reason = lr_finder.why_ramp(recipe, device, cache)
    if reason is None:
        rates = np.geomspace(options.from_lr, options.to_lr, options.rates).tolist()
        losses = lr_finder.try_as_lanes(recipe, [*rates, lr_finder.STILL], options.steps, device, cache)
        note = f"{options.rates} rates side by side, as lanes of {options.steps} steps each"
        return lr_finder.of_lanes(rates, losses[:, :-1], losses[:, -1]), note
    rates = np.geomspace(options.from_lr, options.to_lr, options.steps).tolist()
    note = f"one run of {options.steps} steps whose rate rises at each, as {reason}"
    return lr_finder.of_ramp(rates, lr_finder.try_as_ramp(recipe, rates, device, cache)), note


def _title(recipe: Recipe) -> str:
    return f"{_model(recipe)} on {recipe.data.name} with {recipe.optim.name}"


def _model(recipe: Recipe) -> str:
    return recipe.model.target.rpartition(".")[2] if isinstance(recipe.model, Own) else recipe.model.name


def _write(file: Path, text: str) -> None:
    with writing("--plot", file, "a file in a folder that can be"):
        write_aside(file, text.encode())


def _relative(file: Path) -> Path:
    """Return a file as people name it: relative where it lies below the working folder."""
    here = Path.cwd()
    return file.relative_to(here) if file.is_relative_to(here) else file


def _record(
    config: Config,
    recipe: Recipe,
    settings: Settings,
    home: Home,
    setup: WorkerSetup,
    test: RangeTest,
    finding: Finding,
    seconds: float,
) -> str:
    """Record the test as a run whose steps are the rates, and return its id."""
    rows = zip(test.rates.tolist(), test.losses.tolist(), strict=True)
    now = time.time()
    reports = [Report(0, step, {"lr": lr, "loss": loss}, 0.0, now) for step, (lr, loss) in enumerate(rows)]
    reports[0] = Report(0, 0, reports[0].metrics, seconds, now)
    found = {"lr": finding.lr, "low": finding.low, "high": finding.high, "untrained_loss": test.untrained}
    dataset = load(recipe.data, home.data)
    tags = {
        "swathe.kind": "lr-find",
        "swathe.lr_find": json.dumps({"method": test.method.value, **found}),
        "swathe.geometry": json.dumps({**geometry(setup), "engine": test.method.value}),
        "swathe.dataset": dataset.name,
        "swathe.dataset_digest": dataset.digest,
    }
    params = {**leaves(config), **{f"lr_find.{key}": value for key, value in found.items() if value is not None}}
    name = f"lr-find: {_title(recipe)}"
    records = Records(settings.uri or home.tracking_uri)
    return records.log_run(settings.experiment, name, reports, tags, artifacts=home.artifacts, params=params)
