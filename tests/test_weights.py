"""Where the weights of a transfer come from, and that a sweep's trials keep those that it began with."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from swathe import cli, standalone
from swathe.config import compose_sweep
from swathe.errors import BadInputError
from swathe.home import Home, open_home
from swathe.mlflow_runs import connect
from swathe.runtime import Plan, prepare
from swathe.space import Space
from swathe.training.models import build
from swathe.training.recipe import MLP, recipe_from_config
from swathe.weights import with_weights

SWEEP: dict[str, Any] = {
    "defaults": ["/transfer: fine_tune", "_self_"],
    "model": {"hidden": [8, 8]},
    "sweep": {"name": "tuned", "trials": 4, "space": {"transfer.freeze": "range(0, 3)"}},
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("SWATHE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return open_home(create=True)


def saved(path: Path, hidden: tuple[int, ...] = (8, 8), seed: int = 0) -> str:
    """Save a network's state; return the digest of the file."""
    network = build(MLP(hidden=list(hidden)), 64, 5, None, 0.0, torch.Generator().manual_seed(seed))
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def plan_of(home: Home, *overrides: str, **changed: Any) -> Plan:
    body = {**SWEEP, **changed, "defaults": [{"/transfer": "fine_tune"}, "_self_"]}
    Path("tuned.yaml").write_text(yaml.safe_dump(body))
    composed = compose_sweep("tuned.yaml", overrides)
    return prepare(composed, Space.parse(composed), home, "swathe launch tuned.yaml")


def transfers(plan: Plan) -> list[dict[str, Any]]:
    return [plan.composer.trial_config({"transfer.freeze": freeze})["transfer"] for freeze in (0, 2)]


def test_the_trials_know_the_digest_of_a_file_which_is_kept(home: Home, tmp_path: Path) -> None:
    digest = saved(tmp_path / "w.pt")
    plan = with_weights(plan_of(home, "transfer.weights=w.pt"), home)
    assert [(one["weights"], one["sha256"]) for one in transfers(plan)] == [("w.pt", digest)] * 2
    kept = home.path / "weights" / f"{digest}.pt"
    assert kept.read_bytes() == (tmp_path / "w.pt").read_bytes()


def test_a_sweep_s_name_is_its_best_model(home: Home) -> None:
    other = home.sweep("before")
    with pytest.raises(BadInputError, match=r"'before' is not allowed; .*launch it first: swathe launch before"):
        with_weights(plan_of(home, "transfer.weights=before"), home)
    own = plan_of(home, "transfer.weights=before")
    other.write_card(replace(own.card, name="before"))
    with pytest.raises(BadInputError, match="the sweep 'before' has kept no model yet"):
        with_weights(own, home)
    digest = saved(other.best_model)
    assert transfers(with_weights(own, home))[0]["sha256"] == digest


def test_a_sweep_goes_on_with_the_weights_that_it_began_with(home: Home, tmp_path: Path) -> None:
    first = saved(tmp_path / "w.pt")
    plan = plan_of(home, "transfer.weights=w.pt")
    with_weights(plan, home)
    # Nothing has begun yet.
    second = saved(tmp_path / "w.pt", seed=1)
    with_weights(plan, home)
    plan.folder.write_card(plan.card)
    assert transfers(with_weights(plan, home))[0]["sha256"] == second
    saved(tmp_path / "w.pt", seed=2)
    with pytest.raises(BadInputError, match=f"has changed since this sweep began: .*; allowed: {second}, or another"):
        with_weights(plan, home)
    assert first != second


def test_weights_of_another_network_are_refused_before_anything_starts(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path / "w.pt", hidden=(9, 8))
    plan_of(home)
    assert cli.run(["launch", "tuned.yaml", "transfer.weights=w.pt"]) == 2
    said = capsys.readouterr().err
    assert "'w.pt' does not fit: linear1.weight has the shape [9, 64] there and the shape [8, 64] in this" in said
    assert "Traceback" not in said
    assert not home.sweeps()


def test_weights_can_be_searched(home: Home, tmp_path: Path) -> None:
    digests = {f"{name}.pt": saved(tmp_path / f"{name}.pt", seed=seed) for seed, name in enumerate("ab")}
    space = {"transfer.weights": "choice(a.pt, b.pt)", "transfer.freeze": "range(0, 3)"}
    plan = with_weights(plan_of(home, sweep={**SWEEP["sweep"], "space": space}), home)
    for name, digest in digests.items():
        found = plan.composer.trial_config({"transfer.weights": name, "transfer.freeze": 1})["transfer"]
        assert (found["weights"], found["sha256"]) == (name, digest)


def test_a_plan_without_transfer_stays_as_it_is(home: Home) -> None:
    plan = plan_of(home, "transfer=none", sweep={"name": "plain", "space": {"optim.lr": "interval(0.001, 1)"}})
    assert with_weights(plan, home) is plan
    assert not (home.path / "weights").exists()


def test_a_single_run_knows_its_digest_and_takes_other_weights_when_told(home: Home, tmp_path: Path) -> None:
    words = ("model.hidden=[8,8]", "transfer=fine_tune", "transfer.freeze=1")
    first, second = saved(tmp_path / "a.pt"), saved(tmp_path / "b.pt", seed=1)
    config, _ = standalone.load(None, (*words, "transfer.weights=a.pt"))
    assert config["transfer"]["sha256"] == first
    recorded = tmp_path / "best.yaml"
    recorded.write_text(yaml.safe_dump(config))
    (tmp_path / "a.pt").unlink()
    again, _ = standalone.load(recorded, ("epochs=1",))
    assert again["transfer"] == config["transfer"]
    other, _ = standalone.load(recorded, ("transfer.weights=b.pt",))
    assert other["transfer"]["sha256"] == second
    without, _ = standalone.load(recorded, ("transfer=none",))
    assert recipe_from_config(without).transfer.name == "none"


@pytest.mark.slow
def test_a_champion_is_fine_tuned_and_the_result_reproduced(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a sweep's name, from MLflow's registry and from a run of MLflow: the same weights, bit for bit."""
    small = ["model.hidden=[16]", "data.limit=200", "epochs=2", "cluster=inline", "sampler=random", "pruner=none"]
    # Of quickstart's space, the learning rate alone is left.
    fixed = [*small, "optim=adam", "batch_size=32", "model.norm=none", "regularization.dropout=0", "sweep.trials=2"]
    assert cli.run(["launch", "quickstart", "-q", "sweep.name=donor", *fixed]) == 0
    best = hashlib.sha256(home.sweep("donor").best_model.read_bytes()).hexdigest()
    capsys.readouterr()
    run = connect(home.tracking_uri).get_model_version("donor", "1").run_id
    for index, weights in enumerate(("donor", "models:/donor@champion", "models:/donor/1", f"runs:/{run}/champion")):
        name = f"tuned{index}"
        words = [f"sweep.name={name}", "transfer=fine_tune", f"transfer.weights={weights}", "transfer.freeze=1"]
        assert cli.run(["launch", "quickstart", "-q", *fixed, "data.classes=[5,6,7]", *words]) == 0
        capsys.readouterr()
        assert cli.run(["best", name, "--out", f"{name}.yaml"]) == 0
        config = yaml.safe_load(Path(f"{name}.yaml").read_text())
        assert (config["transfer"]["weights"], config["transfer"]["sha256"]) == (weights, best)
    assert cli.run(["reproduce", "tuned0"]) == 0
    torch.save({}, home.path / "weights" / f"{best}.pt")
    capsys.readouterr()
    assert cli.run(["reproduce", "tuned0"]) != 0
    assert "has changed: its SHA-256 is" in capsys.readouterr().err


def test_a_sweep_from_before_there_was_any_transfer_goes_on(home: Home) -> None:
    composed = compose_sweep("quickstart", ())
    data = {key: value for key, value in composed.values["data"].items() if key != "classes"}
    older = {key: value for key, value in composed.values.items() if key not in ("transfer", "augmentation")}
    assert replace(composed, values={**older, "data": data}).identity == composed.identity
    assert compose_sweep("quickstart", ("transfer=fine_tune",)).identity != composed.identity
