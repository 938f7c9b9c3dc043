"""Several sweeps side by side: how far each is, how good it was after equal work, and in what they differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import yaml

from swathe.errors import BadInputError
from swathe.events import TrialState, Value

if TYPE_CHECKING:
    from swathe.home import Home, SweepCard, SweepFolder
    from swathe.objectives import Objective
    from swathe.repetition import Repetition
    from swathe.study import PastTrial

# The shares of the work that all have done at which their best values are set side by side.
SHARES = (0.1, 0.25, 0.5, 1.0)
# What of a config says nothing on what was searched or trained.
_NOT_SHOWN = ("sweep.name", "sweep.storage", "sweep.tags", "sweep.note", "tracking", "cluster", "checkpoints", "cost")
MOST = 20


@dataclass(frozen=True, slots=True)
class Standing:
    """One of the sweeps: its trials by state, its reports (epochs), its best trial, and the best values so far.

    `after`: the best value after each of `Versus.epochs` reports; None where no trial was complete by then.
    """

    name: str
    counts: Mapping[str, int]
    epochs: int
    best: tuple[int, float] | None
    params: Mapping[str, Value]
    after: Sequence[float | None]

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Standing:
        best = plain["best"]
        return cls(**{**plain, "best": None if best is None else (int(best[0]), float(best[1]))})


@dataclass(frozen=True, slots=True)
class Versus:
    """Sweeps with one metric and direction; `differences`: keys of their configs with each one's value, in order."""

    metric: str
    direction: str
    epochs: Sequence[int]
    sweeps: Sequence[Standing]
    differences: Mapping[str, Sequence[Any]]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Versus:
        """Read what `as_dict` returns."""
        return cls(**{**plain, "sweeps": [Standing.from_dict(one) for one in plain["sweeps"]]})


def versus(home: Home, names: Sequence[str]) -> Versus:
    """Read sweeps to set them side by side; raises `BadInputError` where they do not optimise the same."""
    from swathe import analysis

    check(names)
    found = [home.existing(name) for name in names]
    refuse_unlike([card for _, card in found])
    histories = []
    for name in names:
        study = analysis.open_study(home, name)
        histories.append(study.history())
        study.close()
    return stand([card for _, card in found], histories, [config_of(folder) for folder, _ in found])


def check(names: Sequence[str]) -> None:
    """Refuse too many names, and one that is given twice."""
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None or len(names) > MOST:
        raise BadInputError(
            f"SWEEP: {twice or f'{len(names)} sweeps'!r} is not allowed; allowed: up to {MOST} sweeps, each once."
        )


def refuse_unlike(cards: Sequence[SweepCard]) -> None:
    """Refuse sweeps whose values cannot be compared."""
    first = cards[0]
    for card in cards[1:]:
        if card.goal.objectives != first.goal.objectives:
            raise BadInputError(
                f"SWEEP: {card.name!r} is not allowed beside {first.name!r}; allowed: sweeps that optimise the same, "
                f"here {_goal(first)}, and not {_goal(card)}."
            )


def stand(
    cards: Sequence[SweepCard], histories: Sequence[Sequence[PastTrial]], configs: Sequence[Mapping[str, Any]]
) -> Versus:
    """Set sweeps side by side from their trials and their composed configs."""
    from swathe import analysis

    objective = cards[0].goal.first
    spent = [sum(len(past.values) for past in history) for history in histories]
    least = min(spent)
    epochs = sorted({max(1, round(share * least)) for share in SHARES}) if least else []
    sweeps = []
    for card, history, every in zip(cards, histories, spent, strict=True):
        counts = {state.value: sum(past.state is state for past in history) for state in TrialState}
        best = analysis.winner(card, history)
        leads = None if best is None or best.value is None else (best.number, best.value)
        after = [_after(history, objective, count, card.repetition) for count in epochs]
        named = {state: count for state, count in counts.items() if count}
        sweeps.append(Standing(card.name, named, every, leads, {} if best is None else best.params, after))
    return Versus(objective.metric, objective.direction.value, epochs, sweeps, differences(configs))


def differences(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the keys whose values are not the same in all of these, by their dotted names; None where one has none."""
    flat = [dict(_flat(config)) for config in configs]
    keys = dict.fromkeys(key for one in flat for key in one)
    rows = {key: [one.get(key) for one in flat] for key in keys if not key.startswith(_NOT_SHOWN)}
    return {key: values for key, values in rows.items() if any(value != values[0] for value in values)}


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in config.items():
        name = f"{prefix}{key}"
        # A parameter of the space has dots in its name already.
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{name}.")
        else:
            yield name, value


def _after(history: Sequence[PastTrial], objective: Objective, epochs: int, repetition: Repetition) -> float | None:
    """Return the best value among the trials that were over once so many reports had been made, as they ended.

    Of points of several trials, those that were complete by then count.
    """
    from swathe import analysis
    from swathe.points import points

    ended = sorted(
        (past for past in history if past.ended is not None), key=lambda past: (past.ended or 0, past.number)
    )
    if repetition.several:
        # The last trial of a point brings its value, the others none.
        closed = {point.last: point.as_trial for point in points(history, repetition, objective.direction)}
        ended = [replace(closed.get(past.number, replace(past, value=None)), values=past.values) for past in ended]
    best, spent = None, 0
    for past in ended:
        spent += len(past.values)
        if spent > epochs:
            break
        if analysis.may_be_best(past) and (best is None or objective.loss(past.value or 0.0) < objective.loss(best)):
            best = past.value
    return best


def config_of(folder: SweepFolder) -> Mapping[str, Any]:
    """Return the config that a sweep was composed to; empty where its folder has none."""
    try:
        read = yaml.safe_load(folder.config_file.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return read if isinstance(read, dict) else {}


def _goal(card: SweepCard) -> str:
    return ", ".join(f"{one.direction.value} {one.metric}" for one in card.goal.objectives)
