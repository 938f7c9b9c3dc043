"""What is checked before Ray starts, besides the config itself: the function, the data and the stores."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from swathe import pruners
from swathe.cluster import ClusterPlan, check_address, inline_device
from swathe.diagnosis import thresholds_of
from swathe.errors import BadInputError
from swathe.events import Value
from swathe.home import Home
from swathe.preflight_task import PreflightTask, code_digest, make, probe
from swathe.runtime import Plan, structural_parameters, trial_config
from swathe.space import Space, ends
from swathe.study import check_sampler, check_storage
from swathe.tracking import check_uri
from swathe.training.own_source import source_of
from swathe.training.recipe import Recipe, own_target, recipe_from_config
from swathe.training.verdict import Check, Outcome, Verdict
from swathe.weights import with_weights
from swathe.worker import add_import_paths, load_function, set_threads


def check(plan: Plan, cache: Path) -> None:
    """Refuse a sweep whose function, data, stores or pruner are not good, in one sentence.

    Data that is not on this machine is downloaded to `cache`.
    """
    check_options(plan)
    check_address(plan.composed.cluster.address)
    check_storage(plan.card.storage)
    trainable = plan.composed.values.get("trainable")
    if trainable is not None:
        add_import_paths((os.getcwd(),))
        load_function(trainable)
        return
    from swathe.training import data, own_source, wording

    add_import_paths((os.getcwd(),))
    for config in _configs_by_dataset(plan):
        recipe = recipe_from_config(config)
        data.ensure(recipe.data, cache)
        wording.ensure(recipe, cache)
    for recipe in _structures(plan)[0].values() if _has_own(plan) else ():
        own_source.check_call(recipe)


def made_ready(plan: Plan, home: Home) -> Plan:
    """Return a plan that may run, with the weights that its trials begin with; raises `BadInputError`."""
    plan = with_weights(plan, home)
    check(plan, home.data)
    return plan


def check_options(plan: Plan) -> None:
    """Refuse options that need nothing but a look: `swathe config` stops here."""
    check_uri(plan.card.tracking_uri)
    pruners.build(plan.composed.pruner, plan.composed.goal.first.direction, plan.card.name)
    check_sampler(plan.composed.sampler, plan.space, pruners.rungs(plan.composed.pruner))


def _has_own(plan: Plan) -> bool:
    """Whether a trial may have a network of the user's own."""
    under = (variant for options in plan.space.variants.values() for variant in options.values())
    return any(own_target(one.get("model")) is not None for one in (plan.composed.values, *under))


def _configs_by_dataset(plan: Plan) -> list[dict[str, Any]]:
    """Return one trial config for each dataset that the space may draw."""
    parameter = plan.space.parameters.get("data")
    first = plan.space.sample(lambda name, distribution: ends(distribution)[0])
    choices = [first.get("data")] if parameter is None else list(getattr(parameter.distribution, "choices", ()))
    configs = []
    for choice in choices:

        def suggest(name: str, distribution: Any, choice: Any = choice) -> Any:
            return choice if name == "data" else ends(distribution)[0]

        configs.append(trial_config(plan.composer, plan.space.sample(suggest), 0))
    return configs


# What is tried before the first trial.

# Points of a space that are looked at for their structure: each takes some 0.1 ms.
_POINTS = 512
# Groups of which an option, or a strength of 0, can switch a part of the program on or off.
_SWITCHES = ("regularization", "augmentation", "transfer")
# For how long `swathe check` begins a further network (seconds).
PATIENT_SECONDS = 120.0


def task_of(plan: Plan, home: Home) -> PreflightTask | None:
    """Return what is to be tried before a sweep's first trial; None where it is switched off, or a function's own.

    Takes some 10 ms, needs no PyTorch, and finds data as `check` does.
    """
    options, values = plan.composed.preflight, plan.composed.values
    if not options.enabled or values.get("trainable") is not None:
        return None
    return _task(plan, home)


def _task(plan: Plan, home: Home) -> PreflightTask:
    from swathe.training import data

    options, thresholds = plan.composed.preflight, thresholds_of(plan.composed.values["diagnosis"])
    found, whole = _structures(plan)
    probes = [probe(one, thresholds) for one in _spread(list(found.values()), options.structures)]
    choices = _counted(len(found), whole=whole)
    states = {json.dumps(asdict(one.data)): data.state(one.data, home.data) for one in probes}
    facts = [code_digest(), version("torch"), choices, asdict(thresholds), states, [asdict(one) for one in probes]]
    facts += [source for one in probes if (source := source_of(one))]
    key = hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()[:32]
    return PreflightTask(key, str(home.path), tuple(probes), choices, thresholds, options.seconds)


def _structures(plan: Plan) -> tuple[dict[str, Recipe], bool]:
    """Return a recipe for each structure of the space, by its key, and whether those are all that there are."""
    from swathe.training.structure import structural_key

    found: dict[str, Recipe] = {}
    points, whole = _points(plan.space)
    for params in points:
        try:
            recipe = recipe_from_config(trial_config(plan.composer, params, 0))
        except BadInputError:
            continue  # Allowed, but not together: the trials that draw it are refused, and say why.
        found.setdefault(structural_key(recipe), recipe)
    return found, whole


def try_now(plan: Plan, home: Home) -> Verdict:
    """Check a sweep and try everything in this process, whether it is switched on or not; remembers the verdict.

    It takes the time that it needs, imports PyTorch, and says too which structures can be lanes. Raises
    `BadInputError` for what `check` refuses.
    """
    check(plan, home.data)
    if plan.composed.values.get("trainable") is not None:
        text = f"{plan.composed.values['trainable']} can be imported; data, steps and one batch are its own."
        return Verdict((Check("function", Outcome.OK, text),), 0.0)
    device = inline_device(ClusterPlan(device=plan.composed.values.get("device", "auto")))
    set_threads(1)
    return make(replace(_task(plan, home), seconds=PATIENT_SECONDS), device, lanes=True)


def _counted(structures: int, *, whole: bool) -> str:
    if not whole:
        return f"more than {structures:,} structures"
    return f"{structures:,} structure{'s' if structures != 1 else ''}"


def _points(space: Space) -> tuple[Iterator[Mapping[str, Value]], bool]:
    """Return points of a space that have all its structures, and True; or some of very many, and False."""
    decided = {name: ends(space.parameters[name].distribution) for name in _deciding(space)}
    count = 1
    for values in decided.values():
        count *= len(values)
    combinations: Iterator[Sequence[Value]]
    if count <= _POINTS:
        combinations = itertools.product(*decided.values())
    else:
        draw = random.Random(0)
        # Each value at least once, beside others in their order, and then at random.
        in_turn = (
            [values[at % len(values)] for values in decided.values()] for at in range(max(map(len, decided.values())))
        )
        at_random = ([draw.choice(values) for values in decided.values()] for _ in range(_POINTS))
        combinations = itertools.islice(itertools.chain(in_turn, at_random), _POINTS)
    return (_point(space, dict(zip(decided, values, strict=True))) for values in combinations), count <= _POINTS


def _point(space: Space, chosen: Mapping[str, Value]) -> Mapping[str, Value]:
    return space.sample(lambda name, distribution: chosen.get(name, ends(distribution)[0]))


def _deciding(space: Space) -> list[str]:
    """Return the parameters on which a trial's structure may depend, those that their conditions speak of included."""
    names = {*structural_parameters(space), *(name for name in space.parameters if name.split(".")[0] in _SWITCHES)}
    for name in reversed(list(space.parameters)):
        if name in names:
            names |= {condition.parameter for condition in space.parameters[name].conditions}
    return [name for name in space.parameters if name in names]


def _spread(found: Sequence[Recipe], most: int) -> list[Recipe]:
    """Return at most so many, the first and the last among them, at equal distances."""
    if len(found) <= most:
        return list(found)
    places = range(most)
    return [found[round(place * (len(found) - 1) / max(1, most - 1))] for place in places]
