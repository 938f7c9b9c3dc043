"""What is tried before a sweep trains: its data, a step of each of its structures, and one batch learned by heart."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from swathe.errors import BadInputError
from swathe.training.alone import alone
from swathe.training.data import load
from swathe.training.data_checks import check_data
from swathe.training.diagnose import diagnose_one_batch
from swathe.training.diagnose_facts import dataset_facts
from swathe.training.lanes import geometry_of
from swathe.training.recipe import GAN, MODELS, Augmentation, Data, Own, Recipe, Regularization
from swathe.training.solo import Solo
from swathe.training.structure import can_lane, is_slow_to_trace
from swathe.training.symptoms import Thresholds
from swathe.training.verdict import Check, Outcome, Verdict

# Examples of the batch that is learned by heart, at most.
_BATCH = 64
# Steps of each structure: the second loss tells of an update that is not finite.
_STEPS = 2
# Letters of an error that fit into a line.
_MOST_TEXT = 200


@dataclass(frozen=True, slots=True)
class Place:
    """Where it is tried: the device, the data cache, and until when something new is begun (`time.perf_counter`)."""

    device: str
    cache: Path
    end: float

    @property
    def late(self) -> bool:
        """Whether the time is over."""
        return time.perf_counter() > self.end


def examine(
    probes: Sequence[Recipe],
    choices: str,
    device: str,
    cache: Path,
    thresholds: Thresholds,
    *,
    seconds: float,
    lanes: bool = False,
) -> Verdict:
    """Look at the data of some `probes`, train a step or two of each, and let one batch be learned by heart.

    `choices`: how many structures the space has, in a word. After so many `seconds`, half of them for the steps,
    nothing further is begun; what was not tried is said. With `lanes` it is also found out which structures can be
    lanes, which takes longer than all the rest.
    """
    began = time.perf_counter()
    half, place = (Place(device, cache, began + share * seconds) for share in (0.5, 1.0))
    checks = _data_checks(probes, cache)
    if not _are_wrong(checks):
        found, trained = _step_checks(probes, choices, half, lanes=lanes)
        checks += found
        if not _are_wrong(found):
            checks.append(_batch_check(trained, place, thresholds))
    return Verdict(tuple(checks), time.perf_counter() - began)


def _are_wrong(checks: Sequence[Check]) -> bool:
    return any(check.outcome is Outcome.ERROR for check in checks)


def _data_checks(probes: Sequence[Recipe], cache: Path) -> list[Check]:
    datasets: list[Data] = []
    for one in probes:
        if one.data not in datasets:
            datasets.append(one.data)
    try:
        return [check for data in datasets for check in check_data(load(data, cache))]
    except BadInputError as error:
        return [Check("data", Outcome.ERROR, str(error))]


# A step of each structure.


def _step_checks(
    probes: Sequence[Recipe], choices: str, place: Place, *, lanes: bool
) -> tuple[list[Check], list[Recipe]]:
    """Return what is found, and the structures that could be trained."""
    trained: list[Recipe] = []
    failed, no_lanes = Counter[str](), Counter[str]()
    for one in probes:
        if (trained or failed) and place.late:
            break
        if (reason := _why_not_trained(one, place)) is not None:
            failed[reason] += 1
            continue
        trained.append(one)
        if lanes and (note := _why_no_lane(one, place)) is not None:
            no_lanes[note] += 1
    text = f"{len(trained)} of {choices} trained a step"
    text += f", {len(trained) - no_lanes.total()} can be lanes." if lanes else "."
    # A structure that cannot be trained fails its trials, each with the reason; where none can, there is no sweep.
    outcome, worse = (Outcome.OK, Outcome.WARNING) if trained else (Outcome.ERROR, Outcome.ERROR)
    checks = [Check("steps", outcome, text)]
    checks += [Check("steps", worse, f"{count} not: {reason}") for reason, count in failed.items()]
    checks += [Check("steps", Outcome.OK, f"{count} no lane: {note}") for note, count in no_lanes.items()]
    return checks, trained


def _why_not_trained(one: Recipe, place: Place) -> str | None:
    """Return why a structure cannot be trained, None where it can: what it raises, or a loss that is not finite."""
    try:
        losses = _first_losses(one, place)
    except BadInputError as error:
        return str(error)
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())[:_MOST_TEXT]
        return f"{text} ({_named(one)})."
    bad = next((loss for loss in losses if not math.isfinite(loss)), None)
    return None if bad is None else f"the loss is {bad} in the first steps ({_named(one)})."


def _why_no_lane(one: Recipe, place: Place) -> str | None:
    geometry = geometry_of(one, load(one.data, place.cache), place.device) if isinstance(one.model, Own) else None
    return None if is_slow_to_trace(one, geometry) else can_lane(one, geometry)


def _first_losses(one: Recipe, place: Place) -> list[float]:
    run = alone(one, place.device, place.cache)
    if isinstance(run, Solo):
        return list(run.train_one_batch(one.optim.lr, _STEPS))
    # Two networks against each other: an epoch is what there is.
    return [metrics["train_loss"] for _, metrics, _ in run.reports(lambda: place.late)]


# One batch learned by heart.


def _batch_check(probes: Sequence[Recipe], place: Place, thresholds: Thresholds) -> Check:
    """Let one batch be learned by the first structure; where it cannot, by the last, and by one between.

    A search among networks of which some cannot learn is a good one; one among networks of which none can is not.
    """
    refusals: list[str] = []
    probes = [one for one in probes if not isinstance(one.model, GAN)]
    if not probes:
        return Check("one batch", Outcome.OK, "two networks against each other have none to learn by heart.")
    for one in (probes[at] for at in dict.fromkeys((0, len(probes) - 1, len(probes) // 2))):
        plain = replace(one, regularization=Regularization(), augmentation=Augmentation(), batch_size=_BATCH)
        solo = Solo(plain, place.device, place.cache)
        losses = list(_in_time(solo.train_one_batch(one.optim.lr, thresholds.broken_steps), place))
        finding = diagnose_one_batch(losses, dataset_facts(solo.dataset), thresholds)
        if finding is None:
            return _learned(losses, refusals, thresholds)
        refusals.append(f"{finding.evidence} {finding.advice} The network: {_named(one)}.")
    return Check("one batch", Outcome.ERROR, refusals[0])


def _in_time(losses: Iterator[float], place: Place) -> Iterator[float]:
    for loss in losses:
        yield loss
        if place.late:
            return


def _learned(losses: Sequence[float], refusals: Sequence[str], thresholds: Thresholds) -> Check:
    if refusals:
        text = f"Of {len(refusals) + 1} networks only one can learn one batch by heart. {refusals[0]}"
        return Check("one batch", Outcome.WARNING, text)
    steps = f"in {len(losses)} steps at rate {thresholds.broken_lr:g}"
    text = f"its loss has come from {losses[0]:.3g} to {min(losses):.2g} {steps}"
    if len(losses) < thresholds.broken_steps:
        text += f", as time allowed; {thresholds.broken_steps} are asked for, so this shows nothing"
    return Check("one batch", Outcome.OK, f"{text}.")


def _named(one: Recipe) -> str:
    """Return what tells a structure from others: every option of the model that is not its default, and the batch."""
    model = one.model
    if isinstance(model, Own):
        words = [f"{name}={value}" for name, value in model.arguments.items()]
        return " ".join([model.target, *words, f"batch_size={one.batch_size}", *_other(one)])
    usual = MODELS[model.name](name=model.name)
    options = {name: getattr(model, name) for name in vars(model) if name != "name"}
    words = [f"{name}={value}" for name, value in options.items() if value != getattr(usual, name)]
    return " ".join([model.name, *words, f"batch_size={one.batch_size}", *_other(one)])


def _other(one: Recipe) -> list[str]:
    return [] if one.precision == "fp32" else [f"precision={one.precision}"]
