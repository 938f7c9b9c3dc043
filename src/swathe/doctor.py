"""What this machine has for sweeps."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from typing import Any

from swathe.errors import BadInputError
from swathe.home import open_home
from swathe.training import recipe
from swathe.training.data import find
from swathe.training.sources import ORIGINS

_PACKAGES = ("swathe", "torch", "ray", "optuna", "mlflow", "hydra-core")


def examine() -> dict[str, Any]:
    """Return versions, devices, threads, compiler and the datasets found, by name; starts no Ray."""
    import torch

    findings: dict[str, Any] = {"python": platform.python_version()}
    findings |= {package: _version(package) for package in _PACKAGES}
    findings["CPUs"] = str(os.cpu_count())
    findings["CPU capability"] = torch.backends.cpu.get_cpu_capability()
    findings["torch threads by default"] = str(torch.get_num_threads())
    findings["CUDA"] = torch.version.cuda or "torch is built without it"
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    findings["GPUs"] = ", ".join(gpus) or "none"
    findings["C++ compiler"] = shutil.which(os.environ.get("CXX", "g++")) or "none (torch.compile needs one)"
    home = open_home()
    findings["working folder"] = str(home.path)
    findings["sweeps launched here"] = str(len(home.sweeps()))
    for name in ("digits", *ORIGINS):
        findings[f"data: {name}"] = _data(name)
    return findings


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _data(name: str) -> str:
    try:
        return str(find(recipe.DATASETS[name](name=name)))
    except BadInputError as error:
        return str(error)
