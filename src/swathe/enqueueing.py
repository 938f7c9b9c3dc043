"""`swathe enqueue`: a point that a sweep is to try next, whether it runs or was stopped."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from swathe import analysis
from swathe.config import ComposedSweep, compose_sweep, parse_overrides
from swathe.enqueued import checked, hand_over
from swathe.errors import BadInputError, bad_value
from swathe.home import Home, SweepCard
from swathe.population import KEY
from swathe.space import Space


def enqueue(home: Home, name: str, words: Sequence[str]) -> str:
    """Leave a point for a sweep, given as `KEY=VALUE`, and return what comes of it, in one sentence.

    Only its driver writes to a sweep's study; the point waits in its folder. Raises `BadInputError`.
    """
    folder, card = home.existing(name)
    composed = _composed(card)
    if composed.population is not None:
        raise bad_value("SWEEP", name, f"a sweep without {KEY}, whose members have one structure")
    values = checked(_values(words), Space.parse(composed), "POINT")
    hand_over(folder.path, values)
    shown = ", ".join(f"{key}={value}" for key, value in values.items())
    if folder.driver() is not None:
        return f"Sweep {name!r} tries {shown} next; the points that it has drawn already come before."
    drawn = sum(analysis.overview(home, name).counts.values())
    more = f" sweep.trials={drawn + card.repeats}" if drawn >= card.trials else ""
    return f"Sweep {name!r} tries {shown} when it goes on: swathe resume {name}{more}"


def _values(words: Sequence[str]) -> dict[str, object]:
    values: dict[str, object] = {}
    for override in parse_overrides(words):
        if override.is_sweep_override():
            text = str(override.input_line).partition("=")[2]
            raise bad_value(f"POINT: {override.key_or_group}", text, "one value; the sampler draws what is not given")
        values[override.key_or_group] = override.value()
    return values


def _composed(card: SweepCard) -> ComposedSweep:
    """Return the config of a sweep, from the command that launched it."""
    if not card.command.startswith("swathe launch "):
        raise BadInputError(
            f"SWEEP: {card.name!r} is not allowed; allowed: sweeps that `swathe launch` began, and for others the "
            "option enqueue where they are begun."
        )
    sweep, *given = shlex.split(card.command)[2:]
    named = [] if any(word.startswith("sweep.name=") for word in given) else [f"sweep.name={card.name}"]
    composed = compose_sweep(sweep, [*given, *named])
    if composed.identity != card.identity:
        raise BadInputError(
            f"SWEEP: {card.name!r} is not allowed; allowed: a sweep whose file {composed.source} is as it was when it "
            "was launched."
        )
    return composed
