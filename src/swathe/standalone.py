"""`swathe train`: one run without a search, recorded in MLflow."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from swathe.config import NOT_A_TRIALS, compose_run, override_values, parse_overrides
from swathe.errors import BadInputError, SwatheError, bad_value
from swathe.events import Config, Report
from swathe.home import Home, open_home
from swathe.records import Failure, Records
from swathe.reproduce import available
from swathe.single import RunFailedError, SingleRun, train_once
from swathe.tracking import check_uri
from swathe.training import data, own_source, wording
from swathe.training.recipe import Own, Recipe, model_name, recipe_from_config
from swathe.weights import config_with_weights
from swathe.worker import add_import_paths, load_function

EXPERIMENT = "train"

# What the command line may set beside the run itself; all other keys of these sections are about a search.
_SETTINGS = ("device", "tracking.uri", "tracking.experiment", "cluster.threads_per_worker")


@dataclass(frozen=True, slots=True)
class Settings:
    """Where and how a run is trained and recorded (`uri` None: in the home); `notice` is one line for the user."""

    device: str = "cpu"
    threads: int = 1
    uri: str | None = None
    experiment: str = EXPERIMENT
    notice: str | None = None


def load(from_file: Path | None, overrides: Sequence[str]) -> tuple[Config, Settings]:
    """Return the config to train and its settings, see `composed` and `checked`. Raises `BadInputError`."""
    config, settings = composed(from_file, overrides)
    return checked(config, settings), settings


def composed(from_file: Path | None, overrides: Sequence[str]) -> tuple[Config, Settings]:
    """Return a config and its settings, with no look at what they name yet.

    A file of `swathe best` also gives the threads and the device that its numbers were made with; what the file, and
    before it an override, sets itself comes first. Raises `BadInputError`.
    """
    given = _settings_given(overrides)
    if from_file is None:
        config, geometry = compose_run(overrides), {}
    else:
        values = _read(from_file)
        geometry = _geometry(values.pop("geometry", None), str(from_file))
        given = {key: value for key in _SETTINGS if (value := _value(values, key)) is not None} | given
        values.pop("origin", None)
        config = override_values(values, overrides, str(from_file))
    settings = _settings(given, geometry)
    if "transfer.weights" in {override.key_or_group for override in parse_overrides(overrides)}:
        # Other weights than those of the file.
        config["transfer"]["sha256"] = None
    return config, settings


def _settings_given(overrides: Sequence[str]) -> dict[str, Any]:
    given = {}
    for override in parse_overrides(overrides):
        key = override.key_or_group
        if override.is_sweep_override() or key.split(".", 1)[0] not in NOT_A_TRIALS:
            continue
        if key not in _SETTINGS:
            allowed = (
                f"the run's own keys, {', '.join(_SETTINGS)}, since only `swathe launch` searches or starts workers"
            )
            raise bad_value(key, str(override.input_line).partition("=")[2], allowed)
        given[key] = override.value()
    return given


def _value(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"--from: {str(path)!r} cannot be read; allowed: a YAML file.") from error
    except yaml.YAMLError as error:
        raise BadInputError(f"--from: {str(path)!r} is not YAML; allowed: a file of `swathe best`.") from error
    if not isinstance(values, dict):
        raise BadInputError(f"--from: {str(path)!r} holds no config; allowed: a file of `swathe best --out`.")
    return values


def _geometry(found: object, source: str) -> dict[str, Any]:
    """Return the threads and the device that a file records; raises `BadInputError` for what is neither."""
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise bad_value(f"{source}: geometry", found, "a mapping such as {threads: 1, device: cpu}")
    geometry = {key: found[key] for key in ("threads", "device") if key in found}
    if "threads" in geometry:
        geometry["threads"] = _threads(f"{source}: geometry.threads", geometry["threads"])
    if geometry.get("device", "cpu") not in ("cpu", "cuda"):
        raise bad_value(f"{source}: geometry.device", geometry["device"], "cpu, cuda")
    return geometry


def _threads(key: str, value: object) -> int:
    text = str(value)
    if not (text.isascii() and text.isdigit() and int(text) >= 1):
        raise bad_value(key, value, "an integer of 1 or more")
    return int(text)


def _settings(given: Mapping[str, Any], geometry: Mapping[str, Any]) -> Settings:
    device, notice = geometry.get("device", "auto"), None
    if (asked := given.get("device")) is not None:
        device = asked
        if device == "cuda" and available("cuda") != "cuda":
            raise bad_value("device", device, "cpu or auto, since torch finds no GPU here")
    elif device == "cuda" and available("cuda") != "cuda":
        notice = "It was trained on a GPU; there is none here, so it trains on the CPU and its numbers will differ."
    if device not in ("auto", "cpu", "cuda"):
        raise bad_value("device", device, "auto, cpu, cuda")
    threads = given.get("cluster.threads_per_worker")
    uri = given.get("tracking.uri")
    if uri is not None:
        check_uri(str(uri))
    return Settings(
        device="cpu" if device == "cpu" else available("cuda"),
        threads=geometry.get("threads", 1) if threads is None else _threads("cluster.threads_per_worker", threads),
        uri=None if uri is None else str(uri),
        experiment=str(given.get("tracking.experiment") or EXPERIMENT),
        notice=notice,
    )


def checked(config: Config, settings: Settings) -> Config:
    """Refuse here what the training would refuse, so that nothing is recorded of it; raises `BadInputError`.

    Returns the config with the digest of the weights that it names.
    """
    if config.get("trainable"):
        add_import_paths((os.getcwd(),))
        load_function(config["trainable"])
        return config
    home = open_home()
    recipe = recipe_from_config(config)
    data.ensure(recipe.data, home.data)
    add_import_paths((os.getcwd(),))
    own_source.check_call(recipe)
    wording.ensure(recipe, home.data)
    try_own(recipe, home.data)
    return config_with_weights(config, home, settings.uri or home.tracking_uri)


def try_own(recipe: Recipe, cache: Path) -> None:
    """Let a network of the user's own take a batch; raises `BadInputError` for one that does not. Imports PyTorch."""
    if not isinstance(recipe.model, Own):
        return
    from swathe.training.models import build

    of = data.load(recipe.data, cache)
    build(recipe.model, of.train_x.shape[1], of.classes or 1, of.image_shape, 0.0, None, of.sequence)


def train(config: Config, settings: Settings, home: Home, on_report: Callable[[Report], None]) -> tuple[SingleRun, str]:
    """Train `config` in this process and return the run and the id under which MLflow has it.

    A run that fails is recorded too, with its traceback; then raises `SwatheError` with the reason and the id.
    """
    records = Records(settings.uri or home.tracking_uri)
    reports: list[Report] = []

    def take(report: Report) -> None:
        reports.append(report)
        on_report(report)

    def record(tags: Mapping[str, str], failure: Failure | None = None) -> str:
        return records.log_run(
            settings.experiment,
            _name(config),
            reports,
            {**tags, "swathe.config": json.dumps(config)},
            artifacts=home.artifacts,
            params=leaves(config),
            failure=failure,
        )

    try:
        run = train_once(config, home, threads=settings.threads, device=settings.device, on_report=take)
    except RunFailedError as error:
        failure = Failure(error.reason, error.traceback.rstrip())
        try:
            run_id = record(_tags(error.run), failure)
        except SwatheError as away:
            raise SwatheError(f"{error}; and it could not be recorded: {away}") from error
        raise SwatheError(f"{error} (run {run_id} in MLflow has the traceback).") from error
    return run, record(_tags(run))


def _tags(run: SingleRun) -> dict[str, str]:
    return {**run.tags, "swathe.geometry": json.dumps(dict(run.geometry))}


def _name(config: Config) -> str:
    if config.get("trainable"):
        return str(config["trainable"])
    model, optim = model_name(config["model"]), config["optim"]
    return f"{model} {config['data']['name']} {optim['name']} lr={optim['lr']:g}"


def leaves(config: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Return a nested config as one mapping of dotted keys to values, such as `optim.lr`."""
    found: dict[str, object] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= leaves(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
