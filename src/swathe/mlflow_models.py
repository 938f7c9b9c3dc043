"""The best trial's model in MLflow's registry, under the sweep's name with the alias `champion`."""

from __future__ import annotations

import json
import tempfile
from importlib.metadata import version
from pathlib import Path

import mlflow
from mlflow.models import Model

from swathe.mlflow_runs import join_tags

ALIAS = "champion"


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
    if client.get_run(parent).data.tags.get("swathe.champion") == mark:
        return
    mlflow.set_tracking_uri(client.tracking_uri)
    mlflow.set_registry_uri(client.tracking_uri)
    config = json.loads(join_tags(client.get_run(trial_run).data.tags)["swathe.config"])
    with tempfile.TemporaryDirectory() as folder:
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
            pip_requirements=[f"{name}=={version(name)}" for name in ("mlflow", "numpy", "torch")],
            metadata={"swathe.trial": trial, "swathe.trial_run": trial_run},
        )
    number = str(logged.registered_model_version)
    client.set_registered_model_alias(registered_name, ALIAS, number)
    client.set_model_version_tag(registered_name, number, "swathe.trial", str(trial))
    client.set_tag(parent, "swathe.champion", mark)
