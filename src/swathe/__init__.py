"""Swathe: experiment sweeps for PyTorch with Hydra, Ray, Optuna and MLflow."""

from swathe.function import TrialInfo, checkpoint, report, restore, trial

__version__ = "0.1.0"
__all__ = ["TrialInfo", "__version__", "checkpoint", "report", "restore", "trial"]
