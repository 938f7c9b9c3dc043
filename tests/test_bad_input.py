"""Every bad input: exit code 2, one sentence with the key, the value and what is allowed, and nothing started."""

from __future__ import annotations

from pathlib import Path

import pytest

from swathe import cli

MINE = """
defaults: [/model: mlp, /data: digits, /optim: adamw, _self_]
sweep:
  space:
    optim: choice(sgd, adam)
    optim.lr: tag(log, interval(1e-4, 1))
"""
FUNCTION = "trainable: {}\nsweep: {{metric: loss}}\n"
CSV = "defaults: [/data: csv, _self_]\ndata: {path: table.csv, target: y}\n"

# What a sweep's file says (None: the good one), the words of the command line, and what the sentence must hold.
CASES: dict[str, tuple[str | None, list[str], list[str]]] = {
    "unknown key": (
        None,
        ["launch", "mine.yaml", "optim.learning_rate=1"],
        ["optim.learning_rate", "no such key", "lr"],
    ),
    "unknown key in the file": (
        MINE + "  trails: 3\n",
        ["launch", "mine.yaml"],
        ["mine.yaml", "sweep.trails", "trials"],
    ),
    "unknown key in the space": (
        MINE + "    model.nrm: choice(none, batch)\n",
        ["launch", "mine.yaml"],
        ["mine.yaml", "model.nrm", "no such key", "norm"],
    ),
    "bad grammar": (None, ["launch", "mine.yaml", "optim.lr=interval(0"], ["optim.lr=interval(0", "grammar"]),
    "bad YAML": ("sweep: [", ["launch", "mine.yaml"], ["mine.yaml", "line 1"]),
    "empty interval": (None, ["launch", "mine.yaml", "optim.lr=interval(1,1)"], ["optim.lr", "interval(1,1)", "below"]),
    "log of 0": (None, ["launch", "mine.yaml", "optim.lr=tag(log,interval(0,1))"], ["optim.lr", "above 0"]),
    "value out of range": (
        None,
        ["launch", "mine.yaml", "regularization.dropout=interval(0,2)"],
        ["regularization.dropout", "2"],
    ),
    "condition on a missing parameter": (
        MINE + "  when: {schedule=step: {schedule.gamma: 'interval(0.1, 0.9)'}}\n",
        ["launch", "mine.yaml"],
        ["sweep.when", "schedule=step", "optim"],
    ),
    "condition on a missing choice": (
        MINE + "  when: {optim=momentum: {optim.momentum: 'interval(0.1, 0.9)'}}\n",
        ["launch", "mine.yaml"],
        ["optim", "'momentum'", "sgd, adam"],
    ),
    "unknown sweep": (None, ["launch", "minne"], ["SWEEP", "'minne'", "quickstart"]),
    "missing file": (None, ["launch", "no/mine.yaml"], ["SWEEP", "'no/mine.yaml'", "existing YAML file"]),
    "unknown optimiser": (None, ["launch", "mine.yaml", "optim=lion"], ["optim", "'lion'", "adamw"]),
    "unknown sampler": (None, ["launch", "mine.yaml", "sampler=bayes"], ["sampler", "'bayes'", "tpe"]),
    "unknown pruner": (None, ["launch", "mine.yaml", "pruner=best"], ["pruner", "'best'", "asha"]),
    "bad pruner option": (
        None,
        ["launch", "mine.yaml", "pruner.reduction_factor=1"],
        ["pruner.reduction_factor", "1 is not allowed"],
    ),
    "bad sampler option": (
        None,
        ["launch", "mine.yaml", "sampler.n_startup_trials=-1"],
        ["sampler.n_startup_trials", "-1 is not allowed"],
    ),
    "wrong type": (None, ["launch", "mine.yaml", "epochs=many"], ["epochs", "'many'", "an integer"]),
    "grid over an interval": (None, ["launch", "mine.yaml", "sampler=grid"], ["optim.lr", "grid"]),
    "missing data": (None, ["launch", "mine.yaml", "data=mnist", "data.folder=none"], ["data", "none"]),
    "missing CSV file": (CSV, ["launch", "mine.yaml"], ["data.path", "table.csv"]),
    "bad storage URL": (None, ["launch", "mine.yaml", "sweep.storage=postgres"], ["sweep.storage", "postgresql://"]),
    "unreachable storage": (
        None,
        ["launch", "mine.yaml", "sweep.storage=postgresql://me:secret@127.0.0.1:9/x"],
        ["sweep.storage", "127.0.0.1"],
    ),
    "bad tracking URI": (None, ["launch", "mine.yaml", "tracking.uri=ftp://x"], ["tracking.uri", "'ftp://x'"]),
    "bad sweep name": (None, ["launch", "mine.yaml", "sweep.name=../x"], ["sweep.name", "'../x'", "letters"]),
    "bad cluster address": (
        None,
        ["launch", "mine.yaml", "cluster.address=127.0.0.1:9", "sweep.trials=1"],
        ["cluster.address", "127.0.0.1:9"],
    ),
    "missing module": (FUNCTION.format("nothing_here:train"), ["launch", "mine.yaml"], ["trainable", "nothing_here"]),
    "missing function": (FUNCTION.format("json:train"), ["launch", "mine.yaml"], ["trainable", "'train'", "dumps"]),
    "no function": (FUNCTION.format("json"), ["launch", "mine.yaml"], ["trainable", "'json'", "module:function"]),
    "status of what is not there": (None, ["status", "mine"], ["'mine'", "none yet"]),
    "reproduce what is not there": (None, ["reproduce", "mine"], ["'mine'", "none yet"]),
    "compare what is not there": (None, ["compare", "mine"], ["'mine'", "none yet"]),
    "diagnose what is not there": (None, ["diagnose", "mine"], ["'mine'", "none yet"]),
    "unknown threshold": (
        None,
        ["launch", "mine.yaml", "diagnosis.widow=9"],
        ["diagnosis.widow", "no such key", "window"],
    ),
    "bad threshold": (None, ["launch", "mine.yaml", "diagnosis.window=3"], ["diagnosis.window", "3 is", "at least 6"]),
    "threshold of another type": (
        MINE + "diagnosis: {flat: little}\n",
        ["launch", "mine.yaml"],
        ["diagnosis.flat", "'little'", "a number"],
    ),
    "diagnosis that is no mapping": (None, ["launch", "mine.yaml", "diagnosis=no"], ["diagnosis", "enabled"]),
    "train with a search": (None, ["train", "optim.lr=interval(0,1)"], ["optim.lr", "interval(0,1)", "launch"]),
    "train with a bad value": (None, ["train", "optim.lr=-1"], ["optim.lr", "-1", "above 0"]),
    "train from a missing file": (None, ["train", "--from", "best.yaml"], ["--from", "best.yaml"]),
    "unknown option": (None, ["launch", "mine.yaml", "--fast"], ["--fast"]),
    "unknown command": (None, ["lunch"], ["lunch"]),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_refused_in_one_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, words, expected = CASES[name]
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(MINE if file is None else file)
    assert cli.run(words) == cli.EXIT_BAD_INPUT
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert "secret" not in said
    assert said.startswith("swathe: ")
    assert said.count("\n") == 1, said
    for word in expected:
        assert word in said
    assert not (tmp_path / ".swathe" / "sweeps").exists()


def test_a_home_that_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    monkeypatch.setenv("SWATHE_HOME", str(tmp_path / "file" / "home"))
    assert cli.run(["launch", "quickstart"]) == cli.EXIT_BAD_INPUT
    said = capsys.readouterr().err
    assert "SWATHE_HOME" in said
    assert said.count("\n") == 1
