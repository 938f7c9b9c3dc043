"""Lightning's and Hugging Face's trainers as trials: real training, stopped, ended in the middle, and gone on with."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest

from swathe import checkpoints
from swathe.errors import SwatheError
from swathe.events import Decision, Direction, Failed, Finished, Report, Reported
from swathe.function import TrialInfo
from swathe.worker import Emitted, InlineChannel, Job, WorkerSetup, prepare, run_one_by_one
from tests.integration import swathes
from tests.integration.test_launch import client_of, runs_of

LIGHTNING = {"epochs": 5, "batch_size": 256, "hidden": 16, "dropout": 0.5, "lr": 0.01}
HUGGING_FACE = {"epochs": 5, "width": 8, "dropout": 0.2, "lr": 0.003}
BOTH = pytest.mark.parametrize(("name", "params"), [("lightning", LIGHTNING), ("hugging_face", HUGGING_FACE)])


class Run:
    """One attempt at a trial in this process, which is told to stop, to be suspended, or dies at a step."""

    def __init__(
        self,
        name: str,
        params: dict[str, Any],
        folder: Path,
        module: str = "tests.integrations.trials",
        seed: int = 5,
        **ends: int,
    ) -> None:
        self.events: list[Emitted] = []
        self._ends = ends
        setup = WorkerSetup(
            f"{module}:{name}",
            "val_loss" if "lightning" in name else "eval_loss",
            Direction.MINIMIZE,
            str(folder / "home"),
            (),
            "cpu",
            1,
            checkpoint_folder=str(folder / "trials"),
            checkpoint_seconds=1e-9,
        )
        prepare(setup)
        self._channel = InlineChannel("w", self._take)
        self._channel.put((Job(0, {"params": params, "seed": seed}),))
        run_one_by_one(setup, self._channel, "w")

    def _take(self, events: Sequence[Emitted]) -> None:
        self.events += events
        for event in events:
            if isinstance(event, Reported):
                step = event.reports[-1].step
                if step == self._ends.get("dies"):
                    raise RuntimeError("gone")
                stop, suspend = step == self._ends.get("stops"), step == self._ends.get("suspended")
                self._channel.put((Decision(0, step, stop=stop or suspend, suspend=suspend, decide_from=step + 1),))

    @property
    def reports(self) -> list[Report]:
        return [report for event in self.events if isinstance(event, Reported) for report in event.reports]

    @property
    def history(self) -> list[tuple[int, dict[str, float]]]:
        return [(report.step, dict(report.metrics)) for report in self.reports]


@BOTH
def test_a_trial_that_is_told_to_stop_stops(tmp_path: Path, name: str, params: dict[str, Any]) -> None:
    run = Run(name, params, tmp_path, stops=2)
    assert [step for step, _ in run.history] == [1, 2]
    assert isinstance(run.events[-1], Finished)
    names = {
        "lightning": {"train_loss", "val_loss", "val_accuracy"},
        "hugging_face": {"train_loss", "grad_norm", "eval_loss"},
    }
    assert set(run.history[0][1]) == names[name]


@cache
def undisturbed(name: str) -> Run:
    with TemporaryDirectory() as folder:
        return Run(name, LIGHTNING if name == "lightning" else HUGGING_FACE, Path(folder))


@BOTH
@pytest.mark.parametrize("end", ["suspended", "dies"])
def test_one_that_goes_on_has_the_numbers_of_one_that_was_never_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, params: dict[str, Any], end: str
) -> None:
    monkeypatch.setattr(checkpoints, "SHARE", 1e9)
    whole = undisturbed(name)
    assert [step for step, _ in whole.history] == [1, 2, 3, 4, 5]
    assert isinstance(whole.events[-1], Finished)
    first = Run(name, params, tmp_path, **{end: 3})
    assert isinstance(first.events[-1], Finished if end == "suspended" else Failed)
    again = Run(name, params, tmp_path)
    assert again.history == whole.history
    # Those up to its checkpoint are made again, and not trained.
    kept = 3 if end == "suspended" else 2
    assert [event.tags["swathe.resumed_from"] for event in again.events if "resumed_from" in str(event)] == [str(kept)]
    last, expected = again.events[-1], whole.events[-1]
    assert isinstance(last, Finished)
    assert isinstance(expected, Finished)
    assert last.model == expected.model


def test_within_epochs_the_step_is_the_global_step_and_either_package_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import pytorch_lightning

    import swathe
    from swathe.integrations.lightning import SwatheCallback
    from tests.integrations.trials import example

    reported: list[tuple[int, list[str]]] = []
    monkeypatch.setattr(swathe, "report", lambda values, step: reported.append((step, sorted(values))))
    # Nobody has asked for the path to go on from.
    monkeypatch.setattr(swathe, "checkpoint", lambda state: pytest.fail("it would not be used"))

    class Module(pytorch_lightning.LightningModule):
        training_step = example("lightning").Classifier.training_step
        validation_step = example("lightning").Classifier.validation_step
        configure_optimizers = example("lightning").Classifier.configure_optimizers

    module = Module()
    module.lr, module.net = 0.01, example("lightning").Classifier(8, 0.0, 0.01).net
    trainer = pytorch_lightning.Trainer(
        max_epochs=2, val_check_interval=3, callbacks=[SwatheCallback("val_accuracy")], accelerator="cpu",
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, *example("lightning").loaders(256))
    trainer.validate(module, example("lightning").loaders(256)[1])
    assert [step for step, _ in reported] == [3, 6, 9, 12]
    assert {"val_accuracy", "val_loss"} <= set(reported[0][1])


def test_what_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import swathe
    from swathe.integrations import lightning
    from swathe.integrations.processes import refuse_strange_processes

    with pytest.raises(SwatheError, match=r"metric: 'val_loss' is not allowed; allowed: what is logged, loss\."):
        lightning.SwatheCallback("val_loss")._report(SimpleNamespace(callback_metrics={"loss": 1.0}), 1)
    refuse_strange_processes("x", 2)
    monkeypatch.setattr(swathe, "trial", lambda: TrialInfo(0, 0, {}))
    with pytest.raises(SwatheError, match="x: 2 processes are not allowed; allowed: 1, as many as the trial has"):
        refuse_strange_processes("x", 2)


def test_swathe_imports_none_of_them() -> None:
    code = (
        "import sys, swathe, swathe.cluster, swathe.worker, swathe.function, swathe.integrations\n"
        "print([name for name in ('lightning', 'pytorch_lightning', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=swathes.environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_a_killed_worker_s_trials_go_on_with_the_numbers_of_trials_without_the_kill(tmp_path: Path) -> None:
    params = {**LIGHTNING, **HUGGING_FACE, "library": "lightning", "marker": str(tmp_path / "marker")}
    sweep = {
        "trainable": "tests.integrations.trials:dies_once",
        "params": params,
        "checkpoints": {"seconds": 1e-6},
        "sweep": {
            "name": "dies",
            "metric": "train_loss",
            "trials": 2,
            "space": {"params.library": "choice(lightning, hugging_face)"},
        },
        "defaults": [{"/sampler": "grid"}, {"/pruner": "none"}, "_self_"],
    }
    (tmp_path / "dies.yaml").write_text(json.dumps(sweep))
    swathes.succeed(tmp_path, "launch", "dies.yaml")
    assert len(list(tmp_path.glob("marker.*"))) == 2
    runs = runs_of(tmp_path, "dies")
    assert all(int(run.data.tags["swathe.resumed_from"]) in (1, 2, 3) for run in runs.values())
    client = client_of(tmp_path)
    for run in runs.values():
        whole = Run(run.data.params["params.library"], params, tmp_path / "whole", seed=int(run.data.params["seed"]))
        assert [step for step, _ in whole.history] == [1, 2, 3, 4, 5]
        for name in whole.history[0][1]:
            recorded = client.get_metric_history(run.info.run_id, name)
            assert [(one.step, one.value) for one in recorded] == [(step, all_[name]) for step, all_ in whole.history]
