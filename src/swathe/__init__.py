"""Swathe: experiment sweeps for PyTorch with Hydra, Ray, Optuna and MLflow."""

from typing import TYPE_CHECKING, Any

from swathe.function import TrialInfo, checkpoint, report, restore, trial

if TYPE_CHECKING:
    from swathe.python import Sweep

__version__ = "0.1.0"
__all__ = ["Sweep", "TrialInfo", "__version__", "checkpoint", "report", "restore", "trial"]


def __getattr__(name: str) -> Any:
    # A worker that only reports does without all that a sweep takes.
    if name == "Sweep":
        from swathe.python import Sweep

        return Sweep
    raise AttributeError(f"module 'swathe' has no attribute {name!r}")
