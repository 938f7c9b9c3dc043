"""The page of plots and the table of trials, from studies in memory."""

from __future__ import annotations

import csv
import io
import json
import math

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from swathe import plots

DISTRIBUTIONS = {"lr": FloatDistribution(0.0, 1.0), "optim": CategoricalDistribution(["sgd", "adam"])}


@pytest.fixture
def study() -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    made = optuna.create_study(direction="minimize", study_name="<sweep>")
    for number in range(12):
        lr = number / 12
        made.add_trial(
            optuna.create_trial(
                params={"lr": lr, "optim": ("sgd", "adam")[number % 2]},
                distributions=DISTRIBUTIONS,
                value=(lr - 0.3) ** 2,
                intermediate_values={1: lr, 2: (lr - 0.3) ** 2},
                user_attrs={"worker": "w0"},
            )
        )
    made.add_trial(optuna.create_trial(state=TrialState.FAIL, user_attrs={"reason": "ValueError: no"}))
    return made


def test_every_plot_is_on_the_page_once_with_its_script(study: optuna.Study) -> None:
    page = plots.page(study, "val_loss")
    assert page.count("<h2>") == 5
    assert "<title>&lt;sweep&gt;</title>" in page
    assert "<script src=" not in page
    assert page.count("plotly.js v") == 1, "plotly.js is in it once"


def test_a_study_without_a_trial_has_a_page_too() -> None:
    assert plots.page(optuna.create_study(), "val_loss").count("<h2>") == 5


def test_the_best_come_first(study: optuna.Study) -> None:
    ranked = plots._best(study.get_trials(deepcopy=False), study.direction)
    values = [trial.value for trial in ranked[:-1] if trial.value is not None]
    assert values == sorted(values)
    assert len(values) == 12
    assert ranked[-1].state == TrialState.FAIL


def test_the_table(study: optuna.Study) -> None:
    header, rows = plots.table(study, "val_loss")
    assert header == ["trial", "state", "val_loss", "steps", "seconds", "lr", "optim", "reason", "worker"]
    assert rows[3][:4] == [3, "complete", (3 / 12 - 0.3) ** 2, 2]
    assert rows[12][1:3] == ["fail", None]
    read = list(csv.reader(io.StringIO(plots.as_csv(header, rows))))
    assert read[0] == header
    assert len(read) == 14
    assert float(read[4][2]) == (3 / 12 - 0.3) ** 2


def test_mlflows_table_is_json_whatever_the_numbers() -> None:
    text = plots.as_mlflow_table(["a"], [[math.nan], [math.inf], [1.5], [None]])
    assert json.loads(text, parse_constant=pytest.fail) == {"columns": ["a"], "data": [["nan"], ["inf"], [1.5], [None]]}
