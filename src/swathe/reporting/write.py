"""Make a sweep's report: read, train again what shows how sure it is, write the page and keep it in MLflow."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from swathe import __version__
from swathe.errors import bad_value, writing
from swathe.home import Home, write_aside
from swathe.records import Records
from swathe.reporting import sections
from swathe.reporting.facts import SweepFacts, read
from swathe.reporting.page import page
from swathe.reporting.retrain import retrain
from swathe.reporting.sections import Again
from swathe.reporting.stats import Fate, roles
from swathe.reporting.suggest import suggest

# The best config is trained again with so many seeds.
SEEDS = 5
# The file's name in MLflow.
ARTIFACT = "report.html"
_RULE = (
    "The rule: what swaps a config group, or says what is trained (model, data, batch size), is scientific; optimiser, "
    "schedule and regularisation values are nuisance; what is not in the space is fixed."
)
_FUNCTION_RULE = (
    "The rule for functions: choices are scientific, numbers nuisance, and what is not in the space is fixed."
)


@dataclass(frozen=True, slots=True)
class Report:
    """Where the report is: its file, and the MLflow run that has it as the artifact `report.html`."""

    path: Path
    run_id: str


def write_report(
    home: Home,
    name: str,
    *,
    out: Path | None = None,
    seeds: bool = True,
    pruned: int = 5,
    scientific: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: None,
) -> Report:
    """Write the report of a sweep as one HTML file, in the sweep's folder or to `out`, and log it in MLflow.

    `seeds`: the best config is trained with `SEEDS` other seeds. `pruned`: so many pruned trials, drawn at random, are
    trained to their ends. `scientific`: the parameters to compare, by the rule if none is named. `say` is told what
    takes a while. Raises `BadInputError` for a sweep without a trial that is over, for a parameter that is not in the
    space, and for a file that cannot be written.
    """
    folder, card = home.existing(name)
    path = folder.path / f"{name}-report.html" if out is None else out
    if not path.parent.is_dir() or path.is_dir():
        raise bad_value("--out", str(path), "a file in an existing folder")
    facts = read(home, name)
    for parameter in scientific:
        if parameter not in facts.axes:
            raise bad_value("--scientific", parameter, ", ".join(facts.axes) or "none, since nothing was searched")
    again = _train_again(facts, home, seeds=seeds, pruned=pruned, say=say)
    suggestion = suggest(name, facts.config, facts.axes, facts.trials, maximize=facts.maximize)
    found = roles(facts.axes, facts.groups, scientific, function=facts.is_function)
    rule = _FUNCTION_RULE if facts.is_function else _RULE
    if scientific:
        rule = "The scientific ones were named with --scientific; what else was searched is nuisance, the rest fixed."
    text = page(
        f"Sweep {name}: report",
        sections.headline(facts),
        sections.build(facts, found, rule, suggestion, again),
        f"Made by Swathe {__version__} at {time.strftime('%Y-%m-%d %H:%M')} from the study and MLflow's record of: "
        f"{facts.command}",
    )
    with writing("--out", path):
        write_aside(path, text.encode())
    return Report(path, Records(card.tracking_uri).log_sweep_text(card.experiment, name, ARTIFACT, text))


def _train_again(facts: SweepFacts, home: Home, *, seeds: bool, pruned: int, say: Callable[[str], None]) -> Again:
    best = facts.best
    why_not = ""
    if facts.is_function:
        why_not = "functions are not trained again for a report, only recipes are"
    elif facts.config["sweep"].get("population") is not None:
        why_not = "members of populations are trained again by swathe reproduce alone, as their values change"
    elif best is None or best.number not in facts.runs:
        why_not = "there is no complete trial that is recorded"
    no_seeds = why_not or ("" if seeds else "it was not trained again (--no-seeds)")
    no_pruned = why_not or ("" if pruned else "none was trained to its end (--pruned 0)")
    if facts.repeats > 1:
        no_pruned = no_pruned or "one training more says little of a point of several"
    if best is None:
        return Again(None, no_seeds, None, no_pruned)
    again = None
    if not no_seeds:
        say(f"Training the config of trial {best.number} with {SEEDS} other seeds ...")
        config = facts.trial_config(best.number)
        configs = {seed: {**config, "seed": seed} for seed in other_seeds(int(config["seed"]))}
        # A trial that reached the sweep's target was ended there; others end by themselves.
        until = best.step if facts.config["sweep"].get("target") is not None else None
        again = retrain(configs, home, facts.geometry(best.number), metric=facts.metric, until=until)
    to_the_end = None
    sample = [] if no_pruned else _sample(facts, pruned)
    if sample:
        say(f"Training {sections.counted(len(sample), 'pruned trial')} to the end ...")
        configs = {number: facts.trial_config(number) for number in sample}
        to_the_end = retrain(configs, home, facts.geometry(best.number), metric=facts.metric)
    return Again(again, no_seeds, to_the_end, no_pruned or "their runs are not in MLflow")


def other_seeds(seed: int) -> list[int]:
    """Return `SEEDS` seeds that are not `seed`: those after it, of 31 bits."""
    return [(seed + offset) % 2**31 for offset in range(1, SEEDS + 1)]


def _sample(facts: SweepFacts, count: int) -> list[int]:
    """Draw pruned trials, the same ones for every report of these trials."""
    numbers = [trial.number for trial in facts.trials if trial.fate is Fate.PRUNED and trial.number in facts.runs]
    return sorted(random.Random(0).sample(numbers, min(count, len(numbers))))
