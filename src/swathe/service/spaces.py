"""What a sweep searches, and how much each parameter of it matters."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Mapping
from typing import Any

import optuna
import yaml
from optuna.trial import TrialState

from swathe.home import SweepFolder
from swathe.single_objective import by_first

# Complete trials that importances need at least, and those that are looked at at most, the newest.
MIN_TRIALS, MAX_TRIALS = 4, 2000


def space_of(folder: SweepFolder) -> dict[str, Any]:
    """Return a sweep's searches by parameter, as they were written, those under conditions among them.

    Empty for a sweep that has not begun and one whose config cannot be read.
    """
    try:
        config = yaml.safe_load(folder.config_file.read_text())
        options = config["sweep"]
        return {**options["space"], **_leaves(options.get("when") or {})}
    except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError):
        return {}


def _leaves(when: Mapping[str, Any]) -> dict[str, Any]:
    """Return the searches under conditions, however deep they are."""
    found: dict[str, Any] = {}
    for key, item in when.items():
        found |= _leaves(item) if isinstance(item, Mapping) else {str(key): item}
    return found


def importances(study: optuna.Study) -> dict[str, float]:
    """Return PED-ANOVA's importances over the complete trials (Watanabe et al. 2023), the largest first.

    They add up to 1; empty where fewer than `MIN_TRIALS` are complete or they are all alike. Of several objectives they
    are about the first.
    """
    study = by_first(study)
    complete = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    if len(complete) < MIN_TRIALS:
        return {}
    if len(complete) > MAX_TRIALS:
        # A quarter of a millisecond each.
        study = optuna.create_study(direction=study.direction)
        study.add_trials(complete[-MAX_TRIALS:])
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))
    except (ValueError, RuntimeError, ZeroDivisionError):
        # No parameter that all complete trials have, or one value for all.
        return {}


def _import_importance() -> None:
    """Import Optuna's importances without the libraries that only others of their kind use: 100 MB of the server's.

    Optuna does without a library that is not there.
    """
    hidden = {name: None for name in ("matplotlib", "sklearn") if name not in sys.modules}
    sys.modules.update(hidden)  # type: ignore[arg-type]
    try:
        importlib.import_module("optuna.importance")
    finally:
        for name in hidden:
            del sys.modules[name]


_import_importance()
