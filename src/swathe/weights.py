"""Where the weights of a transfer come from: found before a sweep begins, and kept in the home by their digest.

`transfer.weights` names a sweep that was launched here (its kept best model), a model of MLflow or a file. What it
means may change from day to day; the digest that goes into each trial's config does not.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

from optuna.distributions import BaseDistribution

from swathe.errors import BadInputError, bad_value
from swathe.events import Config, Value
from swathe.home import Home, write_aside
from swathe.runtime import Plan
from swathe.space import TrialComposer, ends
from swathe.training.recipe import FineTune, Recipe, recipe_from_config

_MLFLOW = ("models:/", "runs:/")
_ALLOWED = (
    "a sweep that was launched here and has kept a model, models:/NAME/VERSION, models:/NAME@ALIAS, runs:/ID/NAME, or "
    "a file that torch.save has made of a state dictionary"
)


def with_weights(plan: Plan, home: Home) -> Plan:
    """Return the plan of a sweep whose trials know the digests of the weights that they begin with.

    The weights are copied into the home and tried on the networks at both ends of the space. Raises `BadInputError` for
    what is not there or does not fit, and where the sweep has begun with other weights of the same name.
    """
    names = dict.fromkeys(_names(plan))
    if not names:
        return plan
    digests = {name: _kept(name, home, plan.card.tracking_uri) for name in names if name}
    _compare(plan, digests)
    composer = TrialComposer(plan.composed, plan.space, digests)
    for choose in (_lowest, _highest):
        recipe = recipe_from_config(composer.trial_config(plan.space.sample(choose)))
        _check_fit(recipe, home)
    return replace(plan, composer=composer)


def config_with_weights(config: Config, home: Home, tracking_uri: str) -> Config:
    """Return a single run's config with the digest of its weights, if it has any. Raises `BadInputError`."""
    recipe = recipe_from_config(config)
    if not isinstance(recipe.transfer, FineTune):
        return config
    found = deepcopy(config)
    if recipe.transfer.sha256 is None:
        found["transfer"]["sha256"] = _kept(recipe.transfer.weights, home, tracking_uri)
    _check_fit(recipe_from_config(found), home)
    return found


def _names(plan: Plan) -> Iterator[str]:
    """Yield what the trials of a sweep may have as `transfer.weights`."""
    if plan.composed.values.get("trainable") is not None:
        return
    parameter = plan.space.parameters.get("transfer.weights")
    if parameter is not None:
        yield from (str(parameter.decode(choice)) for choice in getattr(parameter.distribution, "choices", ()))
    for choose in (_lowest, _highest):
        transfer = plan.composer.trial_config(plan.space.sample(choose)).get("transfer", {})
        yield from [str(transfer["weights"])] if "weights" in transfer else []


def _lowest(name: str, distribution: BaseDistribution) -> Value:
    return ends(distribution)[0]


def _highest(name: str, distribution: BaseDistribution) -> Value:
    return ends(distribution)[-1]


def _check_fit(recipe: Recipe, home: Home) -> None:
    """Refuse weights that are not those of the recipe's network; where no trial has any, all is well."""
    if not isinstance(recipe.transfer, FineTune):
        return
    from swathe.training.data import load
    from swathe.training.models import build
    from swathe.training.transfer import initial_state

    data = load(recipe.data, home.data)
    inputs, outputs = data.train_x.shape[1], data.classes or 1
    network = build(recipe.model, inputs, outputs, data.image_shape, 0.0, None, data.sequence)
    initial_state(recipe.transfer, network.state_dict(), home.data)


def _compare(plan: Plan, digests: Mapping[str, str]) -> None:
    """Refuse to go on with a sweep whose weights have become others; else keep the digests for the next time."""
    file = plan.folder.path / "weights.json"
    if plan.folder.card() is None or not file.is_file():
        write_aside(file, json.dumps(dict(digests)).encode())
        return
    before = json.loads(file.read_text())
    for name, digest in digests.items():
        if before.get(name, digest) != digest:
            raise BadInputError(
                f"transfer.weights: {name!r} has changed since this sweep began: its SHA-256 is {digest}; allowed: "
                f"{before[name]}, or another sweep.name."
            )


# Finding them.


def _kept(name: str, home: Home, tracking_uri: str) -> str:
    """Copy the weights of this name into the home; return their digest."""
    from swathe.training.transfer import weights_file

    content = _content(name, home, tracking_uri)
    digest = hashlib.sha256(content).hexdigest()
    file = weights_file(digest, home.data)
    if not file.is_file():
        write_aside(file, content)
    return digest


def _content(name: str, home: Home, tracking_uri: str) -> bytes:
    if name.startswith(_MLFLOW):
        from swathe.mlflow_models import download_weights

        with tempfile.TemporaryDirectory() as folder:
            return _read(name, lambda: download_weights(name, tracking_uri, Path(folder)))
    return _read(name, lambda: _file(name, home))


def _read(name: str, find: Callable[[], Path]) -> bytes:
    try:
        return find().read_bytes()
    except OSError as error:
        raise bad_value("transfer.weights", name, _ALLOWED) from error


def _file(name: str, home: Home) -> Path:
    """Return the best model of the sweep of this name, or else the file."""
    path = Path(name)
    if path.is_file():
        return path
    launched = {folder.name: folder for folder in home.sweeps()}
    if name in launched and launched[name].best_model.is_file():
        return launched[name].best_model
    if name in launched:
        raise BadInputError(f"transfer.weights: the sweep {name!r} has kept no model yet; allowed: {_ALLOWED}.")
    hint = "" if path.suffix or "/" in name else f"; for the sweep's, launch it first: swathe launch {name}"
    raise bad_value("transfer.weights", name, f"{_ALLOWED}{hint}")
