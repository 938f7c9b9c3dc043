"""One recipe trained alone: it learns, and its numbers depend on the recipe and nothing else."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from swathe.training import streams
from swathe.training.recipe import TIMING_METRICS, recipe_from_config
from swathe.training.solo import Solo
from swathe.training.streams import Stream

History = list[tuple[int, dict[str, float]]]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def solo(cache: Path, **config: Any) -> Solo:
    return Solo(recipe_from_config({"epochs": 3, "data": {"limit": 300}, **config}), "cpu", cache)


def history(run: Solo) -> History:
    """Return all reports without what no two runs have in common."""
    return [
        (epoch, {name: value for name, value in metrics.items() if name not in TIMING_METRICS})
        for epoch, metrics, _ in run.reports(lambda: False)
    ]


def test_digits_are_learnt(cache: Path) -> None:
    run = solo(cache, data={}, epochs=10)
    reports = list(run.reports(lambda: False))
    assert [epoch for epoch, _, _ in reports] == list(range(1, 11))
    _, metrics, seconds = reports[-1]
    assert [epoch for epoch, metrics, _ in reports if "first_loss" in metrics] == [1]
    assert metrics["val_accuracy"] > 0.95
    assert metrics["val_loss"] < 0.2
    assert set(metrics) == {
        "train_loss", "val_loss", "val_accuracy", "lr", "grad_norm", "grad_norm_max", "examples_per_second", "seconds",
        "peak_memory",
        "grad_norm_first", "grad_norm_last", "update_ratio", "dead_units", "generalization_gap",
    }  # fmt: skip
    assert metrics["generalization_gap"] == metrics["val_loss"] - metrics["train_loss"]
    assert metrics["seconds"] == pytest.approx(sum(spent for _, _, spent in reports))
    assert 0 < seconds < metrics["seconds"]


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"model": {"norm": "batch"}, "regularization": {"dropout": 0.3}},
        {"model": {"name": "cnn", "norm": "layer", "channels": [4]}, "regularization": {"dropout": 0.3}},
    ],
)
def test_a_run_has_the_same_bits_whatever_ran_before(cache: Path, config: dict[str, Any]) -> None:
    first = solo(cache, **config)
    numbers = history(first)
    torch.manual_seed(99)
    history(solo(cache, seed=5, batch_size=7, regularization={"dropout": 0.5}))
    again = solo(cache, **config)
    assert history(again) == numbers
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])


def test_two_runs_in_turn_do_not_disturb_each_other(cache: Path) -> None:
    config = {"regularization": {"dropout": 0.3}}
    alone = history(solo(cache, **config))
    one, other = solo(cache, **config).reports(lambda: False), solo(cache, **config, seed=1).reports(lambda: False)
    for (_, metrics, _), _, (_, expected) in zip(one, other, alone, strict=True):
        assert {name: metrics[name] for name in expected} == expected


def test_another_process_has_the_same_bits(cache: Path) -> None:
    code = (
        "import sys; from pathlib import Path; import torch; torch.set_num_threads(int(sys.argv[2]))\n"
        "from swathe.training.recipe import recipe_from_config; from swathe.training.solo import Solo\n"
        "run = Solo(recipe_from_config({'epochs': 3, 'data': {'limit': 300}}), 'cpu', Path(sys.argv[1]))\n"
        "print([metrics['val_loss'].hex() for _, metrics, _ in run.reports(lambda: False)])\n"
        "sys.exit(any(name in sys.modules for name in ('ray', 'optuna', 'mlflow', 'hydra', 'omegaconf')))"
    )
    arguments = [sys.executable, "-c", code, str(cache), str(torch.get_num_threads())]
    done = subprocess.run(arguments, env={"PYTHONPATH": ":".join(sys.path)}, capture_output=True, text=True)
    # The exit code says that neither Ray, Optuna, MLflow nor Hydra was imported.
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == str([metrics["val_loss"].hex() for _, metrics in history(solo(cache))])


def test_the_global_stream_is_not_touched(cache: Path) -> None:
    before = torch.random.get_rng_state()
    history(solo(cache, regularization={"dropout": 0.3}))
    assert torch.equal(before, torch.random.get_rng_state())


def test_seeds_give_different_runs(cache: Path) -> None:
    assert history(solo(cache, seed=0)) != history(solo(cache, seed=1))


def test_one_step_by_hand(cache: Path) -> None:
    run = solo(cache, batch_size="full", epochs=1, optim={"name": "sgd", "lr": 0.5})
    data, before = run.dataset, run.state_dict()
    weights = {name: value.clone().requires_grad_() for name, value in before.items()}
    outputs = torch.func.functional_call(run.network, weights, (data.train_x,))
    loss = torch.nn.functional.cross_entropy(outputs, data.train_y)
    gradients = torch.autograd.grad(loss, list(weights.values()))
    ((_, metrics),) = history(run)
    assert metrics["train_loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert metrics["lr"] == 0.5
    norm = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients))
    assert metrics["grad_norm"] == metrics["grad_norm_max"] == pytest.approx(norm, rel=1e-5)
    for (name, value), gradient in zip(weights.items(), gradients, strict=True):
        torch.testing.assert_close(run.state_dict()[name], value.detach() - 0.5 * gradient, rtol=1e-4, atol=1e-6)


def test_validation_is_of_the_whole_part_in_evaluation_mode(cache: Path) -> None:
    run = solo(cache, model={"norm": "batch"}, regularization={"dropout": 0.3}, epochs=1)
    ((_, metrics),) = history(run)
    with torch.no_grad():
        outputs = run.network.eval()(run.dataset.val_x)
    loss = torch.nn.functional.cross_entropy(outputs, run.dataset.val_y)
    assert metrics["val_loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert metrics["val_accuracy"] == (outputs.argmax(1) == run.dataset.val_y).double().mean().item()


@pytest.mark.parametrize(("steps", "reports"), [(3, []), (300 + 3, [1]), (2 * 300, [1, 2])])
def test_a_run_that_is_told_to_stop_ends_in_mid_epoch(
    cache: Path, monkeypatch: pytest.MonkeyPatch, steps: int, reports: list[int]
) -> None:
    # Asked before each of the 300 steps of an epoch.
    monkeypatch.setattr("swathe.training.solo.POLL_SECONDS", 0.0)
    answers = iter([False] * steps)
    run = solo(cache, batch_size=1, epochs=10)
    assert [epoch for epoch, _, _ in run.reports(lambda: next(answers, True))] == reports


def test_stopped_before_the_first_step_there_is_no_report(cache: Path) -> None:
    assert list(solo(cache).reports(lambda: True)) == []


def test_early_stopping_ends_a_run(cache: Path) -> None:
    run = solo(cache, optim={"name": "sgd", "lr": 1e-6}, regularization={"patience": 2, "min_delta": 1.0}, epochs=50)
    assert [epoch for epoch, _ in history(run)] == [1, 2, 3]


def test_a_run_that_diverges_reports_it_and_ends(cache: Path) -> None:
    config = {"optim": {"name": "sgd", "lr": 1e30}, "batch_size": 1}
    ((epoch, metrics),) = history(solo(cache, **config))
    assert epoch == 1
    assert math.isnan(metrics["val_loss"])
    assert math.isnan(metrics["val_accuracy"])
    assert not math.isfinite(metrics["train_loss"])
    ((_, again),) = history(solo(cache, **config))
    assert {name: repr(value) for name, value in again.items()} == {
        name: repr(value) for name, value in metrics.items()
    }


def test_a_regression_is_learnt(cache: Path, tmp_path: Path) -> None:
    rows = [(x / 50 - 1, (x * 7 % 100) / 50 - 1) for x in range(100)]
    (tmp_path / "t.csv").write_text("a,b,y\n" + "".join(f"{a},{b},{2 * a - b + 3}\n" for a, b in rows))
    data = {"name": "csv", "path": str(tmp_path / "t.csv"), "target": "y", "task": "regression"}
    run = solo(cache, data=data, model={"hidden": []}, optim={"name": "sgd", "lr": 0.1}, batch_size=20, epochs=60)
    *_, (_, metrics) = history(run)
    assert "val_accuracy" not in metrics
    assert metrics["val_loss"] < 1e-6


def test_the_rate_of_the_last_step_is_reported(cache: Path) -> None:
    run = solo(cache, schedule={"name": "step", "every_epochs": 1, "gamma": 0.5}, optim={"lr": 0.01}, batch_size=100)
    assert [metrics["lr"] for _, metrics in history(run)] == [0.01, 0.005, 0.0025]


def test_splitmix64_is_the_published_one() -> None:
    # The first outputs for the state 1234567, as in Rosetta Code's reference run.
    state, outputs = 1234567, []
    for _ in range(3):
        outputs.append(streams.splitmix64(state))
        state = (state + 0x9E3779B97F4A7C15) % 2**64
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_streams_differ_in_every_coordinate() -> None:
    places = [
        (seed, stream, epoch, step)
        for seed in (0, 1, 2**63 - 1)
        for stream in Stream
        for epoch in range(5)
        for step in range(20)
    ]
    assert len({streams.stream_seed(*place) for place in places}) == len(places)
