"""What the report says of several objectives: the front, as charts and as a table, and how it grew."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from swathe.objectives import Front, Losses, front_of, hypervolume
from swathe.reporting import charts, page
from swathe.reporting.facts import SweepFacts
from swathe.reporting.page import Section
from swathe.reporting.stats import Fate, SweptTrial, short

TITLE = "Trade-offs"
# The reference point is so much farther than the worst values, as a share of their ranges.
_ROOM = 0.1
# More objectives than two make a volume expensive: then it is worked out after so many trials at most.
_MOMENTS = 40


def tradeoffs(facts: SweepFacts) -> Section:
    """Return the section of a sweep with several objectives."""
    complete = [trial for trial in facts.trials if trial.fate is Fate.COMPLETE]
    good = [trial for trial in complete if trial.feasible]
    front = on_front(facts, good)
    if not front:
        return Section(TITLE, "No complete trial keeps the constraints, so there is no front." if complete else _NONE)
    names = facts.goal.metrics
    sentence = (
        f"{len(front)} of {len(complete)} complete trials are on the front: no other is as good in all of "
        f"{', '.join(names)} and better in one. Which of them to take is yours to say."
    )
    drawn = [
        (f"{names[x]} and {names[y]}", "", charts.front(facts.goal, (x, y), complete, front))
        for x, y in combinations(range(len(names)), 2)
    ]
    moments, reference = grown(facts, good)
    note = (
        "The volume is that between the front and a reference point, "
        f"{', '.join(f'{name} {short(value, 4)}' for name, value in zip(names, reference, strict=True))}: the worst "
        f"value of each objective and a tenth of its range more (Zitzler & Thiele 1999). Where it grows no more, "
        "further trials have found nothing better."
    )
    drawn.append(("Hypervolume over trials", "", charts.volume(moments)))
    body = page.grid(drawn) + _table(facts, front) + page.small(note)
    if facts.goal.constraints:
        bounds = ", ".join(map(str, facts.goal.constraints))
        body += page.small(f"{len(good)} of {len(complete)} complete trials keep the constraints: {bounds}.")
    return Section(TITLE, sentence, body)


_NONE = "No trial completed, so there is no front."


def on_front(facts: SweepFacts, trials: Sequence[SweptTrial]) -> list[SweptTrial]:
    """Return those that no other dominates, the best in the first objective first."""
    by_number = {trial.number: trial for trial in trials}
    losses = ((trial.number, facts.goal.losses(trial.objectives)) for trial in trials)
    return [by_number[number] for number in front_of(losses)]


def grown(facts: SweepFacts, trials: Sequence[SweptTrial]) -> tuple[list[tuple[int, float]], tuple[float, ...]]:
    """Return the front's hypervolume by the number of the trial that it grew with, and the reference point.

    The reference is in the objectives' own values. It is a share of the volume that is reached in the end, 0 to 1.
    """
    losses = {trial.number: facts.goal.losses(trial.objectives) for trial in trials}
    reference = _reference(list(losses.values()))
    fronts = _fronts(losses)
    if len(reference) > 2:
        fronts = fronts[:: -(-len(fronts) // _MOMENTS)] + fronts[-1:]
    volumes = [(number, hypervolume(members, reference)) for number, members in fronts]
    last = volumes[-1][1] or 1.0
    return [(number, volume / last) for number, volume in volumes], facts.goal.losses(reference)


def _fronts(losses: dict[int, Losses]) -> list[tuple[int, tuple[Losses, ...]]]:
    """Return each front that there was, by the trial that made it."""
    front, found = Front(), []
    for number, one in sorted(losses.items()):
        if front.add(number, one):
            found.append((number, tuple(front.members.values())))
    return found


def _reference(losses: Sequence[Losses]) -> Losses:
    ends = [(min(values), max(values)) for values in zip(*losses, strict=True)]
    return tuple(high + _ROOM * ((high - low) or abs(high) or 1.0) for low, high in ends)


def _table(facts: SweepFacts, front: Sequence[SweptTrial]) -> str:
    names, searched = facts.goal.metrics, list(facts.axes)
    rows = [
        (
            trial.number,
            *(short(value, 5) for value in trial.objectives),
            *(_setting(trial.params.get(name, "")) for name in searched),
        )
        for trial in front
    ]
    return page.table(["trial", *names, *searched], rows, numbers=range(1 + len(names)))


def _setting(value: object) -> str:
    return short(value, 4) if isinstance(value, float) else str(value)
