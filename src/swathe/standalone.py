"""`swathe train`: one run without a search, recorded in MLflow."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import yaml

from swathe.config import compose_run, override_values
from swathe.errors import BadInputError
from swathe.events import Config, Report
from swathe.home import Home, open_home
from swathe.records import Records
from swathe.single import SingleRun, train_once
from swathe.training import data
from swathe.training.recipe import recipe_from_config
from swathe.worker import add_import_paths, load_function

EXPERIMENT = "train"


def load(from_file: Path | None, overrides: Sequence[str]) -> tuple[Config, dict[str, str]]:
    """Return the config to train and the geometry (threads, device) that its numbers were made with, if recorded."""
    if from_file is None:
        return _checked(compose_run(overrides)), {}
    try:
        values = yaml.safe_load(from_file.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"--from: {str(from_file)!r} cannot be read; allowed: a YAML file.") from error
    except yaml.YAMLError as error:
        raise BadInputError(f"--from: {str(from_file)!r} is not YAML; allowed: a file of `swathe best`.") from error
    if not isinstance(values, dict):
        raise BadInputError(f"--from: {str(from_file)!r} holds no config; allowed: a file of `swathe best --out`.")
    geometry = values.pop("geometry", None) or {}
    values.pop("origin", None)
    return _checked(override_values(values, overrides, str(from_file))), geometry


def _checked(config: Config) -> Config:
    """Refuse here what the training would refuse, so that nothing is recorded of it; raises `BadInputError`."""
    if config.get("trainable"):
        add_import_paths((os.getcwd(),))
        load_function(config["trainable"])
    else:
        data.obtain(recipe_from_config(config).data, open_home().data)
    return config


def train(
    config: Config, geometry: Mapping[str, str], home: Home, on_report: Callable[[Report], None]
) -> tuple[SingleRun, str]:
    """Train `config` in this process and return the run and the id under which MLflow has it."""
    threads, device = int(geometry.get("threads", "1")), geometry.get("device", "cpu")
    run = train_once(config, home, threads=threads, device=device, on_report=on_report)
    tags = {**run.tags, "swathe.config": json.dumps(config), "swathe.geometry": json.dumps(dict(run.geometry))}
    run_id = Records(home.tracking_uri).log_run(
        EXPERIMENT, _name(config), run.reports, tags, artifacts=home.artifacts, params=_leaves(config)
    )
    return run, run_id


def _name(config: Config) -> str:
    if config.get("trainable"):
        return str(config["trainable"])
    return f"{config['model']['name']} {config['data']['name']} {config['optim']['name']} lr={config['optim']['lr']:g}"


def _leaves(config: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    leaves: dict[str, object] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            leaves |= _leaves(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves
