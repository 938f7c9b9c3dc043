"""Composing: what a sweep's file, conf/ and the command line become, and what is refused."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from swathe.config import compose_run, compose_sweep, group_options, override_values, sweep_names
from swathe.diagnosis import Rule, rule_of
from swathe.errors import BadInputError
from swathe.training.diagnose import Thresholds

SMALL = """
defaults: [/model: mlp, /data: digits, /optim: adamw, _self_]
optim: {lr: 0.003}
sweep:
  trials: 7
  space:
    optim.lr: tag(log, interval(1e-4, 1))
    optim: choice(sgd, momentum, adamw)
  when:
    optim=momentum: {optim.momentum: "interval(0.5, 0.99)"}
"""


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SMALL)
    return "small.yaml"


def test_a_file_is_composed_with_what_it_does_not_name(sweep: str) -> None:
    composed = compose_sweep(sweep, ())
    assert composed.name == "small"
    assert composed.values["optim"] == {"name": "adamw", "lr": 0.003, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
    assert composed.values["schedule"]["name"] == "constant"
    assert composed.sampler["name"] == "tpe"
    assert composed.pruner["name"] == "asha"
    assert composed.cluster.kind == "ray"
    assert composed.sweep.trials == 7
    assert "trainable" not in composed.values


def test_every_ready_sweep_composes() -> None:
    assert {"quickstart", "quickstart_fashion", "optimizers"} <= set(sweep_names())
    for name in sweep_names():
        assert compose_sweep(name, ()).space


def test_every_option_of_conf_composes(sweep: str) -> None:
    for group, options in group_options().items():
        for option in options:
            values = compose_sweep(sweep, ([f"{group}={option}"] if group != "optim" else ["optim=adam"])).values
            assert values[group]


def test_the_command_line_adds_to_the_space_and_fixes(sweep: str) -> None:
    composed = compose_sweep(sweep, ["batch_size=32,64", "optim.lr=0.01"])
    assert composed.space == {"optim": "choice(sgd, momentum, adamw)", "batch_size": "32,64"}
    assert composed.values["optim"]["lr"] == 0.01
    assert composed.fixed == {"optim.lr": 0.01}


def test_the_command_line_changes_what_is_conditional(sweep: str) -> None:
    composed = compose_sweep(sweep, ["optim.momentum=interval(0.8,0.9)"])
    assert composed.when == {"optim=momentum": {"optim.momentum": "interval(0.8,0.9)"}}
    assert "optim.momentum" not in composed.space
    assert compose_sweep(sweep, ["optim=momentum", "optim.momentum=0.7"]).when == {"optim=momentum": {}}


def test_the_budget_is_no_part_of_the_identity(sweep: str) -> None:
    first = compose_sweep(sweep, ())
    same = compose_sweep(sweep, ["sweep.trials=70", "cluster.workers=1", "cost.per_device_hour=2"])
    assert same.identity == first.identity
    for other in ("epochs=3", "optim.lr=0.1", "sampler=random", "sweep.seed=1", "diagnosis.stop=false"):
        assert compose_sweep(sweep, [other]).identity != first.identity


def test_every_threshold_of_the_diagnosis_can_be_set(sweep: str) -> None:
    options = compose_sweep(sweep, ()).values["diagnosis"]
    assert options == {"enabled": True, "stop": True, "layers": "ends", **asdict(Thresholds())}
    changed = compose_sweep(sweep, ["diagnosis.window=60", "diagnosis.flat=1", "diagnosis.stop=false"])
    assert rule_of(changed.values["diagnosis"]) == Rule(Thresholds(window=60, flat=1.0), stop=False)


def test_a_swapped_group_leaves_the_files_options_behind(sweep: str) -> None:
    assert compose_sweep(sweep, ["optim=sgd"]).values["optim"] == {"name": "sgd", "lr": 0.1}
    assert compose_sweep(sweep, ["optim=adamw"]).values["optim"]["lr"] == 0.003
    assert compose_sweep("quickstart", ["pruner=median"]).pruner["name"] == "median"


def test_a_group_s_option_may_be_plain_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    listed = "defaults: [/data: wine, /sampler: gp, /pruner: none, _self_]\n"
    rest = "sweep: {name: s, space: {optim.lr: 'interval(0.1, 1)'}}\n"
    (tmp_path / "listed.yaml").write_text(listed + rest)
    (tmp_path / "text.yaml").write_text("data: wine\nsampler: gp\npruner: none\n" + rest)
    (tmp_path / "both.yaml").write_text("defaults: [/sampler: gp, _self_]\ndata: wine\npruner: none\n" + rest)
    listed_so, *others = (compose_sweep(f"{name}.yaml", ()).values for name in ("listed", "text", "both"))
    assert others == [listed_so, listed_so]
    assert compose_sweep("text.yaml", ["sampler=random"]).sampler["name"] == "random"


def test_a_function_has_parameters_and_no_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(
        "trainable: my:train\nparams: {x: 1}\nsweep: {space: {params.x: 'interval(0, 1)'}}\n"
    )
    values = compose_sweep("mine.yaml", ()).values
    assert values["params"] == {"x": 1}
    assert "model" not in values


def test_a_sweep_can_build_on_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("defaults: [quickstart, _self_]\nsweep: {trials: 3}\n")
    composed = compose_sweep("mine.yaml", ())
    assert composed.sweep.trials == 3
    assert composed.values["data"]["name"] == "digits"
    assert "optim.lr" in composed.space


def test_the_working_folders_groups_come_first(sweep: str, tmp_path: Path) -> None:
    (tmp_path / "conf" / "optim").mkdir(parents=True)
    (tmp_path / "conf" / "optim" / "slow.yaml").write_text("defaults: [adamw_schema, _self_]\nlr: 1e-5\n")
    assert compose_sweep(sweep, ["optim=slow"]).values["optim"]["name"] == "adamw"
    assert "slow" in group_options()["optim"]


def test_a_run_is_composed_without_the_sweeps_parts() -> None:
    config = compose_run(["optim=sgd", "optim.lr=0.5", "epochs=3"])
    assert config["optim"] == {"name": "sgd", "lr": 0.5}
    assert not {"sweep", "cluster", "tracking", "sampler", "pruner"} & set(config)


def test_a_recorded_config_comes_back_as_it_was_and_takes_overrides() -> None:
    recorded = compose_run(["optim=momentum", "optim.momentum=0.7", "model.norm=batch", "seed=5"])
    assert override_values(recorded, ()) == recorded
    assert override_values(recorded, ["epochs=2"]) == {**recorded, "epochs": 2}
    swapped = override_values(recorded, ["optim=sgd"])
    assert swapped["optim"] == {"name": "sgd", "lr": 0.1}
    assert swapped["seed"] == 5


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["optim.lrr=1"], ["optim.lrr", "no such key", "lr"]),
        (["foo=1"], ["foo", "no such key", "batch_size"]),
        (["foo"], ["'foo'", "KEY=VALUE"]),
        (["optim=adamx"], ["optim", "'adamx'", "adam, adamw"]),
        (["optim.lr=fast"], ["optim.lr", "'fast'", "a number"]),
        (["epochs=1.5"], ["epochs", "'1.5'", "an integer"]),
        (["batch_size=1.5"], ["batch_size", "'1.5'", "int, str"]),
        (["sweep.trials=0"], ["sweep.trials", "0 is not allowed", "1 or more"]),
        (["sweep.direction=up"], ["sweep.direction", "'up'", "minimize, maximize"]),
        (["device=tpu"], ["device", "'tpu'", "auto, cpu, cuda"]),
        (["cluster.workers=0"], ["cluster.workers", "1 or more"]),
        (["+sweep.foo=1"], ["sweep.foo", "no such key", "trials"]),
        (["+cluster.foo=1"], ["cluster.foo", "no such key", "address"]),
        (["sweep.target=nan"], ["sweep.target", "finite"]),
        (["cluster.cpus_per_worker=1.5"], ["cluster.cpus_per_worker", "1.5", "whole CPUs"]),
        (["sampler=bayes"], ["sampler", "'bayes'", "tpe"]),
        (["pruner.reduction_factor=x"], ["pruner.reduction_factor", "'x'", "an integer"]),
        (["optim.lr=${nothing}"], ["nothing"]),
    ],
)
def test_bad_overrides_are_refused_in_one_sentence(sweep: str, overrides: list[str], words: list[str]) -> None:
    with pytest.raises(BadInputError) as refused:
        compose_sweep(sweep, overrides)
    text = str(refused.value)
    assert "\n" not in text
    for word in words:
        assert word in text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", ["bad.yaml", "line 1"]),
        ("- 1\n", ["bad.yaml", "mapping"]),
        ("defaults: mlp\n", ["bad.yaml: defaults", "a list"]),
        ("defaults: [/optm: sgd]\n", ["bad.yaml", "optm", "optim"]),
        ("defaults: [/optim: sgdx]\n", ["optim", "'sgdx'", "sgd"]),
        ("paramz: 1\n", ["bad.yaml", "paramz", "no such key"]),
        ("optim: {beta3: 1}\n", ["bad.yaml", "optim.beta3", "beta1"]),
        ("sweep: {trials: many}\n", ["bad.yaml", "sweep.trials", "'many'", "an integer"]),
        ("sweep: {space: {optim.lr: 0.1}}\n", ["bad.yaml", "sweep.space.optim.lr", "a search"]),
        ("sweep: {space: 3}\n", ["bad.yaml", "sweep.space"]),
        ("a: 1\na: 2\n", ["bad.yaml", "line 2"]),
        ("sampler: bayes\n", ["bad.yaml: sampler", "'bayes'", "gp, ", "or a mapping"]),
        ("defaults: [/sampler: gp, _self_]\nsampler: tpe\n", ["bad.yaml: sampler", "'tpe'", "named once"]),
    ],
)
def test_bad_files_are_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(BadInputError) as refused:
        compose_sweep("bad.yaml", ())
    for word in words:
        assert word in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_sweep_that_builds_on_itself_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "a.yaml").write_text("defaults: [b, _self_]\n")
    (tmp_path / "sweeps" / "b.yaml").write_text("defaults: [a, _self_]\n")
    with pytest.raises(BadInputError, match="does not build on itself"):
        compose_sweep("a", ())


def test_a_folder_with_a_quote_in_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "it's" / "sweeps").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "it's")
    Path("sweeps/small.yaml").write_text(SMALL)
    assert compose_sweep("small", ()).sweep.trials == 7


def test_an_unknown_sweep_is_refused_with_those_there_are() -> None:
    with pytest.raises(BadInputError, match=r"'nothing' is not allowed; .*quickstart"):
        compose_sweep("nothing", ())
    with pytest.raises(BadInputError, match="an existing YAML file"):
        compose_sweep("no/such.yaml", ())


def test_a_search_outside_of_a_sweep_is_refused() -> None:
    with pytest.raises(
        BadInputError, match=r"optim\.lr: 'interval\(0,1\)' is not allowed; .*only `swathe launch` searches"
    ):
        compose_run(["optim.lr=interval(0,1)"])
