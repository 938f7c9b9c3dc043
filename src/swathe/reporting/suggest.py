"""Edges that the best trials touch, and a new space without them as a sweep's file that `swathe launch` accepts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from swathe.config import Composition, compose_sweep, plain_values
from swathe.errors import BadInputError
from swathe.events import Config
from swathe.reporting.stats import Axis, Fate, SweptTrial
from swathe.schema import RECIPE_GROUPS, SWEEP_GROUPS
from swathe.space import Space
from swathe.training.diagnose import NarrowSide, Range, SweepTrial, diagnose_sweep

# Where a new end is refused, half of the way to it is tried, and half of that ...
_TRIES = 4
# What belongs to the machine and not to the search, and what is of the sweep that was.
_NOT_SUGGESTED = ("cluster", "lanes", "tracking", "device")
_NOT_SUGGESTED_OF_SWEEP = ("name", "storage", "space", "when")


@dataclass(frozen=True, slots=True)
class Widening:
    """One end of a range: where it was and where it should be; `end` None where nothing farther out is allowed."""

    name: str
    low: bool
    start: float
    end: float | None
    evidence: str


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Ends to move, and the whole new sweep as YAML; "" where nothing is to be changed, or the config is refused."""

    widenings: tuple[Widening, ...]
    yaml: str = ""
    refusal: str = ""


def suggest(
    name: str, config: Config, axes: Mapping[str, Axis], trials: Sequence[SweptTrial], *, maximize: bool
) -> Suggestion:
    """Find the ends of ranges at which the best trials lie, and move them as far as the config's types and rules allow.

    Composes and checks the new sweep as `swathe launch` would, in the working folder, as often as an end is tried.
    """
    narrow = _narrow(axes, trials, maximize=maximize)
    if not narrow:
        return Suggestion(())
    try:
        body = _self_contained(name, config)
        check(body)
    except BadInputError as error:
        open_ends = (Widening(s.parameter, s.low, _start(axes, s), s.bound, s.finding.evidence) for s in narrow)
        return Suggestion(tuple(open_ends), refusal=str(error))
    ends = {axis.name: (axis.low, axis.high) for axis in axes.values()}
    widenings = []
    for side in narrow:
        start, end = _start(axes, side), None
        for bound in _nearer(axes[side.parameter], start, side.bound):
            low, high = ends[side.parameter]
            moved = (bound, high) if side.low else (low, bound)
            wider = _with_search(body, side.parameter, search_text(axes[side.parameter], *moved))
            if _is_accepted(wider):
                body, end, ends[side.parameter] = wider, bound, moved
                break
        widenings.append(Widening(side.parameter, side.low, start, end, side.finding.evidence))
    if all(widening.end is None for widening in widenings):
        return Suggestion(tuple(widenings))
    text = yaml.safe_dump(body, sort_keys=False, width=100)
    return Suggestion(tuple(widenings), yaml=str(text))


def _narrow(axes: Mapping[str, Axis], trials: Sequence[SweptTrial], *, maximize: bool) -> tuple[NarrowSide, ...]:
    ranges = {
        name: Range(axis.low, axis.high, log=axis.log, step=axis.step)
        for name, axis in axes.items()
        if not axis.is_choice and axis.low < axis.high
    }
    known = (
        SweepTrial(trial.number, trial.params, trial.value, complete=trial.fate is Fate.COMPLETE)
        for trial in trials
        if trial.fate is not Fate.FAILED
    )
    return diagnose_sweep(known, ranges, maximize=maximize).narrow


def _start(axes: Mapping[str, Axis], side: NarrowSide) -> float:
    axis = axes[side.parameter]
    return axis.low if side.low else axis.high


def _nearer(axis: Axis, start: float, bound: float) -> Iterator[float]:
    """Yield ends to try, each half as far out as the one before, in logarithms where the range is searched so."""
    for attempt in range(_TRIES):
        part = 0.5**attempt
        end = start * (bound / start) ** part if axis.log else start + (bound - start) * part
        if axis.step is None:
            yield bound if attempt == 0 else float(f"{end:.2g}")
        elif (steps := round(abs(end - start) / axis.step)) > 0:
            yield start + steps * axis.step * (1 if bound > start else -1)


def search_text(axis: Axis, low: float, high: float) -> str:
    """Return a range in the grammar of a space, with these ends."""
    if axis.step is None:
        text = f"interval({low!r}, {high!r})"
    elif axis.step.is_integer() and low.is_integer():
        # Whole numbers; a key for real numbers takes them as such.
        text = f"range({low:.0f}, {high + 1:.0f}, {axis.step:.0f})"
        text = f"int(interval({low:.0f}, {high:.0f}))" if axis.step == 1 else text
    else:
        # The stop is left out of a range: half a step behind the last value.
        text = f"range({low!r}, {high + axis.step / 2:.15g}, {axis.step!r})"
    return f"tag(log, {text})" if axis.log else text


def _with_search(body: Config, name: str, text: str) -> Config:
    """Return the sweep with another search for one parameter, wherever it stands."""
    section = body["sweep"]
    changed = {**section, "space": {key: text if key == name else old for key, old in section["space"].items()}}
    if "when" in section:
        changed["when"] = _in_branches(section["when"], name, text)
    return {**body, "sweep": changed}


def _in_branches(when: Mapping[str, Any], name: str, text: str) -> dict[str, Any]:
    return {
        condition: {
            key: _in_branches(value, name, text) if key == "when" else text if key == name else value
            for key, value in branch.items()
        }
        for condition, branch in when.items()
    }


def _self_contained(name: str, config: Config) -> Config:
    """Return a sweep's file that composes to `config`, its groups by name and what they do not say themselves."""
    options = {**({} if config.get("trainable") else RECIPE_GROUPS), **SWEEP_GROUPS}
    named = {
        group: str(config[group].get("name", option))
        for group, option in options.items()
        if group not in _NOT_SUGGESTED and isinstance(config.get(group), Mapping)
    }
    defaults: list[Any] = [*({f"/{group}": option} for group, option in named.items()), "_self_"]
    rest = {group: option for group, option in options.items() if group not in named}
    plain = plain_values(Composition("the report", {"defaults": defaults}, rest, ()).compose())
    body = _difference({key: value for key, value in config.items() if key not in _NOT_SUGGESTED}, plain)
    written = config["sweep"]
    sweep = {key: value for key, value in body.pop("sweep", {}).items() if key not in _NOT_SUGGESTED_OF_SWEEP}
    sweep = {"name": f"{name}-wider"[:100], **sweep, "space": dict(written["space"] or {})}
    if written.get("when"):
        sweep["when"] = written["when"]
    return {"defaults": defaults, **body, "sweep": sweep}


def _difference(values: Mapping[str, Any], plain: Mapping[str, Any]) -> Config:
    """Return what `values` says otherwise than `plain`."""
    found: Config = {}
    for key, value in values.items():
        other = plain.get(key)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            if inner := _difference(value, other):
                found[key] = inner
        elif key not in plain or value != other:
            found[key] = value
    return found


def check(body: Config) -> None:
    """Compose a sweep's file and read its space as `swathe launch` does; raises `BadInputError`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "suggested.yaml"
        path.write_text(yaml.safe_dump(body, sort_keys=False))
        Space.parse(compose_sweep(str(path), ()))


def _is_accepted(body: Config) -> bool:
    try:
        check(body)
    except BadInputError:
        return False
    return True
