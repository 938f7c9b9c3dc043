"""The best trial's model in MLflow's registry, under the sweep's name with the alias `champion`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import mlflow
from mlflow.models import Model

from swathe.errors import bad_value
from swathe.mlflow_runs import join_tags
from swathe.tracking import shown
from swathe.training.own_source import SIZES, copy_source, installed
from swathe.training.recipe import own_target

ALIAS = "champion"
# Files of weights in a model that says nothing of where they are.
_WEIGHTS = (".pt", ".pth", ".bin")


def download_weights(uri: str, tracking_uri: str, folder: Path) -> Path:
    """Download a model, `models:/...` or `runs:/...`, into `folder` and return its file of weights.

    That is the artifact `weights`, which a champion has, or else the only file that can be one. Raises `BadInputError`
    for a model that is not there, or in which no such file can be told.
    """
    mlflow.set_tracking_uri(tracking_uri)
    mlflow.set_registry_uri(tracking_uri)
    try:
        place = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder)))
    except (mlflow.MlflowException, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        allowed = f"a model that MLflow has at {shown(tracking_uri)} ({reason})"
        raise bad_value("transfer.weights", uri, allowed) from error
    flavors = Model.load(str(place)).flavors if (place / "MLmodel").is_file() else {}
    named = flavors.get("python_function", {}).get("artifacts", {}).get("weights", {}).get("path")
    found = [place / named] if named else [path for path in place.rglob("*") if path.suffix in _WEIGHTS]
    if place.is_file():
        found = [place]
    if len(found) != 1:
        allowed = f"a model with one file of weights ({len(found)} there), as `swathe launch` registers them"
        raise bad_value("transfer.weights", uri, allowed)
    return found[0]


def log_champion(
    client: mlflow.MlflowClient,
    *,
    parent: str,
    trial: int,
    trial_run: str,
    registered_name: str,
    model_file: Path,
) -> None:
    """Log the state dictionary in `model_file` as a model of the sweep's run `parent`, and register it as champion.

    Does nothing when this trial's model is the champion of this run already.
    """
    mark = f"{trial_run} {model_file.stat().st_mtime_ns}"
    run = client.get_run(parent)
    if run.data.tags.get("swathe.champion") == mark:
        return
    mlflow.set_tracking_uri(client.tracking_uri)
    mlflow.set_registry_uri(client.tracking_uri)
    # Where the run is: in another experiment, MLflow does not find the model by runs:/.
    mlflow.set_experiment(experiment_id=run.info.experiment_id)
    tags = join_tags(client.get_run(trial_run).data.tags)
    config = json.loads(tags["swathe.config"])
    requirements = [f"{name}=={version(name)}" for name in ("mlflow", "numpy", "torch")]
    with _versions_taken_as_given(), tempfile.TemporaryDirectory() as folder:
        own, code = own_target(config.get("model")), []
        if own is not None:
            config["model_sizes"] = json.loads(tags[SIZES])
            (Path(folder) / "code").mkdir()
            code = copy_source(own, Path(folder) / "code")
            requirements += [] if code or (package := installed(own)) is None else [package]
        config_file = Path(folder) / "config.json"
        config_file.write_text(json.dumps(config, indent=2))
        logged = Model.log(
            artifact_path=None,
            name="champion",
            flavor=mlflow.pyfunc,
            run_id=parent,
            registered_model_name=registered_name,
            python_model=str(Path(__file__).with_name("champion.py")),
            artifacts={"weights": str(model_file), "config": str(config_file)},
            # Given, so that MLflow does not start a process that loads the model to find them out.
            pip_requirements=requirements,
            # A network of the user's own is made of the user's code.
            code_paths=code or None,
            metadata={"swathe.trial": trial, "swathe.trial_run": trial_run},
        )
    number = str(logged.registered_model_version)
    client.set_registered_model_alias(registered_name, ALIAS, number)
    client.set_model_version_tag(registered_name, number, "swathe.trial", str(trial))
    client.set_tag(parent, "swathe.champion", mark)


@contextmanager
def _versions_taken_as_given() -> Iterator[None]:
    """Keep MLflow from reading the list of files of every installed package, which takes it a second or more.

    It looks there for the versions that are installed, to warn of others that a model asks for; ours are those.
    """
    from mlflow.utils import requirements_utils

    before = requirements_utils._MODULES_TO_PACKAGES
    requirements_utils._MODULES_TO_PACKAGES = before or {}  # type: ignore[assignment]
    try:
        yield
    finally:
        requirements_utils._MODULES_TO_PACKAGES = before
